"""From scores of words to the next word: the filters of sampling, in transformers' terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Process = Callable[[Tensor, Tensor], Tensor]
"""From the words so far ``(B, n)`` and scores ``(B, V)`` of the next to other scores."""


def highest(scores: Tensor, count: int) -> Tensor:
    """``scores (R, V)``, -inf below the ``count`` highest; 0 keeps all.

    Example:
        >>> highest(torch.tensor([[1.0, 3.0, 2.0]]), 2)
        tensor([[-inf, 3., 2.]])
    """
    if not 0 < count < scores.shape[1]:
        return scores
    return scores.masked_fill(scores < scores.topk(count).values[:, -1:], float("-inf"))


def nucleus(scores: Tensor, share: float) -> Tensor:
    """``scores (R, V)``, -inf but for the fewest words of probability ``share`` together, at least one
    (Holtzman et al. 2019, arXiv:1904.09751, section 3.1).

    Example:
        >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.7).isinf()
        tensor([[False, False,  True]])
    """
    if share == 1:
        return scores
    ordered, places = scores.sort(-1)
    # From the rarest on: what comes to no more than the rest can go.
    rare = ordered.softmax(-1).cumsum(-1) <= 1 - share
    rare[:, -1] = False
    return scores.masked_fill(rare.scatter(-1, places, rare), float("-inf"))


def forbid_ngrams(scores: Tensor, written: Tensor, size: int) -> Tensor:
    """``scores (R, V)``, -inf for words that would end an n-gram that ``written (R, n)`` has.

    Example:
        >>> forbid_ngrams(torch.zeros(1, 4), torch.tensor([[1, 2, 1]]), 2)
        tensor([[0., 0., -inf, 0.]])
    """
    if written.shape[1] < size:
        return scores
    grams = written.unfold(1, size, 1)
    tail = written[:, written.shape[1] - size + 1 :]
    again = (grams[..., :-1] == tail[:, None]).all(-1)
    count = torch.zeros_like(scores, dtype=torch.int32).scatter_add_(1, grams[..., -1], again.int())
    return scores.masked_fill(count > 0, float("-inf"))


@dataclass(frozen=True)
class NoRepeat:
    """:func:`forbid_ngrams` of ``size``, those of the prompt among them."""

    size: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return forbid_ngrams(scores, ids, self.size)


@dataclass(frozen=True)
class Repetition:
    """Words of the text so far lose: their scores are divided by ``penalty`` if they are positive, else
    multiplied (Keskar et al. 2019, arXiv:1909.05858, section 4.1). What the mask ``real (B, P)`` of
    the prompt leaves out is no word of the text (in transformers it is)."""

    penalty: float
    real: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        nowhere = scores.shape[-1]
        if self.real is not None:
            real = torch.nn.functional.pad(self.real, (0, ids.shape[1] - self.real.shape[1]), value=True)
            ids = ids.where(real, nowhere)
        seen = torch.zeros(len(scores), nowhere + 1, dtype=torch.bool, device=scores.device)
        seen = seen.scatter_(1, ids, True)[:, :-1]
        return torch.where(seen, torch.where(scores < 0, scores * self.penalty, scores / self.penalty), scores)


@dataclass(frozen=True)
class Unended:
    """None of ``words`` comes before ``least`` words of a text (transformers' ``min_new_tokens``)."""

    words: tuple[int, ...]
    least: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] >= self.least:
            return scores
        return scores.index_fill(1, torch.tensor(self.words, device=scores.device), float("-inf"))


@dataclass(frozen=True)
class ForcedLast:
    """The ``total``-th word of a text is ``word``, which ends it there (transformers'
    ``forced_eos_token_id``)."""

    word: int
    total: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        if ids.shape[1] != self.total - 1:
            return scores
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.word] = 0
        return forced


def processed(ids: Tensor, scores: Tensor, steps: Sequence[Process]) -> Tensor:
    """Scores after all of ``steps``."""
    for step in steps:
        scores = step(ids, scores)
    return scores


def best(scores: Tensor) -> Tensor:
    """The best word of each row of ``(B, V)``."""
    return scores.argmax(-1)


@dataclass(frozen=True)
class Sampling:
    """A word by its probability, of those that the filters leave. ``generator`` as torch's
    functions take it.

    Example:
        >>> pick = Sampling(top_k=1)
        >>> pick(torch.tensor([[1.0, 3.0, 2.0]]))
        tensor([1])
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None

    def probabilities(self, scores: Tensor) -> Tensor:
        """``(B, V)``, 0 where a word was left out."""
        scores = scores / self.temperature
        scores = scores if self.top_k is None else highest(scores, self.top_k)
        scores = scores if self.top_p is None else nucleus(scores, self.top_p)
        return scores.softmax(-1)

    def __call__(self, scores: Tensor) -> Tensor:
        return torch.multinomial(self.probabilities(scores), 1, generator=self.generator)[:, 0]
