"""The ``cuda`` backend for a Band."""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Problem, rows_like
from . import call

Grads = tuple[Tensor, Tensor, Tensor, None, None, None, None]


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``, float32 lse."""
    out = rows_like(q, v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    if problem.q_spans is not None:  # rows of no sequence
        out.zero_()
        lse.fill_(-torch.inf)
    if out.numel():
        call.launch("band_forward", *map(call.rows, (q, k, v)), out, lse, *call.arguments(problem))
    return out, lse


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> Grads:
    """``(dq, dk, dv)``, and None for the gradients of biases, which are not there yet."""
    if problem.distance_grad or problem.dense_grad:
        raise NotImplementedError("backend 'cuda': gradient of a bias: the kernels are not there yet")
    dq, dk, dv = (rows_like(x, x.shape[-1]) for x in (q, k, v))
    if problem.q_spans is not None or q.numel() == 0:  # rows of no sequence
        dq.zero_()
    if problem.k_spans is not None or q.numel() == 0:
        dk.zero_()
        dv.zero_()
    if q.numel():
        q, k, v, dout, out = map(call.rows, (q, k, v, dout, out))
        lse = lse.contiguous()
        delta = torch.empty_like(lse)
        dlse = None if dlse is None else dlse.float()
        rest = call.arguments(problem)
        call.launch("band_dq", q, k, v, out, dout, dlse, lse, delta, dq, *rest)
        call.launch("band_dkv", q, k, v, dout, lse, delta, dk, dv, *rest)
    return dq, dk, dv, None, None, None, None
