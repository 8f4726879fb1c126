"""Masked regions: which are hidden, and three ways to tell what was there (Chen et al. 2019,
arXiv:1909.11740, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..layouts import IGNORED
from .masking import check_rate, choose_tokens


def choose_regions(
    lengths: Tensor, size: int, *, rate: float = 0.15, first: int = 0, generator: torch.Generator | None = None
) -> Tensor:
    """Each region by itself with probability ``rate``, and at least one of each picture.

    Args:
        lengths: ``(B,)``, regions of each picture.
        size: Regions in a row of the batch.
        first: Regions before this one are never chosen (1 where a global region stands first).

    Returns:
        ``(B, size)`` booleans.

    Example:
        >>> choose_regions(torch.tensor([1, 3]), 3, rate=1.0)
        tensor([[ True, False, False],
                [ True,  True,  True]])
    """
    if int(lengths.min()) <= first or int(lengths.max()) > size:
        raise ValueError(f"lengths: {first + 1} to {size} are allowed, got {lengths.tolist()}")
    place = torch.arange(size, device=lengths.device)
    barred = (place < first) | (place >= lengths[:, None])
    return at_least_one(choose_tokens(barred, rate=rate, generator=generator), barred, generator)


def at_least_one(chosen: Tensor, barred: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """``chosen (B, S)``, with one more of those that are not ``barred`` in rows that have none."""
    draw = torch.rand(chosen.shape, generator=generator, device=chosen.device).masked_fill(barred, -1)
    one = F.one_hot(draw.argmax(1), chosen.shape[1]).bool() & ~barred
    return chosen | (one & ~chosen.any(1, keepdim=True))


def spread_overlapping(chosen: Tensor, boxes: Tensor, lengths: Tensor, *, overlap: float = 0.4) -> Tensor:
    """The chosen regions and those that overlap one of them so much that they would give it away
    (Li et al. 2020, arXiv:2012.15409, section 2.2; the bound of the overlap is not published).

    Args:
        chosen: ``(B, R)`` booleans.
        boxes: ``(B, R, 4)``: x1, y1, x2, y2 in any unit.
        lengths: ``(B,)``; places from there on are padding.
        overlap: The least intersection over union.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [8, 8, 20, 20]]])
        >>> spread_overlapping(torch.tensor([[True, False, False]]), boxes, torch.tensor([3]))
        tensor([[ True,  True, False]])
    """
    check_rate(overlap)
    if chosen.dtype != torch.bool or boxes.shape != (*chosen.shape, 4):
        raise ValueError(
            f"chosen, boxes: booleans (B, R) and shape (B, R, 4) are allowed, "
            f"got {chosen.dtype} of {tuple(chosen.shape)} and {tuple(boxes.shape)}"
        )
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
    union = area[:, :, None] + area[:, None, :] - common
    near = common > overlap * union
    real = torch.arange(chosen.shape[1], device=chosen.device) < lengths[:, None]
    return chosen | ((near & chosen[:, None, :]).any(-1) & real)


def feature_loss(predicted: Tensor, features: Tensor, masked: Tensor) -> Tensor:
    """Regression of the hidden features: squared error, mean over masked regions and over features
    (section 3.2, "Masked Region Feature Regression"; the mean is the authors' program's).

    Args:
        predicted, features: ``(..., D)``.
        masked: ``(...)`` booleans. Without one that is true the loss is 0.

    Example:
        >>> float(feature_loss(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), torch.tensor([[True, False]])))
        1.0
    """
    check_shape("features", features, predicted.shape)
    return _mean_of((predicted - features).square().mean(-1), masked)


def best_classes(probabilities: Tensor, masked: Tensor) -> Tensor:
    """Labels of classification: the detector's best class other than the background (0) where a region
    is masked, elsewhere -100.

    Args:
        probabilities: ``(..., C)``.
        masked: ``(...)`` booleans.

    Example:
        >>> best_classes(torch.tensor([[0.9, 0.0, 0.1], [0.0, 1.0, 0.0]]), torch.tensor([True, False]))
        tensor([   2, -100])
    """
    return (probabilities[..., 1:].argmax(-1) + 1).where(masked, IGNORED)


def divergence_loss(logits: Tensor, probabilities: Tensor, masked: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the predicted classes from the detector's probabilities, mean over
    masked regions (section 3.2, "MRC-kl"; the authors' program divides by the number of classes too).

    Args:
        logits, probabilities: ``(..., C)``, with the background.
        masked: ``(...)`` booleans. Without one that is true the loss is 0.

    Example:
        >>> p = torch.tensor([[0.5, 0.5]])
        >>> float(divergence_loss(p.log(), p, torch.tensor([True])))
        0.0
    """
    check_shape("probabilities", probabilities, logits.shape)
    parts = F.kl_div(logits.log_softmax(-1), probabilities.to(logits.dtype), reduction="none")
    return _mean_of(parts.sum(-1), masked)


def _mean_of(values: Tensor, masked: Tensor) -> Tensor:
    if masked.shape != values.shape or masked.dtype != torch.bool:
        seen = f"{masked.dtype} of {tuple(masked.shape)}"
        raise ValueError(f"masked: booleans of shape {tuple(values.shape)} are allowed, got {seen}")
    return values.where(masked, 0).sum() / masked.sum().clamp(min=1)


def check_shape(name: str, given: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(given.shape) != tuple(shape):
        raise ValueError(f"{name}: shape {tuple(shape)} is allowed, got {tuple(given.shape)}")
