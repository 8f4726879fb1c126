"""Which (query, key) pairs an attention keeps.

A pattern is a value: frozen, hashable, and drawn by ``repr``. Every backend and the
oracle read the same predicate, :meth:`Band.keep`, on *positions*: key ``j`` stands at
position ``j`` and query ``i`` of ``n_q`` stands at ``i + n_k - n_q`` (bottom-right
alignment), so the last query always stands beside the last key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

INF = 2**31 - 1
"""An unbounded side of a :class:`Band`."""


@dataclass(frozen=True, eq=False, repr=False)
class Band:
    """Keys within reach of the query, plus global columns and rows.

    The pair of a query at position ``q`` and a key at position ``k`` is kept if any of

    * ``-left <= (k - q) / dilation <= right`` and ``dilation`` divides ``k - q``,
    * ``k < columns`` (every query sees the first keys: prefix, global keys),
    * ``0 <= q < rows`` (the first queries see every key: global queries).

    Args:
        left: Steps back, in units of ``dilation``; may be negative (strictly ahead).
        right: Steps ahead; 0 is causal, -1 is strictly causal, ``INF`` unbounded.
        columns: Leading keys seen by every query; an int, or an integer tensor of shape
            ``(B,)`` with one number per batch row.
        rows: Leading positions whose queries see every key.
        dilation: Distance between neighbouring steps.

    Raises:
        ValueError: If the interval is empty or a count is negative.

    Covers dense and causal attention, Longformer's sliding window with dilation and
    leading globals (Beltagy et al. 2020, arXiv:2004.05150, section 3.1), the prefix-LM
    mask of UniLM and T5 (arXiv:1905.03197, section 2.2; arXiv:1910.10683, section 3.2),
    Transformer-XL's memory by alignment (arXiv:1901.02860, section 3.2) and the locally
    banded layers of GPT-3 (arXiv:2005.14165, section 2.1).

    Example:
        >>> Band(left=1, right=0, columns=1)
        Band(left=1, right=0, columns=1)
        ■·······
        ■■······
        ■■■·····
        ■·■■····
        ■··■■···
        ■···■■··
        ■····■■·
        ■·····■■
    """

    left: int = INF
    right: int = INF
    columns: int | Tensor = 0
    rows: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        for name in ("left", "right", "rows", "dilation"):
            _check_int(name, getattr(self, name))
        if isinstance(self.columns, Tensor):
            if self.columns.dim() != 1 or self.columns.is_floating_point():
                raise ValueError(
                    "columns: an int, or an integer tensor of shape (B,), is allowed; got shape "
                    f"{tuple(self.columns.shape)}, dtype {self.columns.dtype}"
                )
        else:
            _check_int("columns", self.columns)
            if self.columns < 0:
                raise ValueError(f"columns: must not be negative, got {self.columns}")
        if self.rows < 0:
            raise ValueError(f"rows: must not be negative, got {self.rows}")
        if self.dilation < 1:
            raise ValueError(f"dilation: must be at least 1, got {self.dilation}")
        if self.left + self.right < 0:
            raise ValueError(
                f"left, right: keep no key at all, since -left = {-self.left} is above "
                f"right = {self.right}; -left <= right is allowed"
            )

    def keep(self, q: Tensor, k: Tensor) -> Tensor:
        """Whether pairs of positions are kept.

        Args:
            q, k: Integer tensors of positions that broadcast against each other. If
                ``columns`` is a tensor of shape ``(B,)``, the result gains a leading
                dimension ``B``.

        Returns:
            Boolean tensor.

        Example:
            >>> causal.keep(torch.tensor(3), torch.arange(6)).tolist()
            [True, True, True, True, False, False]
        """
        # Narrow positions would overflow beside a far side.
        step = k.to(torch.int64) - q.to(torch.int64)
        kept = (step % self.dilation == 0) & (step >= -self.left * self.dilation)
        kept &= step <= self.right * self.dilation
        kept = kept | ((q >= 0) & (q < self.rows))
        if isinstance(self.columns, Tensor):
            columns = self.columns.to(kept.device).view(-1, *[1] * kept.dim())
            return kept | (k < columns)
        return kept | (k < self.columns)

    def dense(self, sq: int, sk: int, device: torch.device | str | None = None) -> Tensor:
        """The mask as a boolean tensor of shape ``(sq, sk)``, or ``(B, sq, sk)`` if
        ``columns`` is a tensor.

        Example:
            >>> Band(right=0).dense(2, 3).tolist()
            [[True, True, False], [True, True, True]]
        """
        q = torch.arange(sq, device=device)[:, None] + sk - sq
        k = torch.arange(sk, device=device)[None, :]
        return self.keep(q, k)

    def multiplicity(self, batch: slice, sq: int, sk: int, device: torch.device) -> Tensor:
        """Whether each pair of rows is kept, ``(B or 1, 1, sq, sk)``, for some batch rows."""
        if not isinstance(self.columns, Tensor):
            return self.dense(sq, sk, device)[None, None]
        return Band(self.left, self.right, self.columns[batch], self.rows, self.dilation).dense(sq, sk, device)[:, None]

    def span(self, first: int, last: int, sk: int) -> tuple[int, int]:
        """Half-open range of key positions that the band keeps for queries at positions
        ``first`` to ``last`` (inclusive), global columns and rows left out.

        Example:
            >>> window(4).span(10, 12, 100)
            (6, 17)
        """
        lo = max(0, first - min(self.left, INF) * self.dilation)
        hi = min(sk, last + min(self.right, INF) * self.dilation + 1)
        return lo, max(lo, hi)

    def tiles(self, sq: int, sk: int, bm: int, bn: int) -> Tensor:
        """Per tile of ``bm`` queries and ``bn`` keys: 0 empty, 1 partly kept, 2 full.

        Returns:
            int8 tensor of shape ``(ceil(sq / bm), ceil(sk / bn))``.

        Example:
            >>> causal.tiles(4, 4, 2, 2).tolist()
            [[1, 0], [2, 1]]
        """
        mask = self.dense(sq, sk)
        if mask.dim() == 3:
            raise ValueError("columns: one number is allowed here, got one per batch row")
        kinds = torch.zeros(-(-sq // bm), -(-sk // bn), dtype=torch.int8)
        for i in range(kinds.shape[0]):
            for j in range(kinds.shape[1]):
                tile = mask[i * bm : (i + 1) * bm, j * bn : (j + 1) * bn]
                kinds[i, j] = int(tile.any()) + int(tile.all())
        return kinds

    def transpose(self) -> Band:
        """The band of keys against queries (for as many queries as keys)."""
        if isinstance(self.columns, Tensor):
            raise ValueError("columns: one number is allowed here, got one per batch row")
        return Band(self.right, self.left, self.rows, self.columns, self.dilation)

    def pairs(self, sq: int, sk: int) -> int:
        """How many pairs are kept: the useful work, in O(sq) time.

        Example:
            >>> causal.pairs(4, 4), window(1).pairs(4, 4)
            (10, 10)
        """
        if isinstance(self.columns, Tensor):
            raise ValueError("columns: one number is allowed here, got one per batch row")
        d, columns = self.dilation, min(self.columns, sk)
        q = torch.arange(sq) + sk - sq
        first = (q - columns).div(d, rounding_mode="floor").neg()
        first = torch.clamp(first, min=-min(self.left, sq + sk))
        last = torch.clamp((sk - 1 - q).div(d, rounding_mode="floor"), max=self.right)
        count = columns + torch.clamp(last - first + 1, min=0)
        return int(torch.where((q >= 0) & (q < self.rows), sk, count).sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Band) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple:
        # A tensor compares by identity: its values may change.
        columns = ("tensor", id(self.columns)) if isinstance(self.columns, Tensor) else self.columns
        return (self.left, self.right, columns, self.rows, self.dilation)

    def __repr__(self) -> str:
        shown = []
        for name, default in (("left", INF), ("right", INF), ("columns", 0), ("rows", 0)):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                shown.append(f"{name}=tensor of shape {tuple(value.shape)}")
            elif value != default:
                shown.append(f"{name}={value}")
        if self.dilation != 1:
            shown.append(f"dilation={self.dilation}")
        return f"Band({', '.join(shown)})\n" + draw(self)


def _check_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise ValueError(f"{name}: an int is allowed, got {value!r}")
    if not -INF <= value <= INF:
        raise ValueError(f"{name}: between -INF and INF (2**31 - 1) is allowed, got {value}")


def draw(pattern: Band, sq: int = 8, sk: int = 8) -> str:
    """The pattern as text: one line per query, ``■`` kept and ``·`` not.

    Example:
        >>> print(draw(causal, 2, 3))
        ■■·
        ■■■
    """
    mask = pattern.dense(sq, sk)
    mask = mask[0] if mask.dim() == 3 else mask
    return "\n".join("".join("■" if kept else "·" for kept in row) for row in mask.tolist())


dense = Band()
causal = Band(right=0)


def window(left: int, right: int | None = None, *, dilation: int = 1, globals: int = 0) -> Band:
    """A sliding window: ``left`` steps back and ``right`` ahead (``left`` if not given).

    The query itself is included: ``window(256)`` keeps 513 keys, ``window(255, 0)`` is the
    causal window of 256. The first ``globals`` positions see and are seen by all.

    Example:
        >>> window(1, 0)
        Band(left=1, right=0)
        ■·······
        ■■······
        ·■■·····
        ··■■····
        ···■■···
        ····■■··
        ·····■■·
        ······■■
    """
    right = left if right is None else right
    for name, value in (("left", left), ("right", right), ("globals", globals)):
        _check_int(name, value)
        if value < 0:
            raise ValueError(f"{name}: must not be negative, got {value}")
    return Band(left, right, columns=globals, rows=globals, dilation=dilation)


def prefix_lm(length: int | Tensor) -> Band:
    """Causal, with the first ``length`` keys seen by all; ``length`` may be a tensor of
    shape ``(B,)`` with one length per batch row.

    Example:
        >>> prefix_lm(3).dense(4, 4).int().tolist()
        [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    """
    return Band(right=0, columns=length)
