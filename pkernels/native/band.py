"""The ``cpu`` backend for a Band."""

from __future__ import annotations

from torch import Tensor

from ..patterns import Band
from ..problem import Problem
from . import call

Grads = tuple[Tensor | None, ...]


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)``; see :func:`pkernels.native.call.forward`."""
    return call.forward("band", q, k, v, problem, *_described(q, k, problem))


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> Grads:
    """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; see :func:`pkernels.native.call.backward`."""
    return call.backward("band", dout, dlse, q, k, v, out, lse, problem, *_described(q, k, problem))


def _described(q: Tensor, k: Tensor, problem: Problem) -> tuple[tuple[list, list], tuple]:
    pattern: Band = problem.pattern  # type: ignore[assignment]
    queries, keys = problem.span_lists(q, k)
    first = pattern.columns
    columns: list[int] = first.tolist() if isinstance(first, Tensor) else [first] * len(keys)
    if any(number < 0 for number in columns) or len(columns) != len(keys):
        raise ValueError(f"pattern: {len(keys)} columns, none negative, are allowed, got {columns}")
    return (queries, keys), (columns, [pattern.left, pattern.right, pattern.rows, pattern.dilation])
