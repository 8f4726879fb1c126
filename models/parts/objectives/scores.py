"""How far a student's attention scores are from the teacher's, without an (S, S) tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def score_loss(
    q: Tensor,
    k: Tensor,
    teacher_q: Tensor,
    teacher_k: Tensor,
    *,
    real: Tensor | None = None,
    scale: float | None = None,
    teacher_scale: float | None = None,
    tile: int = 128,
) -> Tensor:
    """Mean squared error of the scores before the softmax, over heads and pairs of real tokens:
    TinyBERT's attention loss (Jiao et al. 2020, arXiv:1909.10351, equation 7).

    Scores exist for one tile of queries and keys at a time, and each tile gives its part of the
    loss and of both gradients at once. So memory grows with S, not with S². Sums run in float32
    (float64 of float64).

    Args:
        q, k: The student's, ``(B, H, S, D)``.
        teacher_q, teacher_k: ``(B, H, S, D')``, without gradient.
        real: ``(B, S)`` booleans; pairs with another token do not count.
        scale, teacher_scale: Of the products, ``1 / sqrt(D)`` if not given.
        tile: Queries and keys of a tile.

    Returns:
        A scalar, differentiable once in q and k.

    Example:
        >>> q, k = torch.randn(2, 1, 3, 300, 26)
        >>> float(score_loss(q, k, q, k)) < 1e-9
        True
    """
    _check(q, k, teacher_q, teacher_k, real, tile)
    if real is not None:  # then their scores are 0 on both sides
        q, k, teacher_q, teacher_k = (x.where(real[:, None, :, None], 0) for x in (q, k, teacher_q, teacher_k))
    pairs = q.shape[0] * q.shape[2] ** 2 if real is None else real.sum(1).square().sum()
    scales = (_scale(scale, q), _scale(teacher_scale, teacher_q))
    squares = _SquaredDifference.apply(q, k, teacher_q.detach(), teacher_k.detach(), *scales, tile)
    return squares / (pairs * q.shape[1])


def _scale(scale: float | None, q: Tensor) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


class _SquaredDifference(torch.autograd.Function):
    """``sum((scale q k^T - teacher_scale teacher_q teacher_k^T)²)``."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, tq: Tensor, tk: Tensor, scale: float, teacher_scale: float, tile: int
    ) -> Tensor:
        dtype = torch.promote_types(q.dtype, torch.float32)
        # The difference is one product: of [scale q, -teacher_scale teacher_q] and [k, teacher_k].
        total = torch.zeros((), dtype=dtype, device=q.device)
        dq, dk = (torch.zeros_like(x, dtype=dtype) for x in (q, k))
        with torch.autocast(q.device.type, enabled=False):
            for rows in _tiles(q.shape[2], tile):
                q_i = q[:, :, rows].to(dtype) * scale
                both_q = torch.cat([q_i, tq[:, :, rows].to(dtype) * -teacher_scale], dim=-1)
                for columns in _tiles(k.shape[2], tile):
                    k_j = k[:, :, columns].to(dtype)
                    difference = both_q @ torch.cat([k_j, tk[:, :, columns].to(dtype)], dim=-1).mT
                    total += difference.square().sum()
                    if any(ctx.needs_input_grad):
                        dq[:, :, rows] += difference @ k_j
                        dk[:, :, columns] += difference.mT @ q_i
        ctx.save_for_backward(dq.mul_(2 * scale), dk.mul_(2))
        ctx.dtypes = (q.dtype, k.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the gradients that were kept know nothing of q and k
            raise RuntimeError("score_loss: create_graph=False is allowed, as it is differentiable once")
        dq, dk = ((gradient * x).to(dtype) for x, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True))
        return dq, dk, None, None, None, None, None


def _tiles(size: int, tile: int) -> list[slice]:
    return [slice(first, first + tile) for first in range(0, size, tile)]


def _check(q: Tensor, k: Tensor, teacher_q: Tensor, teacher_k: Tensor, real: Tensor | None, tile: int) -> None:
    if q.dim() != 4 or not q.is_floating_point():
        raise ValueError(f"q: floats of shape (B, H, S, D) are allowed, got {q.dtype} of {tuple(q.shape)}")
    pairs = {"k": (k, q.shape), "teacher_q": (teacher_q, q.shape[:3]), "teacher_k": (teacher_k, teacher_q.shape)}
    for name, (x, shape) in pairs.items():
        if x.dim() != 4 or x.shape[: len(shape)] != shape:
            wanted = (*shape, "D'")[:4]
            raise ValueError(f"{name}: shape {wanted} is allowed, got {tuple(x.shape)}")
    if real is not None and (real.shape != (q.shape[0], q.shape[2]) or real.dtype != torch.bool):
        wanted = (q.shape[0], q.shape[2])
        raise ValueError(f"real: booleans of shape {wanted} are allowed, got {real.dtype} of {tuple(real.shape)}")
    if tile < 1:
        raise ValueError(f"tile: at least 1 is allowed, got {tile}")
