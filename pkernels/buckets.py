"""Attention within chunks of sorted rows: Reformer's two kinds of layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LAST_RESORT = -1e5
"""Score of a row against itself in Reformer: it counts where nothing else is seen."""


@dataclass(frozen=True, eq=False, repr=False)
class Buckets:
    """Rows sorted in rounds and cut into chunks; a chunk sees itself and its neighbours.

    The chunks of all rounds stand in one circle, one round after the other: the first chunk of
    a round has the last one of the round before as its neighbour. A pair that meets in several
    rounds counts as often, all within one softmax, which is what combining the rounds by their
    log-sum-exps gives. Queries and keys are the same rows (Sq == Sk).

    Args:
        order: ``(B or 1, H or 1, R, N)`` int32: in each of R rounds the rows in their order, a
            multiple of ``chunk`` entries, each row at most once; -1 stands for no row. A row
            that no round lists sees and is seen by none.
        chunk: Entries of a chunk.
        causal: Keep only keys at or before the query.
        before, after: Neighbouring chunks that are seen.
        own: What a row scores against itself in place of its product; None: the product.

    Kitaev et al. 2020 (Reformer, arXiv:2001.04451), section 2, "Causal masking for
    shared-QK attention" for ``own`` and "Multi-round LSH attention" for the rounds.

    Example:
        >>> Buckets(torch.tensor([[[[0, 2, 1, 3]]]], dtype=torch.int32), chunk=2, before=0)
        Buckets(1 round of 4, chunk=2, before=0)
        ■·■·
        ·■·■
        ■·■·
        ·■·■
    """

    order: Tensor
    chunk: int
    causal: bool = False
    before: int = 1
    after: int = 0
    own: float | None = None

    def __post_init__(self) -> None:
        order = self.order
        if order.dim() != 4 or order.dtype != torch.int32:
            raise ValueError(
                f"order: int32 of shape (B or 1, H or 1, R, N) is allowed, got {order.dtype} {tuple(order.shape)}"
            )
        for name, least in (("chunk", 1), ("before", 0), ("after", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < least:
                raise ValueError(f"{name}: an int of at least {least} is allowed, got {value!r}")
        if order.shape[3] % self.chunk:
            raise ValueError(
                f"order: a multiple of chunk = {self.chunk} entries a round is allowed, got {order.shape[3]}"
            )

    def on(self, device: torch.device) -> Buckets:
        """The same with ``order`` on a device."""
        if self.order.device == device:
            return self
        return Buckets(self.order.to(device), self.chunk, self.causal, self.before, self.after, self.own)

    def within(self, counts: Tensor) -> Buckets:
        """The same without the rows past ``counts`` ``(B,)``."""
        order = torch.where(self.order < counts.view(-1, 1, 1, 1), self.order, -1)
        return Buckets(order.to(torch.int32), self.chunk, self.causal, self.before, self.after, self.own)

    def multiplicity(self, batch: slice, sq: int, sk: int, device: torch.device) -> Tensor:
        """How often each pair of rows is kept, ``(B or 1, H or 1, sq, sk)``, for some batch rows."""
        order = self.order.to(device)
        order = (order[batch] if order.shape[0] > 1 else order).long()
        chunks = order.flatten(2).unflatten(2, (-1, self.chunk))
        found = torch.zeros(*order.shape[:2], (sq + 1) * (sk + 1), dtype=torch.int32, device=device)
        for shift in range(-self.before, self.after + 1):
            # Slot c of `seen` is chunk c + shift; row -1 goes to a place of its own.
            seen = chunks.roll(-shift, 2)
            queries, keys = chunks[..., :, None] + 1, seen[..., None, :] + 1
            pairs = (queries * (sk + 1) + keys).flatten(2)
            found.scatter_add_(2, pairs, torch.ones_like(pairs, dtype=torch.int32))
        found = found.view(*order.shape[:2], sq + 1, sk + 1)[:, :, 1:, 1:]
        return found.tril() if self.causal else found

    def dense(self, sq: int, sk: int, device: torch.device | str | None = None) -> Tensor:
        """The mask as booleans, ``(B or 1, H or 1, sq, sk)``."""
        return self.multiplicity(slice(None), sq, sk, torch.device(device or "cpu")) > 0

    def pairs(self, sq: int, sk: int) -> int:
        """How many pairs a head computes, on the average: the useful work; chunks are taken as full."""
        rounds, rows = self.order.shape[2:]
        seen = rounds * rows * self.chunk * (self.before + 1 + self.after)
        return seen // 2 if self.causal else seen

    def check(self, batch: int, heads: int, sq: int, sk: int) -> None:
        """Whether the order fits a call.

        Raises:
            ValueError: Naming what was given and what is allowed.
        """
        if sq != sk:
            raise ValueError(f"pattern: Buckets want as many queries as keys, got {sq} and {sk}")
        if self.order.shape[0] not in (1, batch) or self.order.shape[1] not in (1, heads):
            raise ValueError(
                f"order: {batch} or 1 batch rows and {heads} or 1 heads are allowed, got {tuple(self.order.shape[:2])}"
            )

    def check_values(self, rows: int) -> None:
        """Whether the order names rows that there are; looks at values.

        Raises:
            ValueError: Naming what was given and what is allowed.
        """
        if self.order.numel():
            low, high = (int(x) for x in torch.aminmax(self.order))
            if low < -1 or high >= rows:
                raise ValueError(f"order: rows from 0 to {rows - 1}, or -1, are allowed, got {low} to {high}")

    def __repr__(self) -> str:
        rounds, rows = self.order.shape[2:]
        shown = [f"{rounds} round{'s' * (rounds != 1)} of {rows}", f"chunk={self.chunk}"]
        for name, default in (("causal", False), ("before", 1), ("after", 0), ("own", None)):
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name)}")
        size = min(16, int(self.order.max()) + 1 if self.order.numel() else 0)
        whole = max(size, int(self.order.max()) + 1 if self.order.numel() else 0)
        mask = self.dense(whole, whole)[0, 0, :size, :size].tolist()
        return f"Buckets({', '.join(shown)})\n" + "\n".join("".join("■·"[not kept] for kept in row) for row in mask)


def numbers_of_rows(
    dout: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor, own: float | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """What a backward knows of each row, float32: its lse and its score against itself, see
    :func:`apart_from_own`, and delta; 0 where the row sees nothing."""
    dead = lse == -torch.inf
    delta = (dout.float() * out.float()).sum(-1)
    delta = (delta if dlse is None else delta - dlse).masked_fill(dead, 0)
    return *apart_from_own(lse.masked_fill(dead, 0), own), delta


def apart_from_own(lse: Tensor, own: float | None) -> tuple[Tensor, Tensor | None]:
    """The lse, and what each row scores against itself, moved to where they are exact: of a row
    that sees nothing but itself the lse is own + log(count), and its rounding would spoil the
    weights; but the count is a whole number, and can be told."""
    if own is None:
        return lse, None
    above = lse - own
    alone = (above < 5) & (own < -1000)
    count = torch.where(alone, above, 0).exp().round()
    return torch.where(alone, count.log(), lse), torch.where(alone, 0.0, own).to(torch.float32)
