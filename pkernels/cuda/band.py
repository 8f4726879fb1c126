"""The ``cuda`` backend for a Band, and for shapes whose kernels take the same and the ``lists`` of theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..problem import Problem, rows_like
from . import call

Grads = tuple[Tensor, Tensor, Tensor, None, None, None, None]


def forward(
    q: Tensor, k: Tensor, v: Tensor, problem: Problem, shape: str = "band", lists: tuple[Any, ...] = ()
) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``, float32 lse."""
    out = rows_like(q, v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    if problem.q_spans is not None:  # rows of no sequence
        out.zero_()
        lse.fill_(-torch.inf)
    if out.numel():
        call.launch(f"{shape}_forward", *map(call.rows, (q, k, v)), out, lse, *lists, *call.arguments(problem))
    return out, lse


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem,
    shape: str = "band", lists: tuple[Any, ...] = (), back: tuple[Any, ...] = (),
) -> Grads:  # fmt: skip
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
        call.launch(f"{shape}_dq", q, k, v, out, dout, dlse, lse, delta, dq, *lists, *rest)
        call.launch(f"{shape}_dkv", q, k, v, dout, lse, delta, dk, dv, *back, *rest)
    return dq, dk, dv, None, None, None, None
