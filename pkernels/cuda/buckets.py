"""The ``cuda`` backend for Buckets: one launch a round, over float32 sums that have a row for each row."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..buckets import Buckets, numbers_of_rows
from ..problem import Problem, rows_like
from . import call
from .band import Grads


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, S, Dv)`` and ``(B, H, S)``, float32 lse."""
    acc = _sums(q, v.shape[3])
    top = torch.full(q.shape[:3], -torch.inf, dtype=torch.float32, device=q.device)
    total = torch.zeros_like(top)
    _launch("buckets_forward", problem, *map(call.rows, (q, k, v)), acc, top, total)
    share = torch.where(total == 0, 1, total)
    acc *= (1 / (1 - problem.dropout) / share)[..., None]
    out = rows_like(q, v.shape[3])
    out.copy_(acc[..., : v.shape[3]])
    return out, torch.where(total == 0, -torch.inf, top * math.log(2) + torch.log(share))


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> Grads:
    """``(dq, dk, dv)`` and None for each bias."""
    pattern: Buckets = problem.pattern  # type: ignore[assignment]
    total, own, delta = numbers_of_rows(dout, dlse, out, lse, pattern.own)
    sums = [_sums(q, x.shape[3]) for x in (q, k, v)]
    given = (*map(call.rows, (q, k, v, dout)), total.contiguous(), delta.contiguous(), own)
    _launch("buckets_dq", problem, *given, sums[0])
    _launch("buckets_dkv", problem, *given, *sums[1:])
    grads = [rows_like(x, x.shape[3]) for x in (q, k, v)]
    for grad, of, x in zip(grads, sums, (q, k, v), strict=True):
        group = q.shape[1] // max(1, x.shape[1])
        grad.copy_(of[..., : x.shape[3]] if group == 1 else of[..., : x.shape[3]].unflatten(1, (-1, group)).sum(2))
    return grads[0], grads[1], grads[2], None, None, None, None


def _sums(q: Tensor, width: int) -> Tensor:
    """Float32 zeros for each row of q, ``width`` of them or one more: kernels add two at a time."""
    return torch.zeros(*q.shape[:3], width + width % 2, dtype=torch.float32, device=q.device)


def _launch(name: str, problem: Problem, *tensors: Any) -> None:
    pattern: Buckets = problem.pattern  # type: ignore[assignment]
    seed = problem.seed if problem.dropout > 0 else None
    rest = (pattern.chunk, pattern.before, pattern.after, pattern.causal, pattern.own, problem.scale, problem.dropout)
    order = pattern.order.contiguous()
    if order.numel() and tensors[0].numel():
        for number in range(order.shape[2]):
            call.launch(name, *tensors, order, seed, number, *rest)
