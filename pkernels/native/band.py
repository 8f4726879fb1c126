"""The ``cpu`` backend for a Band: hands tensors to the C++ kernels (``csrc/cpu``)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..patterns import Band
from ..problem import Problem, rows_like
from . import operators


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``, float32 lse."""
    out = rows_like(q, v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=torch.float32)
    if problem.q_spans is not None:
        out.zero_()
        lse.fill_(-torch.inf)
    if q.numel():
        q, k, v = (_rows(x) for x in (q, k, v))
        operators().band_forward(q, k, v, out, lse, *_arguments(q, k, problem))
    return out, lse


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """``(dq, dk, dv, ddistance, ddense)``; the last two are None where not asked for."""
    dq, dk, dv = (rows_like(x, x.shape[-1]) for x in (q, k, v))
    if problem.q_spans is not None:
        dq.zero_()
    if problem.k_spans is not None or not q.numel():
        dk.zero_()
        dv.zero_()
    distance, dense = problem.distance, problem.dense
    ddistance = ddense = None
    arguments = _arguments(q, k, problem)
    if distance is not None and problem.distance_grad:
        rows = operators().distance_rows(len(arguments[4]), k.shape[1], _longest(arguments[3])) if q.numel() else 0
        ddistance = torch.zeros(rows, *distance.shape, dtype=torch.float32)
    if dense is not None and problem.dense_grad:
        ddense = torch.zeros(dense.shape, dtype=torch.float32)
    if q.numel():
        dout, q, k, v, out = (_rows(x) for x in (dout, q, k, v, out))
        dlse = None if dlse is None else dlse.float()
        operators().band_backward(dout, dlse, q, k, v, out, lse, dq, dk, dv, ddistance, ddense, *arguments)
    return dq, dk, dv, None if ddistance is None else ddistance.sum(0), ddense


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _longest(rows: list[int]) -> int:
    return max((end - first for first, end in zip(rows[::2], rows[1::2], strict=True)), default=0)


def _arguments(q: Tensor, k: Tensor, problem: Problem) -> tuple:
    """What both operators take after their tensors, checked: C++ trusts it."""
    pattern: Band = problem.pattern  # type: ignore[assignment]
    queries, keys = problem.span_lists(q, k)
    first = pattern.columns
    columns: list[int] = first.tolist() if isinstance(first, Tensor) else [first] * len(keys)
    if any(number < 0 for number in columns) or len(columns) != len(keys):
        raise ValueError(f"pattern: {len(keys)} columns, none negative, are allowed, got {columns}")
    q_rows, k_rows = ([row for span in spans for row in span] for spans in (queries, keys))
    distance = problem.distance
    if distance is not None and distance.stride(1) != 1:
        distance = distance.contiguous()
    seed = 0 if problem.seed is None else int(problem.seed)
    band = [pattern.left, pattern.right, pattern.rows, pattern.dilation]
    return (
        distance, problem.dense, q_rows, k_rows, columns, band, problem.zero, problem.packed, problem.scale,
        problem.dropout, seed,
    )  # fmt: skip
