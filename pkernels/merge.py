"""Attention over disjoint sets of keys, put together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def merge(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Combine partial attentions of the same queries by their log-sum-exps.

    Each part attended to its own keys; the result is what one attention over all of them
    gives (Dao et al. 2022, arXiv:2205.14135, section 3.1, for the algebra). Differentiable
    in every argument, which is what LSH rounds, local plus global parts, ring steps and
    split decoding need.

    Args:
        outs: Parts of shape ``(..., Sq, D)``, same shape and dtype.
        lses: Their natural log-sum-exps, ``(..., Sq)``, float32 (float64 in the reference).

    Returns:
        ``(out, lse)``. Rows that are empty in every part give 0 and ``-inf``.

    Raises:
        ValueError: If the parts do not match.

    Example:
        >>> out, lse = merge([torch.ones(2, 4), torch.zeros(2, 4)], [torch.zeros(2), torch.zeros(2)])
        >>> out[0].tolist()
        [0.5, 0.5, 0.5, 0.5]
    """
    if not outs or len(outs) != len(lses):
        raise ValueError(f"outs, lses: as many of each and at least one are allowed, got {len(outs)} and {len(lses)}")
    for out, lse in zip(outs, lses, strict=True):
        if out.shape != outs[0].shape or lse.shape != out.shape[:-1]:
            raise ValueError(
                f"outs, lses: shapes (..., Sq, D) and (..., Sq) that agree are allowed, got {tuple(out.shape)} "
                f"and {tuple(lse.shape)} beside {tuple(outs[0].shape)}"
            )
    top = torch.stack([lse.detach() for lse in lses]).amax(0)
    top = torch.where(top == -torch.inf, 0, top)
    weights = [torch.exp(lse - top) for lse in lses]
    total = torch.stack(weights).sum(0)
    empty = total == 0
    share = torch.where(empty, 1, total)
    shares = [(weight / share)[..., None] for weight in weights]
    mixed = shares[0] * outs[0].to(top.dtype)
    for weight, out in zip(shares[1:], outs[1:], strict=True):
        mixed = torch.addcmul(mixed, weight, out.to(top.dtype))
    return mixed.to(outs[0].dtype), torch.where(empty, -torch.inf, torch.log(share) + top)
