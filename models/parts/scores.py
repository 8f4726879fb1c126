"""From scores of words to the next word: the filters of sampling, in transformers' terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Process = Callable[[Tensor, Tensor], Tensor]
"""From the words so far ``(B, n)`` and scores ``(B, V)`` of the next to other scores."""


def highest(scores: Tensor, k: int) -> Tensor:
    """The ``k`` best scores of each row, and what ties with the last of them; the others -inf.

    Example:
        >>> highest(torch.tensor([[1.0, 3.0, 2.0]]), 2)
        tensor([[-inf, 3., 2.]])
    """
    least = scores.topk(min(k, scores.shape[-1])).values[..., -1:]
    return scores.masked_fill(scores < least, float("-inf"))


def nucleus(scores: Tensor, p: float) -> Tensor:
    """The fewest words whose probabilities come to ``p`` (Holtzman et al. 2020, arXiv:1904.09751,
    section 3.1); the others -inf.

    Example:
        >>> nucleus(torch.tensor([[0.5, 0.3, 0.2]]).log(), 0.7).isinf()
        tensor([[False, False,  True]])
    """
    ordered, places = scores.sort(-1)
    # From the rarest on: what comes to no more than 1 - p can go. The best word always stays.
    rare = ordered.softmax(-1).cumsum(-1) <= 1 - p
    rare[..., -1] = False
    return scores.masked_fill(rare.scatter(-1, places, rare), float("-inf"))


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
