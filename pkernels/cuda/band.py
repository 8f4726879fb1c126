"""The ``cuda`` backend for a Band, and for shapes whose kernels take the same and the ``lists`` of theirs.

bfloat16 and float16 up to head dimension 256, float32 up to 128. float32 is multiplied on the tensor cores without
losing its accuracy: a number is split into two of tf32, and three products are summed, the error of each product is
at most 2**-21 of it (``csrc/cuda/instructions.cuh``); tests hold it to the budget of plain torch in float32.

A Relative goes up to 128, in float32 up to 64: tiles of q, dout and the bias's queries lie in shared memory beside
the rows of the table that they meet, and of 512 bytes a row those three alone would take 192 KB, where sm_80 has 163.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..problem import Problem, rows_like
from . import call, hopper, split

Grads = tuple[Tensor | None, ...]


def forward(
    q: Tensor, k: Tensor, v: Tensor, problem: Problem, shape: str = "band", lists: tuple[Any, ...] = ()
) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``, float32 lse."""
    out = rows_like(q, v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    if problem.q_spans is not None:  # rows of no sequence
        out.zero_()
        lse.fill_(-torch.inf)
    if out.numel() == 0:
        return out, lse
    q, k, v = map(call.rows, (q, k, v))
    rest = call.arguments(problem)
    parts = split.parts(q, k, problem) if shape == "band" else 1
    if parts == 1:
        of_chip = shape == "band" and hopper.serves(q, k, v, problem)
        call.launch("hopper_forward" if of_chip else f"{shape}_forward", q, k, v, out, lse, *lists, *rest)
    else:
        outs = torch.empty(parts, *q.shape[:-1], v.shape[-1], dtype=torch.float32, device=q.device)
        lses = torch.full((parts, *lse.shape), -torch.inf, dtype=torch.float32, device=q.device)
        call.launch("band_parts", q, k, v, outs, lses, *rest)
        call.launch("merge_parts", outs, lses, out, lse)
    return out, lse


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem,
    shape: str = "band", lists: tuple[Any, ...] = (), back: tuple[Any, ...] = (), pairs: tuple[Any, ...] = (),
) -> Grads:  # fmt: skip
    """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; those of biases are None where not asked for."""
    dq, dk, dv = (rows_like(x, x.shape[-1]) for x in (q, k, v))
    dquery = None
    if problem.query is not None and problem.query_grad:
        dquery = rows_like(problem.query, problem.query.shape[-1])
    if problem.q_spans is not None or q.numel() == 0:  # rows of no sequence
        for x in (dq, dquery):
            if x is not None:
                x.zero_()
    if problem.k_spans is not None or q.numel() == 0:
        dk.zero_()
        dv.zero_()
    q, k, v, dout, out = map(call.rows, (q, k, v, dout, out))
    lse = lse.contiguous()
    delta = torch.empty_like(lse)
    rest = call.arguments(problem)
    if q.numel():
        dlse = None if dlse is None else dlse.float()
        call.launch(f"{shape}_dq", q, k, v, out, dout, dlse, lse, delta, dq, dquery, *lists, *rest)
        call.launch(f"{shape}_dkv", q, k, v, dout, lse, delta, dk, dv, *back, *rest)
    ddistance, ddense, dtable = _of_biases(shape, (q, k, v, dout, lse, delta), problem, (*pairs, *rest))
    return dq, dk, dv, ddistance, ddense, dquery, dtable


def _of_biases(
    shape: str, tensors: tuple[Tensor, ...], problem: Problem, rest: tuple[Any, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of the values of a Distance, of a Dense and of a table, float32, None where not asked for."""
    q = tensors[0]

    def diagonals(values: Tensor) -> Tensor:
        """One sum for each sequence and head, the sum of which over sequences has a fixed order."""
        sizes = (problem.batch(q), q.shape[1], *values.shape[1:])
        sums = torch.empty(sizes, dtype=torch.float32, device=q.device)
        if q.numel() == 0:
            sums.zero_()
        elif sums.numel():
            call.launch(f"{shape}_diagonals", *tensors, sums, *rest)
        return sums.sum(0).sum_to_size(values.shape)

    ddistance = ddense = dtable = None
    if problem.distance is not None and problem.distance_grad:
        ddistance = diagonals(problem.distance)
    if problem.dense is not None and problem.dense_grad:
        ddense = torch.zeros(problem.dense.shape, dtype=torch.float32, device=q.device)
        if q.numel() and ddense.numel():
            call.launch(f"{shape}_ddense", *tensors, ddense, *rest)
    if problem.table is not None and problem.table_grad:
        dtable = diagonals(problem.table)
    return ddistance, ddense, dtable
