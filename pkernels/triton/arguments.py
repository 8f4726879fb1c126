"""What a launch passes to a kernel: views, spans, work lists, and one flat grid."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..patterns import Band
from ..problem import Problem
from . import tune

View = tuple[Tensor, int, int, int]


def view(x: Tensor) -> View:
    """(tensor, batch stride, head stride, row stride); features must be neighbours."""
    return x, x.stride(0), x.stride(1), x.stride(2)


def dense_rows(x: Tensor) -> Tensor:
    """x with neighbouring features."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


class Launch:
    """The arguments that the kernels of one call share.

    A kernel takes its own tensors first, then ``shared``, then its tile shape by name.
    """

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> None:
        self.q, self.k, self.v, self.problem = q, k, v, problem
        self.sq, self.sk = q.shape[2], k.shape[2]
        self.heads, self.kv_heads = q.shape[1], k.shape[1]
        self.batch = problem.batch(q)
        reach = self.sq + self.sk  # beyond it, numbers mean the same: int32 never overflows
        # Other shapes list what they keep.
        pattern = problem.pattern if isinstance(problem.pattern, Band) else Band()
        prefix = pattern.columns if isinstance(pattern.columns, Tensor) else None
        self.step = max(1, min(pattern.dilation, reach))

        def clamp(x: int) -> int:
            return max(-reach, min(reach, x))

        self.band = (
            clamp(-pattern.left * pattern.dilation),
            clamp(pattern.right * pattern.dilation),
            min(pattern.columns, self.sk) if prefix is None else 0,
            min(pattern.rows, self.sk),
        )
        dropout: Any = None
        if problem.dropout > 0:
            dropout = (problem.seed, round(65536 * problem.dropout), 1 / (1 - problem.dropout))
        self.listed: Any = None
        self.shared = (
            problem.q_spans,
            problem.k_spans,
            self.band,
            prefix,
            *self._biases(reach),
            dropout,
            None if self.step == 1 else self.step,
            float(problem.scale),
            (self.sq, self.sk),
            self.heads,
            self.heads // max(1, self.kv_heads),
        )

    def _biases(self, reach: int) -> tuple:
        """(Distance, Dense, Relative, (zero, their width, rows and columns of a Dense))."""
        distance: Any = self.problem.distance
        dense: Any = self.problem.dense
        by_distance = distance if self.problem.table is None else self.problem.table
        width = 1 if by_distance is None else by_distance.shape[1]
        m = n = reach
        if distance is not None:
            distance = (dense_rows(distance), distance.stride(0) if distance.shape[0] > 1 else 0)
        if dense is not None:
            m, n = (reach if size == 1 else size for size in dense.shape[2:])
            sizes = zip(dense.shape, dense.stride(), strict=True)
            dense = (dense, *(0 if size == 1 else stride for size, stride in sizes))
        return distance, dense, self._relative(), (self.problem.zero, width, m, n)

    def _relative(self) -> Any:
        query, table = self.problem.query, self.problem.table
        if query is None or table is None:
            return None
        query, table = dense_rows(query), dense_rows(table)
        apart = 0 if self.problem.packed else 1
        strides = (table, table.stride(0), table.stride(1))
        return view(query), strides, self.problem.q_spans, self.sq, apart, query.shape[3]

    def choose(self, kernel: str) -> tune.Config:
        """The tile shape of a kernel; a smaller one where it multiplies a Relative."""
        return tune.choose("relative" if self.problem.query is not None else kernel, self.q, self.v, self.problem)

    def over_queries(self, kernel: Any, config: tune.Config, *tensors: View | None) -> None:
        """A program per tile of queries and query head."""
        self._tiles(kernel, config, config.own, self.sq, self.heads, self.problem.q_spans, tensors)

    def over_keys(self, kernel: Any, config: tune.Config, *tensors: View) -> None:
        """A program per tile of keys and key head."""
        self._tiles(kernel, config, config.own, self.sk, self.kv_heads, self.problem.k_spans, tensors)

    def _tiles(
        self, kernel: Any, config: tune.Config, own: int, rows: int, heads: int, spans: Tensor | None, tensors: tuple
    ) -> None:
        if self.problem.packed and spans is not None:
            tiles = worklist(spans, rows, own * self.step)
            grid, work = tiles.shape[0] * min(self.step, rows) * heads, (tiles, tiles.shape[0])
        else:
            work = None
            grid = self.in_classes(rows, own) * heads * self.batch
        doubts = torch.empty(grid, dtype=torch.int8, device=self.q.device) if self._hides() else None
        arguments = (*tensors, doubts, work, *self.shared)
        self.start(kernel, grid, config, arguments, CAREFUL=False)
        if doubts is not None:
            self.start(kernel, grid, replace(config, other=16, stages=1), arguments, CAREFUL=True)

    def in_classes(self, rows: int, own: int) -> int:
        """Tiles of ``own`` rows, each of one class."""
        return -(-rows // (own * self.step)) * min(self.step, rows)

    def _hides(self) -> bool:
        """Whether a visited tile may hold pairs that are not kept (rows that do not exist aside)."""
        low, high, _, _ = self.band
        reach = self.sq + self.sk
        return self.problem.dense is not None or self.step > 1 or low > -reach or high < reach

    def start(self, kernel: Any, grid: int, config: tune.Config, arguments: tuple, **constants: int) -> None:
        if grid == 0:
            return
        settings = {
            "D": self.q.shape[3],
            "DV": self.v.shape[3],
            "OWN": config.own,
            "OTHER": config.other,
            "OFFSET": self._offset(config),
            "PRECISION": tune.precision(self.q, config),
            "STAGES": config.stages,
            "num_warps": config.warps,
            "num_stages": config.stages,
            **constants,
        }
        with self.on_device():
            kernel[(grid,)](*arguments, **settings)

    def on_device(self) -> contextlib.AbstractContextManager:
        """Where launches are made."""
        return torch.cuda.device(self.q.device) if self.q.is_cuda else contextlib.nullcontext()

    def _offset(self, config: tune.Config) -> Any:
        """int32 if no two rows of a tile lie 2**31 elements apart."""
        stride = max(abs(x.stride(2)) for x in (self.q, self.k, self.v))
        return tl.int32 if stride * self.step * max(config.own, config.other) < 2**31 else tl.int64


def worklist(spans: Tensor, rows: int, block: int) -> Tensor:
    """(W, 2) int32: (sequence, tile) of every tile of ``block`` rows of packed sequences, then
    sequence -1. W = rows // block + B bounds their number, so nothing waits for the device."""
    counts = (spans[:, 1].clamp(0, rows) + (block - 1)).div(block, rounding_mode="floor").to(torch.int32)
    ends = counts.cumsum(0, dtype=torch.int32)
    tile = torch.arange(rows // block + len(counts), dtype=torch.int32, device=spans.device)
    sequence = torch.searchsorted(ends, tile, right=True, out_int32=True)
    inside = sequence < len(counts)
    begin = (ends - counts)[sequence.clamp(max=len(counts) - 1)]
    return torch.stack([torch.where(inside, sequence, -1), tile - begin], dim=1)
