"""Handing a call to the CUDA kernels (``csrc/cuda``): what all their operators take alike."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..patterns import Band
from ..problem import Problem
from . import operators


def launch(name: str, *arguments: Any) -> None:
    """Launch the kernel behind ``pkernels_cuda::<name>`` on torch's current stream of the tensors' device."""
    getattr(operators(), name)(*arguments)


def rows(x: Tensor) -> Tensor:
    """x with neighbours along its last dimension."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def arguments(problem: Problem) -> tuple[Any, ...]:
    """What an operator takes behind its own tensors."""
    pattern = problem.pattern if isinstance(problem.pattern, Band) else Band()
    prefix = pattern.columns if isinstance(pattern.columns, Tensor) else None
    tensors = (problem.distance, problem.q_spans, problem.k_spans, prefix)
    distance, q_spans, k_spans, prefix = (None if x is None else x.contiguous() for x in tensors)
    band = [pattern.left, pattern.right, pattern.columns if prefix is None else 0, pattern.rows, pattern.dilation]
    seed = problem.seed if problem.dropout > 0 else None
    numbers = (problem.zero, problem.packed, problem.scale, problem.dropout, band)
    query, table = (None if x is None else rows(x) for x in (problem.query, problem.table))
    return (distance, problem.dense, query, table, q_spans, k_spans, prefix, seed, *numbers)
