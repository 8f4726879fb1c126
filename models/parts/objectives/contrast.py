"""Contrast with several positives (Li et al. 2020, arXiv:2012.15409, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def contrastive_loss(scores: Tensor, positive: Tensor, allowed: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``-log(sum of exp(score / t) over positives / the same over all that is allowed)``, mean over rows.

    Args:
        scores: ``(A, C)``: of C candidates for each of A anchors.
        positive: ``(A, C)`` booleans, at least one a row, all of them allowed.
        allowed: ``(A, C)`` booleans: an anchor's candidates.
        temperature: t.

    Returns:
        A scalar, summed in float32 (float64 of float64).

    Example:
        >>> positive = torch.tensor([[True, False, False]])
        >>> allowed = torch.tensor([[True, True, False]])
        >>> round(float(contrastive_loss(torch.zeros(1, 3), positive, allowed)), 4)
        0.6931
    """
    for name, x in (("positive", positive), ("allowed", allowed)):
        if x.shape != scores.shape or x.dtype != torch.bool or scores.dim() != 2:
            seen = f"{x.dtype} of {tuple(x.shape)}"
            raise ValueError(f"{name}: booleans of the scores' shape (A, C) are allowed, got {seen}")
    if not temperature > 0:
        raise ValueError(f"temperature: above 0 is allowed, got {temperature}")
    if not torch.compiler.is_compiling() and not bool((positive & allowed).any(1).all()):
        raise ValueError("positive: at least one allowed candidate for each anchor is needed")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    right, all_ = (scores.masked_fill(~keep, float("-inf")).logsumexp(1) for keep in (positive & allowed, allowed))
    return (all_ - right).mean()
