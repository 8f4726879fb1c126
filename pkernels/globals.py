"""Attention with scattered global positions, as a merge of three dense or banded parts."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .attention import _seed, attention
from .bias import Dense
from .checks import check_tensors
from .merge import merge
from .patterns import Band
from .patterns import dense as everything
from .sequences import spans


def global_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    pattern: Band,
    *,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    scale: float | None = None,
    lengths: Tensor | None = None,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Self-attention over ``pattern``, with global positions that see and are seen by all.

    Local rows attend to the union of what ``pattern`` keeps and the global keys, each key
    once. Global rows attend to every key, with projections of their own if ``global_qkv``
    is given (Longformer: Beltagy et al. 2020, arXiv:2004.05150, section 3.1, "Global
    Attention" and "Linear Projections for Global Attention").

    Args:
        q, k, v: As for :func:`pkernels.attention`, with Sq == Sk.
        positions: Integer positions, ``(G,)`` or ``(B, G)``, where -1 fills up; or a boolean
            mask ``(B, S)``. Positions past a row's length are left out.
        pattern: What local rows keep beside the global keys.
        global_qkv: q, k and v of the same shapes for the global rows.
        scale, lengths, dropout, seed, backend: As for :func:`pkernels.attention`.

    Returns:
        ``(B, H, S, Dv)``.

    Leading global positions cost less as ``window(..., globals=n)``.

    Example:
        >>> q, k, v = (torch.randn(1, 2, 64, 8) for _ in range(3))
        >>> global_attention(q, k, v, torch.tensor([0, 40]), Band(4, 4)).shape
        torch.Size([1, 2, 64, 8])
    """
    check_tensors(q, k, v)
    size = q.shape[2]
    if k.shape[2] != size:
        raise ValueError(f"k: q's rows are wanted (self-attention), got q {tuple(q.shape)}, k {tuple(k.shape)}")
    if global_qkv is not None and [x.shape for x in global_qkv] != [x.shape for x in (q, k, v)]:
        raise ValueError(
            f"global_qkv: the shapes of q, k and v are allowed, got {[tuple(x.shape) for x in global_qkv]} "
            f"beside {[tuple(x.shape) for x in (q, k, v)]}"
        )
    index, count, mask = _locate(positions, q, spans(q, k, lengths, None).k)
    seeds = _seed(seed, q) + torch.arange(3, device=q.device)[:, None] if dropout > 0 else [None] * 3
    options: dict[str, Any] = {"scale": scale, "dropout": dropout, "backend": backend}

    def pick(x: Tensor) -> Tensor:
        return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

    hidden = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, -torch.inf)
    near = attention(
        q, k, v, pattern, Dense(hidden[:, None, None]), lengths=lengths, seed=seeds[0], return_lse=True, **options
    )
    far = attention(
        q, pick(k), pick(v), everything, lengths=(lengths, count), seed=seeds[1], return_lse=True, **options
    )
    local, _ = merge(*zip(near, far, strict=True))
    gq, gk, gv = (q, k, v) if global_qkv is None else global_qkv
    rows = cast(Tensor, attention(pick(gq), gk, gv, everything, lengths=(count, lengths), seed=seeds[2], **options))

    # Slots without a position are written to a row past the end, then cut off.
    slot = torch.arange(index.shape[1], device=q.device)
    target = torch.where(slot < count[:, None], index, size)[:, None, :, None]
    padded = torch.nn.functional.pad(local, (0, 0, 0, 1))
    return padded.scatter(2, target.expand_as(rows), rows)[:, :, :size]


def _locate(positions: Tensor, q: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Sorted distinct positions ``(B, G)``, how many are real ``(B,)``, and a mask ``(B, S)``."""
    batch, size = q.shape[0], q.shape[2]
    if not isinstance(positions, Tensor):
        raise ValueError(f"positions: a tensor is allowed, got {type(positions).__name__}")
    if positions.dtype == torch.bool:
        if positions.shape != (batch, size):
            raise ValueError(f"positions: a mask of shape ({batch}, {size}) is allowed, got {tuple(positions.shape)}")
        mask, slots = positions.to(q.device), int(positions.sum(-1).max()) if positions.numel() else 0
    else:
        if (
            positions.is_floating_point()
            or positions.dim() not in (1, 2)
            or (positions.dim() == 2 and positions.shape[0] != batch)
        ):
            raise ValueError(
                f"positions: integers of shape (G,) or ({batch}, G), or a boolean mask, are allowed; got "
                f"{positions.dtype} of shape {tuple(positions.shape)}"
            )
        if not torch.compiler.is_compiling() and bool(((positions < -1) | (positions >= size)).any()):
            raise ValueError(f"positions: -1 (none) to {size - 1} is allowed, got {positions.tolist()}")
        index = positions.to(q.device, torch.int64).expand(batch, -1)
        index = torch.where(index < 0, size, index)
        mask = torch.zeros(batch, size + 1, dtype=torch.bool, device=q.device)
        mask, slots = mask.scatter(1, index, True)[:, :size], min(index.shape[1], size)
    if rows is not None:
        mask = mask & (torch.arange(size, device=q.device) < rows[:, 1:])
    index = torch.argsort(~mask, dim=1, stable=True)[:, :slots]
    return index, mask.sum(1).clamp(max=slots).to(torch.int32), mask
