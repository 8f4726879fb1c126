"""Word-region alignment: what it costs to carry the words of a text over to the regions of a picture
(Chen et al. 2019, arXiv:1909.11740, section 3.2, equation 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def alignment_cost(
    words: Tensor,
    regions: Tensor,
    real_words: Tensor,
    real_regions: Tensor,
    *,
    beta: float = 0.5,
    steps: int = 50,
    inner: int = 1,
) -> Tensor:
    """The cost of optimal transport between the states of words and of regions, each of a row having
    the same weight; a pair costs 1 less its cosine.

    The plan is that of :func:`ipot`. No gradient goes through it, only through the costs (as in the
    authors' program). It runs in float32 (float64 of float64), under autocast too.

    Args:
        words: ``(B, T, H)``.
        regions: ``(B, R, H)``.
        real_words, real_regions: ``(B, T)`` and ``(B, R)`` booleans.
        beta, steps, inner: As :func:`ipot` takes them.

    Returns:
        ``(B,)``; 0 where a row has no words or no regions.

    Example:
        >>> x = torch.eye(3)[None]
        >>> real = torch.ones(1, 3, dtype=torch.bool)
        >>> [round(float(alignment_cost(x, y, real, real)), 3) for y in (x.flip(1), -x)]
        [0.0, 1.0]
    """
    if words.dim() != 3 or regions.dim() != 3 or words.shape[::2] != regions.shape[::2]:
        raise ValueError(
            f"words, regions: shapes (B, T, H) and (B, R, H) are allowed, "
            f"got {tuple(words.shape)} and {tuple(regions.shape)}"
        )
    dtype = torch.promote_types(words.dtype, torch.float32)
    with torch.autocast(words.device.type, enabled=False):
        # 1e-5 is the authors': a state of nearly 0 has no direction.
        x, y = (F.normalize(z.to(dtype), dim=-1, eps=1e-5) for z in (words, regions))
        costs = 1 - x @ y.mT
        plan = ipot(costs.detach(), real_words, real_regions, beta=beta, steps=steps, inner=inner)
        return (costs * plan).sum((1, 2))


@torch.no_grad()
def ipot(
    costs: Tensor, real_rows: Tensor, real_columns: Tensor, *, beta: float = 0.5, steps: int = 50, inner: int = 1
) -> Tensor:
    """A plan of transport between two uniform distributions, by inexact proximal steps (Xie et al. 2018,
    arXiv:1802.04307, algorithm 1). It tends to the optimal plan, with no blur that stays.

    Args:
        costs: ``(B, M, N)`` floats.
        real_rows, real_columns: ``(B, M)`` and ``(B, N)`` booleans.
        beta: How near a step stays to the plan before it.
        steps, inner: Proximal steps, and scalings to the two distributions in each.

    Returns:
        ``(B, M, N)``, 0 where a row or a column is not real; rows have the sum 1 / (real rows), columns
        come to theirs.

    Example:
        >>> ipot(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), *torch.ones(2, 1, 2, dtype=torch.bool)).round(decimals=3)
        tensor([[[0.5000, 0.0000],
                 [0.0000, 0.5000]]])
    """
    _check(costs, real_rows, real_columns, beta, steps, inner)
    real = real_rows[:, :, None] & real_columns[:, None, :]
    kernel = torch.exp(costs / -beta) * real
    plan = real.to(costs.dtype)
    per_row, per_column = (1 / x.sum(1).clamp(min=1)[:, None, None].to(costs.dtype) for x in (real_rows, real_columns))
    rows = real_rows[:, :, None] * per_row
    for _ in range(steps):
        q = kernel * plan
        for _ in range(inner):
            columns = _shares(per_column, rows.mT @ q)
            rows = _shares(per_row, q @ columns.mT)
        plan = rows * q * columns
    return plan


def _shares(each: Tensor, mass: Tensor) -> Tensor:
    """``each / mass`` where there is something; there is nothing in padding."""
    return torch.where(mass > 0, each / mass, 0)


def _check(costs: Tensor, rows: Tensor, columns: Tensor, beta: float, steps: int, inner: int) -> None:
    if costs.dim() != 3 or not costs.is_floating_point():
        raise ValueError(f"costs: floats of shape (B, M, N) are allowed, got {costs.dtype} of {tuple(costs.shape)}")
    for name, real, shape in (("real_rows", rows, costs.shape[:2]), ("real_columns", columns, costs.shape[::2])):
        if real.shape != shape or real.dtype != torch.bool:
            seen = f"{real.dtype} of {tuple(real.shape)}"
            raise ValueError(f"{name}: booleans of shape {tuple(shape)} are allowed, got {seen}")
    if not beta > 0:
        raise ValueError(f"beta: above 0 is allowed, got {beta}")
    if min(steps, inner) < 1:
        raise ValueError(f"steps, inner: at least 1 is allowed, got {steps}, {inner}")
