"""Handing a call to the C++ kernels (``csrc/cpu``): what all shapes of patterns share."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ..problem import Problem, rows_like
from . import operators


def forward(
    shape: str, q: Tensor, k: Tensor, v: Tensor, problem: Problem, spans: tuple[list, list], pattern: tuple
) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``, float32 lse.

    Args:
        shape: "band" for ``pkernels_native::band_forward``.
        spans: ``(first, end)`` rows of the sequences of queries and of keys, checked.
        pattern: What the operator takes of the pattern, checked: C++ trusts it.
    """
    out = rows_like(q, v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=torch.float32)
    if problem.q_spans is not None:
        out.zero_()
        lse.fill_(-torch.inf)
    if q.numel():
        q, k, v = (_rows(x) for x in (q, k, v))
        operator = getattr(operators(), f"{shape}_forward")
        operator(q, k, v, out, lse, *_arguments(problem, spans), *pattern)
    return out, lse


def backward(
    shape: str, dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    problem: Problem, spans: tuple[list, list], pattern: tuple,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; those of biases are None where not asked for."""
    dq, dk, dv = (rows_like(x, x.shape[-1]) for x in (q, k, v))
    if problem.q_spans is not None:
        dq.zero_()
    if problem.k_spans is not None or not q.numel():
        dk.zero_()
        dv.zero_()
    distance, dense = problem.distance, problem.dense
    ddistance = ddense = dquery = dtable = None
    rows = operators().distance_rows(len(spans[1]), k.shape[1], _longest(spans[1])) if q.numel() else 0
    if distance is not None and problem.distance_grad:
        ddistance = torch.zeros(rows, *distance.shape, dtype=torch.float32)
    if dense is not None and problem.dense_grad:
        ddense = torch.zeros(dense.shape, dtype=torch.float32)
    if problem.query is not None and problem.query_grad:
        dquery = rows_like(problem.query, problem.query.shape[-1])
        if problem.q_spans is not None:
            dquery.zero_()
    if problem.table is not None and problem.table_grad:
        heads, width, dr = problem.table.shape
        dtable = torch.zeros(rows, heads, width, -(-dr // 16) * 16, dtype=torch.float32)
    if q.numel():
        dout, q, k, v, out = (_rows(x) for x in (dout, q, k, v, out))
        dlse = None if dlse is None else dlse.float()
        operator = getattr(operators(), f"{shape}_backward")
        sums = ddistance, ddense, dquery, dtable
        operator(dout, dlse, q, k, v, out, lse, dq, dk, dv, *sums, *_arguments(problem, spans), *pattern)
    if dtable is not None and problem.table is not None:
        dtable = _sum(dtable)[..., : problem.table.shape[2]].contiguous()
    return dq, dk, dv, None if ddistance is None else _sum(ddistance), ddense, dquery, dtable


def _sum(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _rows(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _longest(spans: list[tuple[int, int]]) -> int:
    return max((end - first for first, end in spans), default=0)


def _arguments(problem: Problem, spans: tuple[list, list]) -> tuple:
    q_rows, k_rows = (list(itertools.chain.from_iterable(part)) for part in spans)
    distance = problem.distance
    if distance is not None and distance.stride(1) != 1:
        distance = distance.contiguous()
    query, table = (None if x is None else _rows(x) for x in (problem.query, problem.table))
    seed = 0 if problem.seed is None else int(problem.seed)
    return (
        distance, problem.dense, query, table, q_rows, k_rows, problem.zero, problem.packed, problem.scale,
        problem.dropout, seed,
    )  # fmt: skip
