"""The ``cuda`` backend for Blocks: the passes over a Band with the lists of the side that they go through.

Those that a bias's gradient takes go by no tiles; they ask a table for each pair of blocks, ``(L, M, N)``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..blocks import Blocks, Lists
from ..problem import Problem
from . import band
from .band import Grads


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)``; see :func:`pkernels.cuda.band.forward`."""
    pattern: Blocks = problem.pattern  # type: ignore[assignment]
    return band.forward(q, k, v, problem, "blocks", _given(pattern.lists, pattern.size))


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> Grads:
    """``(dq, dk, dv)`` and the biases' gradients; see :func:`pkernels.cuda.band.backward`."""
    pattern: Blocks = problem.pattern  # type: ignore[assignment]
    columns = -(-k.shape[2] // pattern.size)
    lists, back = (_given(x, pattern.size) for x in (pattern.lists, pattern.transposed(columns)))
    asked = problem.distance_grad or problem.dense_grad or problem.table_grad
    pairs = (pattern.counts(columns), pattern.size) if asked else ()
    return band.backward(dout, dlse, q, k, v, out, lse, problem, "blocks", lists, back, pairs)


def _given(lists: Lists, size: int) -> tuple[Any, ...]:
    return *(x.contiguous() for x in lists), size
