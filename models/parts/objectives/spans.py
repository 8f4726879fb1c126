"""Whole words and n-grams of words, chosen for masked LM.

A scheme is the distribution of n: ``lengths[n - 1]`` is the share of n-grams among the drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .masking import check_rate

WHOLE_WORDS = (1.0,)
"""Every token of a word or none (google-research/bert, ``do_whole_word_mask``)."""
MACBERT = (0.4, 0.3, 0.2, 0.1)
"""Words to 4-grams of words (Cui et al. 2020, arXiv:2004.13922, section 3.1)."""
UNILM = (0.8, 0.1, 0.1)
"""A token in 80 % of the cases, else a bigram or trigram (Dong et al. 2019, arXiv:1905.03197,
section 2.3)."""


def inverse_lengths(longest: int = 3) -> tuple[float, ...]:
    """p(n) in proportion to 1 / n: ALBERT's distribution (Lan et al. 2020, arXiv:1909.11942,
    section 4.1).

    Example:
        >>> [round(p, 3) for p in inverse_lengths()]
        [0.545, 0.273, 0.182]
    """
    if longest < 1:
        raise ValueError(f"longest: at least 1 is allowed, got {longest}")
    weights = [1 / n for n in range(1, longest + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def choose_ngrams(
    word_ids: Tensor,
    *,
    lengths: Sequence[float] = WHOLE_WORDS,
    rate: float = 0.15,
    generator: torch.Generator | None = None,
) -> Tensor:
    """All tokens of n-grams of words.

    A stretch of words without a special token among them gets as many n-grams as hold ``rate``
    of its words in expectation, their lengths drawn from ``lengths``, put at random places where
    they do not overlap. So the lengths are distributed as published. (The authors' programs
    try one start after the other and give up those that overlap, which are mostly long ones.)

    Args:
        word_ids: ``(B, S)`` integers: tokens with the same number beside one another are one
            word; -1 is a special token or padding, never chosen. A tokenizer's ``word_ids`` with
            -1 for None, or of :func:`segmented`; ``arange`` makes every token a word.
        lengths: Probabilities of 1-grams, 2-grams, ... In a stretch with fewer words than that,
            those that fit.
        rate: Share of the words; exact up to about 0.5, less than asked above that.

    Returns:
        ``(B, S)`` booleans.

    Example:
        >>> words = torch.tensor([[-1, 0, 0, 1, 2, 2, -1]])
        >>> chosen = choose_ngrams(words, rate=0.5)
        >>> bool(chosen[0, 1] == chosen[0, 2]), bool(chosen[0, 4] == chosen[0, 5])
        (True, True)
    """
    check_rate(rate)
    share = torch.tensor(lengths, dtype=torch.float64)
    if share.dim() != 1 or len(share) == 0 or bool((share < 0).any()) or abs(float(share.sum()) - 1) > 1e-6:
        raise ValueError(f"lengths: probabilities with a sum of 1 are allowed, got {lengths}")
    check_words(word_ids)
    starts = word_starts(word_ids)
    chosen = torch.zeros_like(word_ids, dtype=torch.bool)
    for row, first, last in _stretches(word_ids):
        word = starts[row, first:last].cumsum(0) - 1  # each token's word in the stretch
        chosen[row, first:last] = _choose(int(word[-1]) + 1, share, rate, generator).to(word.device)[word]
    return chosen


def _choose(words: int, share: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """``(words,)`` booleans."""
    share = share[:words]
    if not share.any():  # none of these n-grams fits
        return torch.zeros(words, dtype=torch.bool)
    mean = float((share * torch.arange(1, len(share) + 1)).sum() / share.sum())
    device = None if generator is None else generator.device
    # Rounded at random, the number of n-grams is right in expectation.
    count = int(rate * words / mean + torch.rand((), generator=generator, device=device, dtype=torch.float64))
    if count == 0:
        return torch.zeros(words, dtype=torch.bool)
    sizes = 1 + torch.multinomial(share.to(device), count, replacement=True, generator=generator).cpu()
    sizes = (words - (sizes.cumsum(0) - sizes)).clamp(min=0).minimum(sizes)
    lengths, drawn = scattered(sizes[sizes > 0], words, generator)
    return drawn.repeat_interleave(lengths)


def scattered(sizes: Tensor, total: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Spans of these sizes, together at most ``total``, and the single words between them, in random
    order: the length of each, and whether it is a span."""
    device = None if generator is None else generator.device
    places = len(sizes) + total - int(sizes.sum())
    spans = torch.randperm(places, generator=generator, device=device).cpu()[: len(sizes)]
    lengths = torch.ones(places, dtype=torch.int64).index_copy_(0, spans, sizes)
    return lengths, torch.zeros(places, dtype=torch.bool).index_fill_(0, spans, True)


def _stretches(word_ids: Tensor) -> Iterable[tuple[int, int, int]]:
    """``(row, first, last)`` of tokens without a special one among them, ``last`` excluded."""
    inside = torch.nn.functional.pad((word_ids >= 0).int(), (1, 1))
    step = inside.diff(dim=1)
    firsts, lasts = (step == 1).nonzero().tolist(), (step == -1).nonzero().tolist()
    return [(row, first, last) for (row, first), (_, last) in zip(firsts, lasts, strict=True)]


def word_starts(word_ids: Tensor) -> Tensor:
    """``(B, S)`` booleans: the first token of each word, or of each stretch of special ones."""
    starts = torch.ones_like(word_ids, dtype=torch.bool)
    starts[:, 1:] = word_ids[:, 1:] != word_ids[:, :-1]
    return starts


def check_words(word_ids: Tensor) -> None:
    if word_ids.dim() != 2 or word_ids.is_floating_point() or word_ids.dtype == torch.bool:
        raise ValueError(
            f"word_ids: integers of shape (B, S) are allowed, got {word_ids.dtype} of {tuple(word_ids.shape)}"
        )


def segmented(text: str, offsets: Sequence[tuple[int, int]], segment: Callable[[str], Iterable[str]]) -> list[int]:
    """The word of each token, where a segmenter says what a word is: Chinese whole words (Cui et
    al. 2019, arXiv:1906.08101), of which BERT's tokens are the characters.

    Args:
        offsets: First and last (excluded) character of each token in the text, as tokenizers
            give them; empty for special tokens.
        segment: From a text to its words, in order; together they are the text (``jieba.lcut``).

    Returns:
        For each token the number of the word in which it starts, -1 if it is empty.

    Example:
        >>> offsets = [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (0, 0)]
        >>> segmented("语言模型", offsets, lambda text: ["语言", "模型"])
        [-1, 0, 0, 1, 1, -1]
    """
    parts = list(segment(text))
    if "".join(parts) != text:
        raise ValueError(f"segment: words that together are the text are allowed, got {parts[:8]} of {text[:40]!r}")
    word_of = [number for number, part in enumerate(parts) for _ in part]
    if any(not 0 <= first <= last <= len(text) for first, last in offsets):
        raise ValueError(f"offsets: places from 0 to {len(text)} are allowed, got {list(offsets)[:8]}")
    return [word_of[first] if last > first else -1 for first, last in offsets]
