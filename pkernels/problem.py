"""One attention call as a backend sees it: checked, in plain numbers and tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Blocks
from .buckets import Buckets
from .patterns import Band

Pattern = Band | Blocks | Buckets
"""Which pairs are kept: a frozen value of one of three shapes."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything of a call but q, k and v.

    Attributes:
        pattern: Its tensors are on q's device.
        scale: Factor of q·k.
        distance: ``(H, W)`` or None; ``zero`` is the column of ``j == i``.
        dense: ``(B|1, H|1, M|1, N|1)`` or None.
        query, table: ``(B, H, Sq, Dr)`` and ``(H, W, Dr)`` in q's dtype, or None; ``zero`` is the
            row of ``j == i``.
        q_spans, k_spans: ``(B, 2)`` int32 first row and number of rows, or None.
        packed: Whether all sequences lie in batch row 0.
        dropout, seed: Probability, and an int64 tensor of one element.
        distance_grad, dense_grad, query_grad, table_grad: Which bias gradients the backward is to return.
    """

    pattern: Pattern
    scale: float
    distance: Tensor | None = None
    zero: int = 0
    dense: Tensor | None = None
    query: Tensor | None = None
    table: Tensor | None = None
    q_spans: Tensor | None = None
    k_spans: Tensor | None = None
    packed: bool = False
    dropout: float = 0.0
    seed: Tensor | None = None
    distance_grad: bool = False
    dense_grad: bool = False
    query_grad: bool = False
    table_grad: bool = False

    def batch(self, q: Tensor) -> int:
        """Number of sequences."""
        spans = self.k_spans if self.k_spans is not None else self.q_spans
        return spans.shape[0] if self.packed and spans is not None else q.shape[0]

    def span_lists(self, q: Tensor, k: Tensor) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """``(first, end)`` rows of each sequence of queries and of keys, checked."""
        if self.q_spans is None and self.k_spans is None:
            n_q, n_k, batch = q.shape[2], k.shape[2], self.batch(q)
            self.check_reach(n_q, n_k)
            return [(0, n_q)] * batch, [(0, n_k)] * batch
        both = []
        for name, spans, x in (("queries", self.q_spans, q), ("keys", self.k_spans, k)):
            if spans is None:
                both.append([(0, x.shape[2])] * self.batch(q))
                continue
            rows = [(first, first + count) for first, count in spans.tolist()]
            if any(first < 0 or end < first or end > x.shape[2] for first, end in rows):
                raise ValueError(
                    f"lengths, offsets: the {name} of each sequence must lie within the {x.shape[2]} "
                    f"rows there are, got rows {rows}"
                )
            both.append(rows)
        self.check_reach(*(max((end - first for first, end in rows), default=0) for rows in both))
        return both[0], both[1]

    def check_reach(self, rows: int, columns: int) -> None:
        """A bias must have a value for every pair of so many queries and keys."""
        if rows == 0 or columns == 0:
            return
        reach = (rows, columns)
        by_distance = self.distance if self.table is None else self.table
        if by_distance is not None:
            reach = (self.zero + 1, by_distance.shape[1] - self.zero)
        elif self.dense is not None:
            m, n = self.dense.shape[2:]
            reach = (rows if m == 1 else m, columns if n == 1 else n)
        if reach[0] < rows or reach[1] < columns:
            raise ValueError(
                f"bias: must reach sequences of {rows} queries and {columns} keys; its values reach "
                f"{reach[0]} and {reach[1]}"
            )


def rows_like(x: Tensor, width: int) -> Tensor:
    """New tensor ``(B, H, S, width)`` of x's dtype whose memory order of heads and rows
    follows x, so that a model's ``transpose(1, 2).flatten(2)`` of it costs nothing."""
    b, h, s, _ = x.shape
    if x.stride(1) < x.stride(2):
        return torch.empty((b, s, h, width), dtype=x.dtype, device=x.device).transpose(1, 2)
    return torch.empty((b, h, s, width), dtype=x.dtype, device=x.device)


def accumulator(x: Tensor) -> torch.dtype:
    """fp64 for fp64, fp32 for everything narrower."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
