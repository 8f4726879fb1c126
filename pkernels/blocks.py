"""Block-sparse patterns: which blocks of keys each block of queries sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Lists(NamedTuple):
    """For each head and block, the blocks it is paired with, rising, each once.

    Entry ``e`` of block ``i`` of head ``h`` lies at ``offsets[h, i] <= e < offsets[h, i + 1]``.

    Args:
        offsets: ``(L, M + 1)`` int32, L lists of M blocks: one per query head, or one for all.
        columns: ``(E,)`` int32.
        counts: ``(E,)`` int32, how often each is listed; at least 1.
    """

    offsets: Tensor
    columns: Tensor
    counts: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Blocks:
    """Per head and block of queries, a list of blocks of keys; one listed twice counts twice.

    Rows and columns are raw: query i lies in block ``i // size``, key j in ``j // size``,
    whatever the lengths. The last block of either side may be smaller. Counting twice is as if
    the keys were there twice: their weight in the softmax doubles (``log 2`` on their scores).

    Args:
        lists: Blocks of keys for each block of queries; see :meth:`of` and :meth:`from_mask`.
        size: Rows of a block.
        back: The transpose of ``lists``, made when it is first needed.

    Covers BigBird (Zaheer et al. 2020, arXiv:2007.14062, section 2 and appendix D) and any
    other layout that is known beforehand.

    Example:
        >>> Blocks.of([[0], [0, 1], [0, 2]], size=2)
        Blocks(3 x 3 blocks of 2)
        ■■····
        ■■····
        ■■■■··
        ■■■■··
        ■■··■■
        ■■··■■
    """

    lists: Lists
    size: int
    back: Lists | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, (int, torch.SymInt)) or self.size < 1:
            raise ValueError(f"size: a positive int is allowed, got {self.size!r}")
        offsets, columns, counts = self.lists
        if offsets.dim() != 2 or offsets.shape[1] < 1 or columns.dim() != 1 or columns.shape != counts.shape:
            raise ValueError(
                "lists: offsets (L, M + 1), columns (E,) and counts (E,) are allowed, got shapes "
                f"{tuple(offsets.shape)}, {tuple(columns.shape)}, {tuple(counts.shape)}"
            )
        for name, x in self.lists._asdict().items():
            if x.dtype != torch.int32:
                raise ValueError(f"lists: {name} of dtype int32 are allowed, got {x.dtype}")

    @classmethod
    def of(cls, lists: Sequence, size: int) -> Blocks:
        """From nested sequences: ``lists[i]``, or ``lists[h][i]``, names the key blocks that
        query block i (of head h) sees, in any order, repeated or not.

        Raises:
            ValueError: If a block is negative, or heads differ in their number of blocks.
        """
        heads = lists if len(lists) and len(lists[0]) and not isinstance(lists[0][0], (int, Tensor)) else [lists]
        if not all(len(rows) == len(heads[0]) for rows in heads):
            raise ValueError(f"lists: as many blocks of each head are allowed, got {[len(rows) for rows in heads]}")
        listed = [
            [int(j), h * len(rows) + i] for h, rows in enumerate(heads) for i, row in enumerate(rows) for j in row
        ]
        columns, rows = torch.tensor(listed, dtype=torch.int64).reshape(-1, 2).unbind(1)
        if len(columns) and int(columns.min()) < 0:
            raise ValueError(f"lists: blocks from 0 on are allowed, got {int(columns.min())}")
        return cls(_lists(rows, columns, torch.ones_like(rows), len(heads), len(heads[0])), size)

    @classmethod
    def from_mask(cls, mask: Tensor, size: int) -> Blocks:
        """From ``(M, N)`` or ``(H, M, N)``: booleans, or integers that count.

        Example:
            >>> Blocks.from_mask(torch.eye(2).bool(), size=1)
            Blocks(2 x 2 blocks of 1)
            ■·
            ·■
        """
        if (
            mask.dim() not in (2, 3)
            or mask.is_floating_point()
            or (mask.dtype != torch.bool and bool((mask < 0).any()))
        ):
            raise ValueError(
                "mask: booleans or counts of shape (M, N) or (H, M, N) are allowed, got "
                f"{mask.dtype} of shape {tuple(mask.shape)}"
            )
        mask = mask[None] if mask.dim() == 2 else mask
        heads, rows, columns = mask.nonzero(as_tuple=True)
        found = _lists(heads * mask.shape[1] + rows, columns, mask[heads, rows, columns].long(), *mask.shape[:2])
        return cls(found, size)

    @property
    def rows(self) -> int:
        """Blocks of queries."""
        return self.lists.offsets.shape[1] - 1

    def on(self, device: torch.device) -> Blocks:
        """The same with its tensors on a device; kept, for the next call."""
        if self.lists.offsets.device == device:
            return self
        kept = self.__dict__.setdefault("_on", {})
        if device not in kept:
            moved = Lists(*(x.to(device) for x in self.lists))
            back = None if self.back is None else Lists(*(x.to(device) for x in self.back))
            kept[device] = Blocks(moved, self.size, back)
        return kept[device]

    def transposed(self, columns: int) -> Lists:
        """For each of ``columns`` key blocks, the query blocks that see it; kept, for the next call."""
        if self.back is not None and self.back.offsets.shape[1] == columns + 1:
            return self.back
        kept = self.__dict__.setdefault("_back", {})
        if columns not in kept:
            heads, rows = self.lists.offsets.shape[0], self.rows
            flat = self._row_of_entry()
            head, row = flat.div(max(1, rows), rounding_mode="floor"), flat % max(1, rows)
            kept[columns] = _lists(head * columns + self.lists.columns, row, self.lists.counts, heads, columns)
        return kept[columns]

    def counts(self, columns: int) -> Tensor:
        """``(L, M, columns)``: how often each of the first blocks is listed."""
        heads, rows = self.lists.offsets.shape[0], self.rows
        found = self.lists.counts.new_zeros(heads * rows, columns)
        inside = self.lists.columns < columns
        place = (self._row_of_entry()[inside], self.lists.columns[inside].long())
        found.index_put_(place, self.lists.counts[inside])
        return found.view(heads, rows, columns)

    def multiplicity(self, batch: slice, sq: int, sk: int, device: torch.device) -> Tensor:
        """How often each pair of rows is kept, ``(1, L, sq, sk)``."""
        found = self.counts(-(-sk // self.size)).to(device)
        found = found.repeat_interleave(self.size, 1)[:, :sq].repeat_interleave(self.size, 2)[:, :, :sk]
        return found[None]

    def dense(self, sq: int, sk: int, device: torch.device | str | None = None) -> Tensor:
        """The mask as booleans, ``(L, sq, sk)``."""
        return self.multiplicity(slice(None), sq, sk, torch.device(device or "cpu"))[0] > 0

    def pairs(self, sq: int, sk: int) -> int:
        """How many pairs of rows are kept, on the average of the heads: the useful work."""
        heads, rows = self.lists.offsets.shape[0], self.rows
        flat, columns = self._row_of_entry() % max(1, rows), self.lists.columns.long()
        high = (sq - flat * self.size).clamp(0, self.size)
        wide = (sk - columns * self.size).clamp(0, self.size)
        return int((high * wide).sum()) // heads

    def check(self, heads: int, sq: int, sk: int) -> None:
        """Whether the lists fit a call.

        Raises:
            ValueError: Naming what was given and what is allowed.
        """
        lists, rows = self.lists.offsets.shape[0], self.rows
        if lists not in (1, heads) or rows != -(-sq // self.size):
            raise ValueError(
                f"pattern: {heads} lists (or one for all heads) of {-(-sq // self.size)} blocks of {self.size} queries "
                f"are allowed for {sq} queries, got {lists} of {rows}"
            )

    def check_values(self, sk: int) -> None:
        """Whether the lists lie within ``sk`` keys and are in order; looks at values.

        Raises:
            ValueError: Naming what was given and what is allowed.
        """
        offsets, columns, counts = self.lists
        flat, most = torch.cat([offsets[:, :-1].flatten(), offsets[-1:, -1]]), -(-sk // self.size)
        ends = bool((offsets[1:, 0] == offsets[:-1, -1]).all()) and int(flat[0]) == 0 and int(flat[-1]) == len(columns)
        if not ends or bool((flat.diff() < 0).any()):
            raise ValueError(f"lists: offsets that rise from 0 to {len(columns)} are allowed, got {offsets.tolist()}")
        if len(columns) and (int(columns.min()) < 0 or int(columns.max()) >= most):
            raise ValueError(
                f"pattern: key blocks from 0 to {most - 1} are allowed for {sk} keys, got "
                f"{int(columns.min())} to {int(columns.max())}"
            )
        if len(columns) and int(counts.min()) < 1:
            raise ValueError(f"lists: counts of at least 1 are allowed, got {int(counts.min())}")

    def _row_of_entry(self) -> Tensor:
        """``(E,)``: head * M + block of each entry."""
        lengths = self.lists.offsets.diff(dim=1).flatten().long()
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def __repr__(self) -> str:
        most = int(self.lists.columns.max()) + 1 if len(self.lists.columns) else 0
        blocks = max(most, self.rows)
        mask = self.counts(blocks)[0] > 0
        side = min(self.size, 2) if blocks <= 8 else 1
        lines = ["".join("■·"[not kept] * side for kept in row) for row in mask[:16, :16].tolist()]
        return f"Blocks({self.rows} x {blocks} blocks of {self.size})\n" + "\n".join(
            line for line in lines for _ in range(side)
        )


def _lists(rows: Tensor, columns: Tensor, counts: Tensor, heads: int, blocks: int) -> Lists:
    """Sorted, with repeated entries counted; ``rows`` is head * blocks + block."""
    wide = int(columns.max()) + 1 if len(columns) else 1
    keys, place = torch.unique(rows.long() * wide + columns.long(), return_inverse=True)
    total = torch.zeros_like(keys).index_add_(0, place, counts.long())
    lengths = torch.bincount(keys.div(wide, rounding_mode="floor"), minlength=heads * blocks)
    ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    index = torch.arange(heads, device=ends.device)[:, None] * blocks + torch.arange(blocks + 1, device=ends.device)
    return Lists(ends[index], (keys % wide).to(torch.int32), total.to(torch.int32))
