"""What writing is made of: a prompt that was read, a model that goes on, and the settings.

Whatever can read a prompt and then take a word at a time can write (:class:`Writer`): a decoder
goes on with its prompt, a decoder beside an encoder starts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .cache import Caches
from .scores import NoRepeat, Process, Repetition, Unended


@dataclass(frozen=True)
class Rules:
    """Of the search for a good text (:mod:`beams`); by default transformers'.

    Args:
        length: From a text's words and ``length_penalty`` to what its log-probability is divided by.
        looked_at: From the number of words that end a text to the continuations that are looked at for each
            beam. Of those that have not ended as many as there are beams go on; so with 1 those that
            ended leave no room to others.
        early_stopping: As :class:`Settings` has it, by default.
    """

    length: Callable[[int, float], float] = lambda words, penalty: words**penalty
    looked_at: Callable[[int], int] = lambda ends: max(2, 1 + ends)
    early_stopping: bool | str = False


PLAIN = Rules(lambda words, penalty: ((5 + words) / 6) ** penalty, lambda ends: 1, "never")
"""The best continuations stay, ended or not, and no text that could win is left out: Wu et al. 2016,
arXiv:1609.08144, section 7 and equation 14 (without coverage)."""


@dataclass(frozen=True)
class Prompt:
    """What a model has read when it begins to write.

    Args:
        scores: ``(B, V)`` of the next word.
        caches: Of the model's layers.
        ids: ``(B, P)`` what stands before the first new word: a decoder's prompt as the caller gave
            it, padding and all, or the words that start an answer.
        real: ``(B, P)`` where these are words; None if all are.
        steps: What the model itself does to scores, behind what the settings say.
        rules: Of its beams.
    """

    scores: Tensor
    caches: Caches
    ids: Tensor
    real: Tensor | None = None
    steps: tuple[Process, ...] = ()
    rules: Rules = Rules()

    def repeated(self, times: int) -> Prompt:
        """Each row ``times`` times, one after the other."""
        if times == 1:
            return self
        rows = torch.arange(len(self.ids), device=self.ids.device).repeat_interleave(times)
        self.caches.reorder(rows)
        real = None if self.real is None else self.real[rows]
        return replace(self, scores=self.scores[rows], ids=self.ids[rows], real=real)


@dataclass
class Read:
    """The same from a body, whose ``states`` of the last tokens ``(B, 1, width)`` are for a head to score."""

    states: Any
    caches: Caches
    ids: Tensor
    real: Tensor | None = None
    steps: tuple[Process, ...] = ()
    rules: Rules = Rules()


class Writer(Protocol):
    """A model that can write."""

    config: Any

    def prepare(self, *inputs: Any, room: Callable[[int], int], **arguments: Any) -> Prompt:
        """Read. ``room``: from the size P of the prompt's ids to the number of words that will follow."""

    def step(self, ids: Tensor, caches: Caches) -> Tensor:
        """Words ``ids (B,)`` are the next ones: scores ``(B, V)`` of those after them."""


@dataclass(frozen=True)
class Ends:
    """Words that end a text, and the one that fills a row behind its end."""

    words: tuple[int, ...]
    padding: int

    def among(self, words: Tensor) -> Tensor:
        """Which of ``words`` they are."""
        return torch.isin(words, torch.tensor(self.words, dtype=words.dtype, device=words.device))


@dataclass(frozen=True)
class Settings:
    """How to write.

    Args:
        max_new_tokens: Words to write at most.
        max_length: The same with the prompt's counted in; one of the two is needed.
        min_new_tokens: Words of a text before its end, at least.
        do_sample: Draw words by probability; otherwise the best one, or the best text, is taken.
        temperature, top_k, top_p: Of sampling; without them nothing is filtered (transformers
            keeps 50 words where none is said).
        num_beams: Texts that are followed at once (beam search).
        length_penalty: Exponent of the length by which a text's log-probability is divided.
        early_stopping: Whether to end with ``num_beams`` ended texts; False: when the open ones, by
            their length so far, can win no more; "never": when they cannot at any length. By default
            the family's way (:class:`Rules`).
        num_return_sequences: Texts for each row.
        repetition_penalty: See :class:`Repetition`.
        no_repeat_ngram_size: No n-gram of this size comes twice in a text (padding counted in, as in
            transformers); 0 for no such rule.
        eos_token_id: Words that end a text, by default the config's; () for none.
        pad_token_id: What fills rows that have ended; by default the config's, or the (first) end.
        logits_processor: Called with the words so far and scores (of beams: log-probabilities),
            after the rules above; return other scores.
        generator: Of sampling; by default torch's.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str | None = None
    num_return_sequences: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    logits_processor: Sequence[Process] = ()
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if (self.max_new_tokens is None) == (self.max_length is None):
            raise ValueError("max_new_tokens, max_length: one of them is needed")
        for name in ("max_new_tokens", "max_length", "top_k", "num_beams", "num_return_sequences"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name}: an integer, at least 1, is allowed, got {value!r}")
        for name in ("no_repeat_ngram_size", "min_new_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: at least 0 is allowed, got {getattr(self, name)}")
        for name in ("temperature", "repetition_penalty"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: above 0 is allowed, got {getattr(self, name)}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: above 0 and up to 1 is allowed, got {self.top_p}")
        if self.early_stopping not in (None, True, False, "never"):
            raise ValueError(f'early_stopping: True, False or "never" is allowed, got {self.early_stopping!r}')
        self._check_together()

    def _check_together(self) -> None:
        if not self.do_sample and (self.temperature != 1 or self.top_k is not None or self.top_p is not None):
            raise ValueError("temperature, top_k, top_p: allowed with do_sample=True alone")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"num_beams: 1 is allowed with do_sample=True, got {self.num_beams}")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences: without do_sample at most num_beams ({self.num_beams}) are allowed, "
                f"got {self.num_return_sequences}"
            )

    def room(self, prompt: int) -> int:
        """Words that may follow the ``prompt``'s."""
        if self.max_length is None:
            return self.max_new_tokens or 0
        if self.max_length <= prompt:
            raise ValueError(
                f"max_length: more than the {prompt} tokens of the prompt is allowed, got {self.max_length}"
            )
        return self.max_length - prompt

    def ends(self, config: Any) -> Ends:
        """Those the config has where the caller says none."""
        words = getattr(config, "eos_token_id", None) if self.eos_token_id is None else self.eos_token_id
        words = () if words is None else (words,) if isinstance(words, int) else tuple(words)
        known = getattr(config, "vocab_size", None)
        if self.eos_token_id is not None and known is not None and not all(0 <= word < known for word in words):
            raise ValueError(f"eos_token_id: a word of the vocabulary ({known}) is allowed, got {self.eos_token_id}")
        pad = getattr(config, "pad_token_id", None) if self.pad_token_id is None else self.pad_token_id
        return Ends(words, next(iter(words), 0) if pad is None else pad)

    def steps(self, prompt: Prompt, ends: Ends) -> list[Process]:
        """What is done to scores before a word is chosen."""
        rules: list[Process] = []
        if self.repetition_penalty != 1:
            rules.append(Repetition(self.repetition_penalty, prompt.real))
        if self.no_repeat_ngram_size:
            rules.append(NoRepeat(self.no_repeat_ngram_size))
        if self.min_new_tokens and ends.words:
            rules.append(Unended(ends.words, prompt.ids.shape[1] + self.min_new_tokens))
        return [*rules, *self.logits_processor, *prompt.steps]


def short(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with at most 20 words where nothing is said of their number."""
    return dict(settings) if "max_length" in settings else {"max_new_tokens": 20, **settings}
