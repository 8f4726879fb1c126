"""BART's noises (Lewis et al. 2019, arXiv:1910.13461, section 2.2): ways to spoil a text that is to be told as
it was. Each takes and gives a :class:`Passage`, so they go together in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .masking import check_rate, choose_tokens
from .spans import scattered


@dataclass(frozen=True, eq=False)
class Passage:
    """A text and its sentences.

    Args:
        tokens: ``(n,)`` integers, without special ones.
        sentence: ``(n,)`` integers: tokens beside one another with the same number are a sentence.
    """

    tokens: Tensor
    sentence: Tensor

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Passage:
        """Of lists of tokens."""
        tokens = torch.tensor([token for sentence in sentences for token in sentence], dtype=torch.int64)
        sizes = torch.tensor([len(sentence) for sentence in sentences], dtype=torch.int64)
        return cls(tokens, torch.arange(len(sizes)).repeat_interleave(sizes))

    def at(self, places: Tensor) -> Passage:
        """The tokens at some places, in that order."""
        return Passage(self.tokens[places], self.sentence[places])

    def __len__(self) -> int:
        return len(self.tokens)


Noise = Callable[..., Passage]
"""Called with a passage and ``generator``."""


def hide(text: Passage, *, mask_id: int, rate: float = 0.15, generator: torch.Generator | None = None) -> Passage:
    """Token masking: each token becomes [MASK] with probability ``rate``.

    Example:
        >>> hide(Passage.of([[5, 6]]), mask_id=3, rate=1.0).tokens
        tensor([3, 3])
    """
    chosen = choose_tokens(torch.zeros_like(text.tokens, dtype=torch.bool), rate=rate, generator=generator)
    return Passage(text.tokens.masked_fill(chosen, mask_id), text.sentence)


def delete(text: Passage, *, rate: float = 0.15, generator: torch.Generator | None = None) -> Passage:
    """Token deletion: each token is gone with probability ``rate``, and nothing tells where.

    Example:
        >>> len(delete(Passage.of([[5, 6]]), rate=1.0))
        0
    """
    chosen = choose_tokens(torch.zeros_like(text.tokens, dtype=torch.bool), rate=rate, generator=generator)
    return text.at(~chosen)


def infill(
    text: Passage,
    *,
    mask_id: int,
    rate: float = 0.3,
    mean: float = 3.0,
    generator: torch.Generator | None = None,
) -> Passage:
    """Text infilling: spans, whose lengths are drawn from a Poisson distribution, each become one [MASK];
    of length 0 it is put in between two tokens.

    As many spans as hold ``rate`` of the tokens in expectation, at random places where they do not
    overlap. (The authors' program draws until ``rate`` is reached and cuts the last span; here
    lengths are distributed as published, but in texts that are shorter than a span.)

    Args:
        rate: Share of the tokens; 0.3 is that of the released models (section 5.1).
        mean: Of the distribution.

    Example:
        >>> infill(Passage.of([[7] * 1000]), mask_id=3).tokens.unique()
        tensor([3, 7])
    """
    check_rate(rate)
    if mean <= 0:
        raise ValueError(f"mean: more than 0 is allowed, got {mean}")
    size = len(text)
    if size == 0:
        return text
    device = None if generator is None else generator.device
    # Rounded at random, the number of spans is right in expectation.
    count = int(rate * size / mean + torch.rand((), generator=generator, device=device, dtype=torch.float64))
    drawn = torch.poisson(torch.full((count,), mean, device=device), generator=generator).long().cpu()
    sizes = (size - (drawn.cumsum(0) - drawn)).clamp(min=0).minimum(drawn)
    lengths, masked = (x.to(text.tokens.device) for x in scattered(sizes, size, generator))
    kept = text.at((lengths.cumsum(0) - lengths).clamp(max=size - 1))
    return Passage(kept.tokens.masked_fill(masked, mask_id), kept.sentence)


def permute(text: Passage, *, generator: torch.Generator | None = None) -> Passage:
    """Sentence permutation: all orders of the sentences are equally likely.

    Example:
        >>> sorted(permute(Passage.of([[5, 6], [7]])).tokens.tolist())
        [5, 6, 7]
    """
    if len(text) == 0:
        return text
    device = None if generator is None else generator.device
    begins = torch.nn.functional.pad((text.sentence.diff() != 0).long(), (1, 0))
    number = begins.cumsum(0)
    order = torch.randperm(int(number[-1]) + 1, generator=generator, device=device).to(number.device)
    return text.at(order[number].argsort(stable=True))


def rotate(text: Passage, *, generator: torch.Generator | None = None) -> Passage:
    """Document rotation: the text begins with any of its tokens, all equally likely, and what was before
    it comes at the end.

    Example:
        >>> rotate(Passage.of([[5, 5, 5]])).tokens
        tensor([5, 5, 5])
    """
    if len(text) == 0:
        return text
    device = None if generator is None else generator.device
    first = int(torch.randint(len(text), (), generator=generator, device=device))
    return text.at(torch.arange(len(text), device=text.tokens.device).roll(-first))


def bart_noises(mask_id: int) -> tuple[Noise, ...]:
    """Those of the released models: all sentences permuted and 30 % of the tokens infilled (section 5.1).

    Example:
        >>> text = Passage.of([[5, 6, 7], [8, 9]])
        >>> for noise in bart_noises(mask_id=3):
        ...     text = noise(text)
    """
    return permute, partial(infill, mask_id=mask_id)


def denoising(
    sentences: Sequence[Sequence[int]],
    noises: Sequence[Noise],
    *,
    first: int,
    last: int,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """``input_ids`` and ``labels`` of a text: spoilt by noises one after the other, and as it was.

    Args:
        sentences: Tokens without special ones.
        first, last: Ids of ``<s>`` and ``</s>``, put around both.

    Returns:
        1-D int64 tensors, of different lengths (see :func:`padded` for batches).

    Example:
        >>> denoising([[5, 6], [7]], [partial(hide, mask_id=3, rate=1.0)], first=0, last=2)
        (tensor([0, 3, 3, 3, 2]), tensor([0, 5, 6, 7, 2]))
    """
    text = whole = Passage.of(sentences)
    for noise in noises:
        text = noise(text, generator=generator)
    ends = (torch.tensor([first]), torch.tensor([last]))
    return tuple(torch.cat([ends[0], x.tokens, ends[1]]) for x in (text, whole))  # type: ignore[return-value]
