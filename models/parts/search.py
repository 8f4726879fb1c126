"""Which words to write, given a model's scores of the next one: the best, drawn ones, or beams.

What is searched is a :class:`Steps`; how it comes to its scores is its own business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .scores import forbid_ngrams, highest, nucleus


class Steps(Protocol):
    """Texts that grow by one word at a time."""

    def first(self) -> Tensor:
        """Scores of every word as the first one, ``(B, V)``."""

    def next(self, words: Tensor) -> Tensor:
        """The same after each row ``(R,)`` got its next word."""

    def select(self, rows: Tensor) -> None:
        """The texts are from now on those of these rows, ``(R,)``, some perhaps several times."""


@dataclass(frozen=True)
class Generation:
    """How to write, under the names of transformers' ``generate``.

    Args:
        max_new_tokens, min_new_tokens: Words of a text, its end among them.
        num_beams: The best of so many texts at a time, see :func:`beams`; 1 takes the best word.
        do_sample: Draw words by their probabilities instead.
        temperature: Scores are divided by it before a word is drawn.
        top_k: Draw only among so many words with the highest scores (Fan et al. 2018,
            arXiv:1805.04833, section 5.4), and those that score the same as the last; 0 for all.
        top_p: Draw only among the fewest words that have this probability together (Holtzman et al.
            2019, arXiv:1904.09751, section 3.1).
        length_penalty: How much beams like long texts, see :func:`beams`.
        no_repeat_ngram_size: No n-gram of this size is written twice in a text; 0 for no such rule.
        eos_token_id, pad_token_id: The end of a text, if it has one, and what stands after it.
        generator: Of the draws.
    """

    max_new_tokens: int = 20
    min_new_tokens: int = 0
    num_beams: int = 1
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    eos_token_id: int | None = None
    pad_token_id: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name}: at least {least} is allowed, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: above 0 is allowed, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: in (0, 1] is allowed, got {self.top_p}")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"do_sample: False is allowed beside num_beams={self.num_beams}, got True")

    def ends(self, words: Tensor) -> Tensor:
        """Which words are the end of a text."""
        return torch.zeros_like(words, dtype=torch.bool) if self.eos_token_id is None else words == self.eos_token_id

    def allowed(self, scores: Tensor, written: Tensor) -> Tensor:
        """``scores (R, V)``, -inf for words that must not follow what is ``written (R, n)``."""
        if self.eos_token_id is not None and written.shape[1] + 1 < self.min_new_tokens:
            scores = scores.index_fill(1, torch.tensor([self.eos_token_id], device=scores.device), float("-inf"))
        return forbid_ngrams(scores, written, self.no_repeat_ngram_size) if self.no_repeat_ngram_size else scores

    def choose(self, scores: Tensor) -> Tensor:
        """One word for each row of ``scores (R, V)``."""
        if not self.do_sample:
            return scores.argmax(-1)
        likely = nucleus(highest(scores.float() / self.temperature, self.top_k), self.top_p).softmax(-1)
        return torch.multinomial(likely, 1, generator=self.generator).squeeze(1)


_LEAST = {"max_new_tokens": 1, "min_new_tokens": 0, "num_beams": 1, "top_k": 0, "no_repeat_ngram_size": 0}


def search(steps: Steps, how: Generation) -> Tensor:
    """The texts that were written: ``(B, n)``, with padding after the end of each."""
    return write(steps, how) if how.num_beams == 1 else beams(steps, how)


def write(steps: Steps, how: Generation) -> Tensor:
    """One word after the other."""
    scores = steps.first()
    written = torch.empty(scores.shape[0], 0, dtype=torch.int64, device=scores.device)
    ended = torch.zeros(scores.shape[0], dtype=torch.bool, device=scores.device)
    while True:
        words = how.choose(how.allowed(scores, written)).masked_fill(ended, how.pad_token_id)
        written = torch.cat([written, words[:, None]], 1)
        ended = ended | how.ends(words)
        if written.shape[1] == how.max_new_tokens or bool(ended.all()):
            return written
        scores = steps.next(words)


def beams(steps: Steps, how: Generation) -> Tensor:
    """The best of the texts that some beams meet, for each row.

    At each step the ``num_beams`` best continuations of a row's texts stay. Those at their end are
    put aside; the others go on. A text's score is the sum of its words' log-probabilities over
    ``((5 + words) / 6) ** length_penalty`` (Wu et al. 2016, arXiv:1609.08144, equation 14). Texts
    that are not at their end when the words run out compete too.

    All ends early where no continuation could still win, so the result is the same.
    """
    found = _Beams(steps.first(), how)
    steps.select(found.rows.repeat_interleave(how.num_beams))
    while not found.grow():
        steps.select(found.origin)
        found.scores = steps.next(found.written[:, -1])
    return found.winners[:, : found.size]


class _Beams:
    """``width`` texts for each of the rows, one after the other."""

    def __init__(self, scores: Tensor, how: Generation) -> None:
        batch, width, device = scores.shape[0], how.num_beams, scores.device
        self.how, self.width, self.size = how, width, 0
        self.rows = torch.arange(batch, device=device)
        self.scores = scores.repeat_interleave(width, 0)
        self.written = torch.empty(batch * width, 0, dtype=torch.int64, device=device)
        # All beams begin with the same text; the first alone counts.
        self.sums = torch.full((batch, width), float("-inf"), device=device)
        self.sums[:, 0] = 0
        self.winners = torch.full((batch, how.max_new_tokens), how.pad_token_id, dtype=torch.int64, device=device)
        self.won = torch.full((batch,), float("-inf"), device=device)

    def grow(self) -> bool:
        """One more word for each text; whether that was the last."""
        count = self.written.shape[1] + 1
        likely = self.how.allowed(self.scores.float().log_softmax(-1), self.written)
        sums = self.sums[:, :, None] + likely.unflatten(0, (-1, self.width))
        self.sums, places = sums.flatten(1).topk(self.width)
        beam = places.div(likely.shape[1], rounding_mode="floor")
        self.origin = (beam + self.rows[:, None] * self.width).flatten()
        words = (places % likely.shape[1]).flatten()
        self.written = torch.cat([self.written[self.origin], words[:, None]], 1)
        ended = self.how.ends(words).unflatten(0, (-1, self.width))
        over = count == self.how.max_new_tokens
        self._put_aside(ended | over, count)
        self.sums = self.sums.masked_fill(ended, float("-inf"))
        return over or bool((self._reach(count + 1) <= self.won).all())

    def _put_aside(self, ended: Tensor, count: int) -> None:
        found, beam = (self.sums / self._length(count)).masked_fill(~ended, float("-inf")).max(1)
        better = found > self.won
        self.won = torch.where(better, found, self.won)
        if bool(better.any()):
            texts = self.written.unflatten(0, (-1, self.width))[self.rows, beam]
            self.winners[better] = self.how.pad_token_id
            self.winners[better, :count] = texts[better]
            self.size = max(self.size, count)

    def _reach(self, count: int) -> Tensor:
        """What no text of ``count`` words or more can exceed: log-probabilities only fall."""
        sums = self.sums.max(1).values
        return torch.maximum(sums / self._length(count), sums / self._length(self.how.max_new_tokens))

    def _length(self, count: int) -> float:
        return ((5 + count) / 6) ** self.how.length_penalty
