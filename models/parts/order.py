"""What a call of XLNet says about who sees whom, and the streams that come of it (Yang et al. 2019,
arXiv:1906.08237, section 2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...patterns import Band, dense
from .layouts import Whole
from .streams import InOrder, Ranked, Stream, Written


@dataclass
class Order:
    """What a call says about who sees whom.

    Args:
        perm_mask: ``(B, S, S)``, 1 where token i may not see token j.
        target_mapping: ``(B, P, S)``, a 1 where a row predicts a token; rows of 0 predict none.
        ranks: ``(B, S)`` and ``split``: as :class:`streams.Ranked` takes them.
    """

    perm_mask: Tensor | None = None
    target_mapping: Tensor | None = None
    ranks: Tensor | None = None
    split: int = 0

    @property
    def given(self) -> bool:
        return any(x is not None for x in (self.perm_mask, self.target_mapping, self.ranks))

    def rows(self, rows: slice) -> Order:
        """Of some rows of the batch."""
        some = [None if x is None else x[rows] for x in (self.perm_mask, self.target_mapping, self.ranks)]
        return Order(some[0], some[1], some[2], self.split)

    def check(self, batch: int, size: int) -> None:
        """Shapes, and that each row maps to one token at most."""
        if self.perm_mask is not None and self.ranks is not None:
            raise ValueError("perm_mask, ranks: one of them is allowed, got both")
        for name, x, want in (
            ("perm_mask", self.perm_mask, (batch, size, size)),
            ("ranks", self.ranks, (batch, size)),
        ):
            if x is not None and tuple(x.shape) != want:
                raise ValueError(f"{name}: shape {want} is allowed, got {tuple(x.shape)}")
        if self.split and (self.ranks is None or not 0 < self.split < size):
            raise ValueError(f"split: 0, or with ranks 1 to {size - 1} is allowed, got {self.split}")
        x = self.target_mapping
        if x is None:
            return
        if x.dim() != 3 or (x.shape[0], x.shape[2]) != (batch, size):
            raise ValueError(f"target_mapping: shape ({batch}, P, {size}) is allowed, got {tuple(x.shape)}")
        if not torch.compiler.is_compiling() and bool(((x != 0) & (x != 1)).any() | (x.sum(2) > 1).any()):
            raise ValueError("target_mapping: rows with a single 1, or of 0 alone, are allowed")
        if not torch.compiler.is_compiling() and bool((x.sum(1) > 1).any()):
            raise ValueError("target_mapping: a token is allowed in one row alone")

    def streams(self, where: Whole, before: int, pattern: Band) -> tuple[Stream, Stream | None]:
        """The content stream and, where words are predicted alone, the query stream, over ``before`` memories.
        What ``pattern`` leaves out no token sees."""
        size, batch = where.shape[1], where.shape[0]
        keys = before + size
        content: Stream = InOrder(where, pattern)
        blind = None if pattern == dense or not self.given else ~pattern.dense(size, keys, where.device)
        if self.ranks is not None:
            content = ranked = Ranked(self.ranks, split=self.split, memories=before)
            blind = None if self.target_mapping is None else F.pad(ranked.hidden(itself=True), (before, 0))
        elif self.perm_mask is not None:
            hidden = F.pad(self.perm_mask > 0, (before, 0))
            blind = hidden if blind is None else hidden | blind
            itself = F.pad(torch.eye(size, dtype=torch.bool, device=where.device), (before, 0))
            content = Written(blind & ~itself)
        if self.target_mapping is None:
            return content, None
        places = places_of(self.target_mapping)
        # A row that predicts nothing sees no memories either.
        hidden = (self.target_mapping.sum(2) == 0)[..., None].expand(-1, -1, keys)
        if blind is not None:
            blind = blind.expand(batch, size, keys)
            hidden = hidden | blind.gather(1, places[..., None].expand(-1, -1, keys))
        return content, Written(hidden, places)


def places_of(target_mapping: Tensor) -> Tensor:
    """The token of each row, ``(B, P)``; any for a row of 0."""
    return target_mapping.argmax(2)
