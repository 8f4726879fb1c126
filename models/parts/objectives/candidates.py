"""Contrast between a text with its picture, rewritten texts and what retrieval found (Li et al. 2020,
arXiv:2012.15409, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..regions import Caption
from .image_text import Arguments, Pairs, seen


@dataclass
class ContrastBatch:
    """A anchors, pairs of a text and a picture, and their candidates.

    Args:
        pairs: Arguments for N texts with pictures, to be read together.
        anchors: ``(N,)``, the anchor of each.
        positive: ``(N,)`` booleans: whether they belong together; each anchor has one that does.
        texts: Arguments for texts alone: the anchors' own A, then those that retrieval found.
        text_anchors: The anchors of the latter.
        images: The same of pictures alone.
        image_anchors: The anchors of those found.
    """

    pairs: Arguments
    anchors: Tensor
    positive: Tensor
    texts: Arguments
    text_anchors: Tensor
    images: Arguments
    image_anchors: Tensor


def contrast_batch(pairs: Pairs, captions: Sequence[Caption]) -> ContrastBatch:
    """Section 2.3: to each picture its own text and those rewritten as positives, the texts rewritten as
    negatives and those of the other anchors; and what retrieval found, to be read alone.

    Args:
        captions: The anchors, at least one.
    """
    if not captions:
        raise ValueError("captions: at least one is allowed, got none")
    rows = [(i, text, True) for i, c in enumerate(captions) for text in (c.caption, *c.positives)]
    rows += [(i, text, False) for i, c in enumerate(captions) for text in c.negatives]
    rows += [
        (i, other.caption, False)
        for i, c in enumerate(captions)
        for other in captions
        if other.image != c.image and other.caption != c.caption
    ]
    joint = pairs.pictures([captions[i].image for i, _, _ in rows])
    texts = [(i, text) for i, c in enumerate(captions) for text in c.similar_texts]
    images = [(i, name) for i, c in enumerate(captions) for name in c.similar_images]
    return ContrastBatch(
        {**pairs.texts([text for _, text, _ in rows]), **seen(joint)},
        torch.tensor([i for i, _, _ in rows]),
        torch.tensor([good for _, _, good in rows]),
        pairs.texts([*(c.caption for c in captions), *(text for _, text in texts)]),
        torch.tensor([i for i, _ in texts], dtype=torch.int64),
        seen(pairs.pictures([*(c.image for c in captions), *(name for _, name in images)])),
        torch.tensor([i for i, _ in images], dtype=torch.int64),
    )


def candidates_loss(scores: Tensor, positive: Tensor, allowed: Tensor, *, temperature: float = 1.0) -> Tensor:
    """``-log(sum of exp(score / t) over positives / the same over all that is allowed)``, mean over rows
    .

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
         >>> round(float(candidates_loss(torch.zeros(1, 3), positive, allowed)), 4)
         0.6931
    """
    for name, x in (("positive", positive), ("allowed", allowed)):
        if x.shape != scores.shape or x.dtype != torch.bool or scores.dim() != 2:
            seen_ = f"{x.dtype} of {tuple(x.shape)}"
            raise ValueError(f"{name}: booleans of the scores' shape (A, C) are allowed, got {seen_}")
    if not temperature > 0:
        raise ValueError(f"temperature: above 0 is allowed, got {temperature}")
    if not torch.compiler.is_compiling() and not bool((positive & allowed).any(1).all()):
        raise ValueError("positive: at least one allowed candidate for each anchor is needed")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) / temperature
    right, every = (scores.masked_fill(~keep, float("-inf")).logsumexp(1) for keep in (positive & allowed, allowed))
    return (every - right).mean()
