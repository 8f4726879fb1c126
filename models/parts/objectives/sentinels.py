"""T5's objective: spans of the text are hidden behind sentinels, and the target tells them (Raffel et al.
2019, arXiv:1910.10683, section 3.1.4, figure 2; spans of mean length 3: section 3.3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from .masking import check_rate, same_shape

SENTINEL, SENTINELS = 32099, 100
"""Id of the first sentinel in T5's vocabulary, after which they count down, and how many there are."""


def span_counts(length: int, *, rate: float = 0.15, mean: float = 3.0) -> tuple[int, int]:
    """``(tokens that are hidden, spans that they make)`` of a text, as T5's code rounds them
    (``random_spans_noise_mask``).

    Example:
        >>> span_counts(568)
        (85, 28)
    """
    check_rate(rate)
    if length < 2:
        raise ValueError(f"length: at least 2 is allowed, got {length}")
    if mean < 1:
        raise ValueError(f"mean: at least 1 is allowed, got {mean}")
    hidden = min(max(round(length * rate), 1), length - 1)
    return hidden, min(max(round(hidden / mean), 1), hidden, length - hidden)


def fitting_length(inputs: int, *, rate: float = 0.15, mean: float = 3.0) -> tuple[int, int]:
    """``(tokens, targets)``: how long a text is whose input, with its end, fills ``inputs`` tokens, and
    how long its target.

    Example:
        >>> fitting_length(512)
        (568, 114)
    """
    if inputs < 3:
        raise ValueError(f"inputs: at least 3 is allowed, got {inputs}")

    def sizes(length: int) -> tuple[int, int]:
        hidden, spans = span_counts(length, rate=rate, mean=mean)
        return length - hidden + spans + 1, hidden + spans + 1

    length = 2
    while sizes(length + 1)[0] <= inputs:
        length += 1
    return length, sizes(length)[1]


def choose_spans(
    length: int, *, rate: float = 0.15, mean: float = 3.0, generator: torch.Generator | None = None
) -> Tensor:
    """Which tokens of a text are hidden: as many spans as hold ``rate`` of them at ``mean`` tokens each.
    All ways to cut the hidden tokens into spans are equally likely, and so are all ways to cut the
    others; one of these comes first.

    Returns:
        ``(length,)`` booleans.

    Example:
        >>> int(choose_spans(100).sum())
        15
    """
    hidden, spans = span_counts(length, rate=rate, mean=mean)
    cuts = [_cut(size, spans, generator) for size in (length - hidden, hidden)]
    return torch.tensor([False, True]).repeat(spans).repeat_interleave(torch.stack(cuts, 1).flatten())


def _cut(size: int, parts: int, generator: torch.Generator | None) -> Tensor:
    """Lengths of ``parts`` parts of ``size``, none empty."""
    device = None if generator is None else generator.device
    cuts = 1 + torch.randperm(size - 1, generator=generator, device=device).cpu()[: parts - 1].sort().values
    return torch.cat([torch.tensor([0]), cuts, torch.tensor([size])]).diff()


def hide_spans(
    tokens: Tensor, chosen: Tensor, *, sentinel: int = SENTINEL, sentinels: int = SENTINELS
) -> tuple[Tensor, Tensor]:
    """Input and target of a text: in the input a sentinel stands for each span, and in the target each
    span follows its sentinel, and one more the last span if the text goes on after it.

    Args:
        tokens: ``(n,)`` integers.
        chosen: ``(n,)`` booleans, the spans.
        sentinel: Id of the first; the next is one less, ``sentinels`` in all.

    Example:
        >>> chosen = torch.tensor([False, False, True, True, False, True, False])
        >>> hide_spans(torch.arange(1, 8), chosen, sentinel=99)
        (tensor([ 1,  2, 99,  5, 98,  7]), tensor([99,  3,  4, 98,  6, 97]))
    """
    same_shape("chosen", chosen, tokens)
    starts = chosen & ~torch.nn.functional.pad(chosen, (1, 0))[:-1]
    needed = int(starts.sum()) + int(len(chosen) > 0 and not bool(chosen[-1]))
    if needed > sentinels:
        raise ValueError(f"chosen: spans for {sentinels} sentinels are allowed, got {needed - 1} and the end")
    mark = (sentinel + 1 - starts.cumsum(0)).to(tokens.dtype)
    inputs = torch.where(chosen, mark, tokens)[~chosen | starts]
    # Twice as many places: the first of two is for a span's sentinel.
    pairs = torch.stack([mark, tokens], 1)
    target = pairs[torch.stack([starts, chosen], 1)]
    if len(chosen) and not bool(chosen[-1]):
        target = torch.cat([target, target.new_tensor([sentinel + 1 - needed])])
    return inputs, target


def span_corruption(
    tokens: Tensor,
    *,
    end: int,
    rate: float = 0.15,
    mean: float = 3.0,
    sentinel: int = SENTINEL,
    sentinels: int = SENTINELS,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """``input_ids`` and ``labels`` of texts of one length, each ending in ``end``.

    Args:
        tokens: ``(B, n)`` integers, without special ones.
        rate, mean: As for :func:`choose_spans`.
        sentinel, sentinels: As for :func:`hide_spans`.

    Returns:
        ``(B, S)`` and ``(B, T)``: all rows are of the same sizes (:func:`fitting_length`).

    Example:
        >>> [tuple(x.shape) for x in span_corruption(torch.full((4, 568), 7), end=1)]
        [(4, 512), (4, 114)]
    """
    if tokens.dim() != 2 or tokens.is_floating_point():
        raise ValueError(f"tokens: integers of shape (B, n) are allowed, got {tokens.dtype} of {tuple(tokens.shape)}")
    rows = [
        hide_spans(row, chosen.to(row.device), sentinel=sentinel, sentinels=sentinels)
        for row in tokens
        for chosen in [choose_spans(len(row), rate=rate, mean=mean, generator=generator)]
    ]
    inputs, labels = (torch.stack(side) for side in zip(*rows, strict=True))
    return tuple(torch.nn.functional.pad(x, (0, 1), value=end) for x in (inputs, labels))  # type: ignore[return-value]
