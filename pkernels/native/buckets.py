"""The ``cpu`` backend for Buckets."""

from __future__ import annotations

from torch import Tensor

from ..buckets import Buckets
from ..problem import Problem
from . import call
from .band import Grads


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)``; see :func:`pkernels.native.call.forward`."""
    return call.forward("buckets", q, k, v, problem, *_described(q, k, problem))


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> Grads:
    """``(dq, dk, dv)`` and None for each bias; see :func:`pkernels.native.call.backward`."""
    return call.backward("buckets", dout, dlse, q, k, v, out, lse, problem, *_described(q, k, problem))


def _described(q: Tensor, k: Tensor, problem: Problem) -> tuple[tuple[list, list], tuple]:
    pattern: Buckets = problem.pattern  # type: ignore[assignment]
    pattern.check_values(q.shape[2])
    numbers = [pattern.chunk, int(pattern.causal), pattern.before, pattern.after]
    return problem.span_lists(q, k), (pattern.order, numbers, pattern.own)
