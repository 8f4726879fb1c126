"""The softmax over a large vocabulary by a sample of it (Jean et al. 2014, arXiv:1412.2007)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..layouts import IGNORED


def log_uniform(count: int, words: int, generator: torch.Generator | None = None) -> tuple[Tensor, int]:
    """``count`` different words, drawn by Zipf's law: word w, counted from 0 by falling frequency, with
    probability ``log((w + 2) / (w + 1)) / log(words + 1)`` (TensorFlow's ``log_uniform_candidate_sampler``).

    Returns:
        ``(ids (count,), tries)``; so many draws were needed until they were all different.

    Example:
        >>> ids, tries = log_uniform(4, 5, torch.Generator().manual_seed(0))
        >>> len(ids.unique()), tries >= 4
        (4, True)
    """
    if not 1 <= count < words:
        raise ValueError(f"count: between 1 and {words - 1}, fewer than there are words, is allowed, got {count}")
    drawn = torch.empty(0, dtype=torch.int64)
    while True:
        uniform = torch.rand(2 * count, dtype=torch.float64, generator=generator)
        new = ((uniform * math.log(words + 1)).exp().long() - 1).clamp(0, words - 1)
        drawn = torch.cat([drawn, new])
        ids, which = drawn.unique(return_inverse=True)
        if len(ids) >= count:
            index = torch.arange(len(drawn))
            first = torch.full_like(ids, len(drawn)).scatter_reduce(0, which, index, "amin")
            firsts, order = first.sort()
            return ids[order[:count]], int(firsts[count - 1]) + 1


def expected_counts(ids: Tensor, words: int, tries: int) -> Tensor:
    """How likely each word is among those of :func:`log_uniform`, in float64."""
    p = torch.log1p(1 / (ids.double() + 1)) / math.log(words + 1)
    return -torch.expm1(tries * torch.log1p(-p))


def sampled_softmax_loss(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, count: int, generator: torch.Generator | None = None
) -> Tensor:
    """Mean cross-entropy of each target against ``count`` words drawn by :func:`log_uniform`, the same for
    all; scores are lowered by the logarithm of the expected counts, and a drawn word that is the
    target itself does not count (as TensorFlow's ``sampled_softmax_loss``, with which ELMo was trained).

    Args:
        states: ``(N, P)``.
        weight, bias: ``(V, P)`` and ``(V,)``; words by falling frequency.
        targets: ``(N,)``, -100 where there is none.

    Returns:
        A scalar. Memory grows with ``count``, not with V; the gradients of all V words are mostly 0.

    Example:
        >>> states, weight, bias = torch.randn(6, 4), torch.randn(1000, 4), torch.zeros(1000)
        >>> float(sampled_softmax_loss(states, weight, bias, torch.tensor([5, 0, 999, 1, 2, -100]), 20)) > 0
        True
    """
    vocabulary = weight.shape[0]
    if states.dim() != 2 or targets.shape != states.shape[:1]:
        raise ValueError(
            f"states, targets: shapes (N, P) and (N,) are allowed, got {tuple(states.shape)} and {tuple(targets.shape)}"
        )
    drawn, tries = log_uniform(count, vocabulary, generator)
    drawn = drawn.to(states.device)
    there = targets != IGNORED
    true = targets.where(there, 0)
    both = torch.cat([true, drawn])
    corrected = bias[both] - expected_counts(both, vocabulary, tries).log().to(bias.dtype)
    rows = weight[both]
    own = (states * rows[: len(true)]).sum(-1) + corrected[: len(true)]
    others = torch.addmm(corrected[len(true) :], states, rows[len(true) :].mT)
    others = others.masked_fill(true[:, None] == drawn, -torch.inf)
    scores = torch.cat([own[:, None], others], 1)
    return F.cross_entropy(scores, torch.zeros_like(true).where(there, IGNORED))
