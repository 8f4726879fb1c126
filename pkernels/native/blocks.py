"""The ``cpu`` backend for Blocks."""

from __future__ import annotations

from torch import Tensor

from ..blocks import Blocks
from ..problem import Problem
from . import call
from .band import Grads


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)``; see :func:`pkernels.native.call.forward`."""
    return call.forward("blocks", q, k, v, problem, *_described(q, k, problem))


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> Grads:
    """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; see :func:`pkernels.native.call.backward`."""
    return call.backward("blocks", dout, dlse, q, k, v, out, lse, problem, *_described(q, k, problem))


def _described(q: Tensor, k: Tensor, problem: Problem) -> tuple[tuple[list, list], tuple]:
    pattern: Blocks = problem.pattern  # type: ignore[assignment]
    pattern.check_values(k.shape[2])
    return problem.span_lists(q, k), (*(x.contiguous() for x in pattern.lists), pattern.size)
