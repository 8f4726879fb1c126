"""Launches over Buckets, one a round: sums go on from round to round, in memory.

Nothing that is not finite may pass from rows that a row does not keep (see ``careful``). Here many programs
add to a row, so doubts are those of a sequence and head: its sums begin again, and its rounds run once more,
CAREFUL. Where there are none these launches end at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..buckets import Buckets
from ..problem import Problem
from . import tune
from .arguments import Launch, view
from .careful import is_finite
from .step import padded, rows_of, store_tile

ROWS = 64


@triton.jit
def doubt(doubts, at, x):
    """Note whether sums of sequence and head ``at`` are to be worked again; ``doubts`` is None if nothing is hidden."""
    if doubts is not None:
        lost = tl.min(tl.where(is_finite(x), 1, 0)) == 0
        tl.atomic_max(doubts + at, 1, mask=lost)


@triton.jit
def restart_kernel(sums, doubts, value, rows, heads, D: tl.constexpr, OWN: tl.constexpr):
    """``value`` in all rows of what is doubted. Grid: sequences x heads x tiles of rows, flat."""
    tiles = tl.cdiv(rows, OWN)
    at = tl.program_id(0) // tiles
    if tl.load(doubts + at) == 0:
        return
    fresh = tl.zeros([OWN, padded(D)], tl.float32) + value
    first = tl.program_id(0) % tiles * OWN
    store_tile(rows_of(sums, at // heads, at % heads, 0), first, 1, rows, fresh, OWN, D, tl.int64)


class Rounds(Launch):
    """A kernel launched for one round after the other."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> None:
        super().__init__(q, k, v, problem)
        assert isinstance(problem.pattern, Buckets)
        self.pattern = problem.pattern
        self.order = self.pattern.order.contiguous()

    def run(
        self, kernel: Any, config: tune.Config, inputs: Sequence[Any], sums: Sequence[tuple[Tensor, float]], *own: Any
    ) -> None:
        """``sums`` as ``(tensor (B, H, S, D), what it begins with)``; they begin with it."""
        doubts = None
        if self.pattern.causal:
            doubts = torch.zeros(self.batch * self.heads, dtype=torch.int32, device=self.q.device)
        tensors = (*inputs, *(view(x) for x, _ in sums), doubts)
        self._run(kernel, config, tensors, own, CAREFUL=False)
        if doubts is not None:
            self._restart(sums, doubts)
            self._run(kernel, replace(config, other=16, stages=1), tensors, own, CAREFUL=True)

    def _run(self, kernel: Any, config: tune.Config, tensors: tuple, own: tuple, **constants: bool) -> None:
        pattern, (batch, heads, rounds, entries) = self.pattern, self.order.shape
        steps = (heads * rounds * entries if batch > 1 else 0, rounds * entries if heads > 1 else 0)
        of_round = entries // pattern.chunk
        grid = self.batch * self.heads * of_round * -(-pattern.chunk // config.own)
        dropout, scale = self.shared[8], self.shared[10]
        for number in range(rounds):
            chunks = (pattern.chunk, of_round, of_round * rounds, number, pattern.before, pattern.after)
            arguments = (*tensors, (self.order, *steps), chunks, *own, dropout, scale, *self.shared[12:])
            self.start(kernel, grid, config, arguments, CAUSAL=pattern.causal, **constants)

    def _restart(self, sums: Sequence[tuple[Tensor, float]], doubts: Tensor) -> None:
        grid = doubts.numel() * -(-self.sq // ROWS)
        with self.on_device():
            for x, value in sums if grid > 0 else ():
                restart_kernel[(grid,)](view(x), doubts, value, self.sq, self.heads, D=x.shape[3], OWN=ROWS)
