"""Attention with scattered global positions, as a merge of dense and banded parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from .attention import _seed, attention
from .bias import Dense
from .checks import check_tensors
from .merge import merge
from .patterns import Band
from .patterns import dense as everything
from .sequences import _is_pair, spans


def global_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    pattern: Band,
    *,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    bias: Dense | None = None,
    scale: float | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Self-attention over ``pattern``, with global positions that see and are seen by all.

    Local rows attend to the union of what ``pattern`` keeps and the global keys, each key
    once. Global rows attend to every key, with projections of their own if ``global_qkv``
    is given (Longformer: Beltagy et al. 2020, arXiv:2004.05150, section 3.1, "Global
    Attention" and "Linear Projections for Global Attention").

    Args:
        q, k, v: As for :func:`pkernels.attention`, with Sq == Sk.
        positions: Integer positions, ``(G,)`` or ``(B, G)``, where -1 fills up; or a boolean
            mask ``(B, S)``. Positions past a row's length are left out. While torch traces,
            integers are needed: how many positions a mask holds is a look at its values.
        pattern: What local rows keep beside the global keys.
        global_qkv: q, k and v of the same shapes for the global rows.
        bias: Added to the scores of local and global rows alike; not beside ``offsets``.
        scale, lengths, dropout, seed, backend: As for :func:`pkernels.attention`.
        offsets: ``(n + 1,)``, packed sequences: q, k and v have batch size 1, and
            ``positions`` are rows of that batch.

    Returns:
        ``(B, H, S, Dv)``.

    Time and memory grow as those of ``pattern`` and with the number of global positions.
    Where these are the first of every sequence, no parts need to be merged; as that is seen
    from their values, ``window(..., globals=n)`` is the one to trace.

    Example:
        >>> q, k, v = (torch.randn(1, 2, 64, 8) for _ in range(3))
        >>> global_attention(q, k, v, torch.tensor([0, 40]), Band(4, 4)).shape
        torch.Size([1, 2, 64, 8])
    """
    check_tensors(q, k, v)
    size = q.shape[2]
    if k.shape[2] != size:
        raise ValueError(f"k: q's rows are wanted (self-attention), got q {tuple(q.shape)}, k {tuple(k.shape)}")
    if global_qkv is not None and [x.shape for x in global_qkv] != [x.shape for x in (q, k, v)]:
        raise ValueError(
            f"global_qkv: the shapes of q, k and v are allowed, got {[tuple(x.shape) for x in global_qkv]} "
            f"beside {[tuple(x.shape) for x in (q, k, v)]}"
        )
    spans(q, k, lengths, offsets)  # shapes and values are checked before anything reads them
    for name, given in (("lengths", lengths), ("offsets", offsets)):
        if _is_pair(given):
            raise ValueError(f"{name}: one tensor is allowed (self-attention), got a pair")
    if bias is not None and (not isinstance(bias, Dense) or offsets is not None):
        what = f"{type(bias).__name__}{'' if offsets is None else ' beside offsets'}"
        raise ValueError(f"bias: a Dense without offsets, or None, is allowed, got {what}")
    if bias is not None:
        limits = (q.shape[0], q.shape[1], size, size)
        found = (1,) * (4 - bias.values.dim()) + tuple(bias.values.shape)
        if any(n not in (1, limit) for n, limit in zip(found, limits, strict=True)):
            raise ValueError(f"bias: values that broadcast to {limits} are allowed, got {tuple(bias.values.shape)}")
    places = Globals.find(positions, (q.shape[0], size), q.device, lengths=lengths, offsets=offsets)
    gq, gk, gv = (q, k, v) if global_qkv is None else global_qkv
    options: dict[str, Any] = {"scale": scale, "dropout": dropout, "seed": seed, "backend": backend}
    return places.attend(q, k, v, pattern, (places.pick(gq, 2), gk, gv), bias, **options)


@dataclass(frozen=True)
class Globals:
    """Where the global positions of a batch are: found once, for all layers of a model.

    Args:
        index: ``(B, G)`` distinct rows of the batch; slots without a position hold any others.
        filled: ``(B, G)`` booleans: which slots hold a position.
        mask: Booleans of each sequence's positions, ``(B, S)``, or ``(n, longest)`` if packed.
        spans: "lengths" or "offsets", how ragged rows are told.
        every, chosen: Those of all rows (None: all are real), and of the global ones alone.
        leading: Known to be the first positions of every sequence.
    """

    index: Tensor
    filled: Tensor
    mask: Tensor
    spans: str
    every: Tensor | None
    chosen: Tensor
    leading: bool

    @classmethod
    def find(
        cls,
        positions: Tensor,
        shape: tuple[int, int],
        device: torch.device,
        *,
        lengths: object = None,
        offsets: object = None,
    ) -> Globals:
        """The positions of a ``(B, S)`` batch.

        Args:
            positions, lengths, offsets: As for :func:`global_attention`.

        Example:
            >>> found = Globals.find(torch.tensor([[5, 2], [0, -1]]), (2, 8), torch.device("cpu"))
            >>> found.index[0].tolist(), found.chosen.tolist(), found.leading
            ([2, 5], [2, 1], False)
        """
        mask, slots = locate(positions, shape, device)
        given = offsets if lengths is None else lengths
        every = None if given is None else torch.as_tensor(given).to(device, torch.int64)
        if every is not None:
            end = every[:, None] if offsets is None else every[-1]
            mask = mask & (torch.arange(shape[1], device=device) < end)
        index = torch.argsort(~mask, dim=1, stable=True)[:, :slots]
        filled = torch.arange(index.shape[1], device=device) < mask.sum(1, keepdim=True)
        if offsets is not None:
            mask = _by_sequence(mask[0], cast(Tensor, every))
        count = mask.sum(1)
        first = torch.arange(mask.shape[1], device=device) < count[:, None]
        leading = not torch.compiler.is_compiling() and torch.equal(mask, first)
        chosen = count if offsets is None else torch.nn.functional.pad(count.cumsum(0), (1, 0))
        return cls(index, filled, mask, "lengths" if offsets is None else "offsets", every, chosen, leading)

    def pick(self, x: Tensor, dim: int) -> Tensor:
        """The global rows of ``x (B, ...)``, which lie along ``dim``."""
        # Not by take_along_dim, which makes a constant of a length that is traced.
        batch, slots = self.index.shape
        index = self.index.view(batch, *[1] * (dim - 1), slots, *[1] * (x.dim() - dim - 1))
        index = index.expand(batch, *x.shape[1:dim], slots, *x.shape[dim + 1 :])
        return x.expand(batch, *x.shape[1:]).gather(dim, index)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: Band,
        global_qkv: tuple[Tensor, Tensor, Tensor],
        bias: Dense | None = None,
        *,
        dropout: float = 0.0,
        seed: int | Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """:func:`global_attention`, whose q of global rows is :meth:`pick`-ed before."""
        seeds = _seed(seed, q) + torch.arange(3, device=q.device)[:, None] if dropout > 0 else [None] * 3
        options["dropout"] = dropout
        far = self.pick(k, 2), self.pick(v, 2)
        local = self.attend_locally(q, k, v, pattern, far, bias, seeds=(seeds[0], seeds[1]), **options)
        return self.put(self.attend_from(*global_qkv, bias, seed=seeds[2], **options), local)

    def attend_from(self, q: Tensor, k: Tensor, v: Tensor, bias: Dense | None = None, **options: Any) -> Tensor:
        """Results ``(B, H, G, Dv)`` of the global rows: ``q`` is theirs, k and v are of all rows."""
        values = None if bias is None else _four(bias)
        added = None if values is None else Dense(values if values.shape[2] == 1 else self.pick(values, 2))
        spans = self._spans(self.chosen, self.every)
        return cast(Tensor, attention(q, k, v, everything, added, **spans, **options))

    def put(self, rows: Tensor, local: Tensor) -> Tensor:
        """``local (B, H, S, Dv)`` with the results of the global rows in their places."""
        # Slots without a position put back what is there.
        rows = torch.where(self.filled[:, None, :, None], rows, self.pick(local, 2))
        return local.scatter(2, self.index[:, None, :, None].expand_as(rows), rows)

    def attend_locally(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        pattern: Band,
        far: tuple[Tensor, Tensor],
        bias: Dense | None = None,
        *,
        seeds: tuple[Tensor | None, Tensor | None] = (None, None),
        **options: Any,
    ) -> Tensor:
        """Results of all rows, as if they were local; ``far`` are k and v of the global rows."""
        values, own = None if bias is None else _four(bias), self._spans(self.every, self.every)
        if self.leading:
            bias = None if values is None else Dense(values)
            return cast(Tensor, attention(q, k, v, self._with_columns(pattern), bias, seed=seeds[0], **own, **options))
        hidden = torch.zeros(self.mask.shape, dtype=q.dtype, device=q.device).masked_fill(self.mask, -torch.inf)
        hidden = hidden[:, None, None]
        bias = Dense(hidden if values is None else hidden + values)
        near = attention(q, k, v, pattern, bias, seed=seeds[0], return_lse=True, **own, **options)
        bias = None if values is None else Dense(values if values.shape[3] == 1 else self.pick(values, 3))
        chosen = self._spans(self.every, self.chosen)
        seen = attention(q, far[0], far[1], everything, bias, seed=seeds[1], return_lse=True, **chosen, **options)
        return merge(*zip(near, seen, strict=True))[0]

    def _spans(self, queries: Tensor | None, keys: Tensor | None) -> dict[str, Any]:
        return {self.spans: queries if queries is keys else (queries, keys)}

    def _with_columns(self, pattern: Band) -> Band:
        count, columns = self.mask.sum(1), pattern.columns
        if isinstance(columns, Tensor):
            return replace(pattern, columns=torch.maximum(columns.to(count.device), count))
        return replace(pattern, columns=count.clamp(min=columns))


def _four(bias: Dense) -> Tensor:
    """Its values with four dimensions."""
    return bias.values[(None,) * (4 - bias.values.dim())]


def locate(
    positions: Tensor, shape: tuple[int, int], device: torch.device, name: str = "positions"
) -> tuple[Tensor, int]:
    """A mask ``(B, S)`` of the positions, and how many a row has at most."""
    batch, size = shape
    if not isinstance(positions, Tensor):
        raise ValueError(f"{name}: a tensor is allowed, got {type(positions).__name__}")
    if positions.dtype == torch.bool:
        if positions.shape != (batch, size):
            raise ValueError(f"{name}: a mask of shape ({batch}, {size}) is allowed, got {tuple(positions.shape)}")
        return positions.to(device), int(positions.sum(-1).max()) if positions.numel() else 0
    if (
        positions.is_floating_point()
        or positions.dim() not in (1, 2)
        or (positions.dim() == 2 and positions.shape[0] != batch)
    ):
        raise ValueError(
            f"{name}: integers of shape (G,) or ({batch}, G), or a boolean mask, are allowed; got "
            f"{positions.dtype} of shape {tuple(positions.shape)}"
        )
    if not torch.compiler.is_compiling() and bool(((positions < -1) | (positions >= size)).any()):
        raise ValueError(f"{name}: -1 (none) to {size - 1} is allowed, got {positions.tolist()}")
    index = positions.to(device, torch.int64).expand(batch, -1)
    index = torch.where(index < 0, size, index)
    mask = torch.zeros(batch, size + 1, dtype=torch.bool, device=device)
    return mask.scatter(1, index, True)[:, :size], min(index.shape[1], size)


def _by_sequence(mask: Tensor, offsets: Tensor) -> Tensor:
    """``(total,)`` of packed rows -> ``(n, longest)``, a row for each sequence."""
    # What traces has no values to look at, and takes the longest there could be.
    longest = mask.shape[0] if torch.compiler.is_compiling() else max([0, *offsets.diff().tolist()])
    rows = offsets[:-1, None] + torch.arange(longest, device=mask.device)
    inside = rows < offsets[1:, None]
    return mask[rows.where(inside, 0)] & inside
