"""Search over a table of scores: against all texts there are, a plain search, and transformers' filters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from pkernels.models.parts.cache import Caches
from pkernels.models.parts.generation import generate
from pkernels.models.parts.scores import forbid_ngrams, highest, nucleus
from pkernels.models.parts.writing import PLAIN, Prompt, Settings

WORDS, EOS, PADDING = 6, 2, 0
SPREAD = 2.0


class Table:
    """Scores that depend on all that was written, in each row differently."""

    config = SimpleNamespace(eos_token_id=None, pad_token_id=PADDING, vocab_size=WORDS)

    def __init__(self, rows: int, first: int = 0) -> None:
        self.texts: list[tuple[int, ...]] = [(first + row,) for row in range(rows)]
        self.steps = 0

    def prepare(self, room: Callable[[int], int]) -> Prompt:
        caches = Caches([self], torch.zeros(len(self.texts)))  # type: ignore[list-item]
        return Prompt(self.scores(), caches, torch.zeros(len(self.texts), 0, dtype=torch.int64), rules=PLAIN)

    def scores(self) -> Tensor:
        return torch.stack([scores(text) for text in self.texts])

    def step(self, ids: Tensor, caches: Caches) -> Tensor:
        self.texts = [(*text, word) for text, word in zip(self.texts, ids.tolist(), strict=True)]
        self.steps += 1
        return self.scores()

    def reorder(self, rows: Tensor) -> None:
        self.texts = [self.texts[row] for row in rows.tolist()]


def scores(text: Sequence[int]) -> Tensor:
    seed = sum((i + 1) * 7919**i * (word + 1) for i, word in enumerate(text)) % (2**31)
    return SPREAD * torch.randn(WORDS, generator=torch.Generator().manual_seed(seed))


def value(row: int, words: Sequence[int], penalty: float) -> float:
    """Of a whole text, by definition."""
    total = sum(float(scores((row, *words[:i])).log_softmax(-1)[word]) for i, word in enumerate(words))
    return total / ((5 + len(words)) / 6) ** penalty


def every_text(longest: int) -> list[tuple[int, ...]]:
    """All that end, and those of the full length that do not."""
    others = [word for word in range(WORDS) if word != EOS]
    found = [(*head, EOS) for n in range(longest) for head in itertools.product(others, repeat=n)]
    return found + list(itertools.product(others, repeat=longest))


def trimmed(rows: Tensor) -> list[tuple[int, ...]]:
    """Without the padding after the end."""
    return [tuple(row[: row.index(EOS) + 1]) if EOS in row else tuple(row) for row in rows.tolist()]


def plain_beams(row: int, width: int, longest: int, penalty: float) -> tuple[int, ...]:
    """Continuations of living texts, the best few stay; the best of those that ended wins."""
    living: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done: list[tuple[float, tuple[int, ...]]] = []
    for count in range(1, longest + 1):
        grown = [
            (total + float(more), (*text, word))
            for total, text in living
            for word, more in enumerate(scores((row, *text)).log_softmax(-1))
        ]
        grown = sorted(grown, reverse=True)[:width]
        ended = [x for x in grown if x[1][-1] == EOS or count == longest]
        done += [(total / ((5 + count) / 6) ** penalty, text) for total, text in ended]
        living = [x for x in grown if x[1][-1] != EOS]
        if not living:
            break
    return max(done)[1]


# Beams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 1.0, 3.0, -2.0])
def test_wide_beams_find_the_best_of_all_texts(penalty: float) -> None:
    found = trimmed(generate(Table(4), max_new_tokens=3, num_beams=40, length_penalty=penalty, eos_token_id=EOS))
    for row, text in enumerate(found):
        best = max(every_text(3), key=lambda words: value(row, words, penalty))
        assert math.isclose(value(row, text, penalty), value(row, best, penalty), rel_tol=1e-5), (text, best)


@pytest.mark.parametrize("width", [2, 3, 5])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 4.0, -2.0])
def test_beams_are_those_of_a_plain_search(width: int, penalty: float) -> None:
    how: dict[str, Any] = {"max_new_tokens": 9, "num_beams": width, "length_penalty": penalty, "eos_token_id": EOS}
    want = [plain_beams(row, width, 9, penalty) for row in range(30)]
    assert trimmed(generate(Table(30), **how)) == want
    for row, text in enumerate(want):  # alone, each ends as early as it can
        assert trimmed(generate(Table(1, row), **how)) == [text]


def test_beams_end_early_where_nothing_could_win() -> None:
    table = Table(2)
    generate(table, max_new_tokens=300, num_beams=3, length_penalty=0.0, eos_token_id=EOS)
    assert 0 < table.steps < 30


# Greedy and drawn -----------------------------------------------------------------------


def test_the_best_word_each_time() -> None:
    rows = generate(Table(8), max_new_tokens=12, eos_token_id=EOS, pad_token_id=5)
    for row, words in enumerate(rows.tolist()):
        for i, word in enumerate(words):
            assert word == (5 if EOS in words[:i] else int(scores((row, *words[:i])).argmax()))
    assert len({len(text) for text in trimmed(rows)}) > 2
    unending = generate(Table(8), max_new_tokens=4)
    assert unending.shape == (8, 4)


def test_words_are_drawn_by_their_probabilities() -> None:
    class One(Table):
        def scores(self) -> Tensor:
            return scores((3,)).expand(len(self.texts), -1)

    draw = torch.Generator().manual_seed(0)
    how = {"max_new_tokens": 1, "do_sample": True, "temperature": 1.7, "generator": draw}
    drawn = generate(One(4000), **how)
    want = (scores((3,)) / 1.7).softmax(-1)
    shares = torch.bincount(drawn[:, 0], minlength=WORDS) / 4000
    assert ((shares - want).abs() <= 4 * (want * (1 - want) / 4000).sqrt()).all()
    few = generate(One(4000), **how, top_k=4, top_p=0.8)
    kept = nucleus(highest(scores((3,))[None] / 1.7, 4), 0.8).isfinite()[0]
    assert set(few.flatten().tolist()) == set(kept.nonzero().flatten().tolist())
    assert kept.sum() < 4


def test_the_generator_decides() -> None:
    def run(seed: int) -> Tensor:
        how = {"max_new_tokens": 8, "do_sample": True, "generator": torch.Generator().manual_seed(seed)}
        return generate(Table(3), **how)

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


# Filters --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_the_highest_are_those_of_transformers(count: int) -> None:
    x = torch.randn(5, 50, generator=torch.Generator().manual_seed(1))
    want = transformers.TopKLogitsWarper(count)(None, x) if count else x
    assert torch.equal(highest(x, count), want)


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 0.9, 1.0])
def test_the_nucleus_is_that_of_transformers(share: float) -> None:
    x = 2 * torch.randn(5, 50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(nucleus(x, share), transformers.TopPLogitsWarper(share)(None, x))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 12])
def test_repeated_ngrams_are_those_of_transformers(size: int, count: int) -> None:
    written = torch.randint(3, (6, count), generator=torch.Generator().manual_seed(2))
    x = torch.zeros(6, 4)
    want = transformers.NoRepeatNGramLogitsProcessor(size)(written, x.clone())
    assert torch.equal(forbid_ngrams(x, written, size), want)


@pytest.mark.parametrize("width", [1, 4])
def test_limits_hold_for_what_is_written(width: int) -> None:
    how = {"max_new_tokens": 12, "num_beams": width, "eos_token_id": EOS, "length_penalty": 0.0}
    free = trimmed(generate(Table(8), **how))
    held = trimmed(generate(Table(8), **how, min_new_tokens=6, no_repeat_ngram_size=2))
    assert min(map(len, free)) < 6
    assert min(map(len, held)) == 7  # the end comes on top
    for text in held:
        grams = list(itertools.pairwise(text))
        assert len(grams) == len(set(grams))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: an integer, at least 1, is allowed, got 0"),
        ({"num_beams": 0}, "num_beams: an integer, at least 1, is allowed, got 0"),
        ({"top_k": 0}, "top_k: an integer, at least 1, is allowed, got 0"),
        ({"top_p": 0.0}, "top_p: above 0 and up to 1 is allowed, got 0.0"),
        ({"temperature": 0.0}, "temperature: above 0 is allowed, got 0.0"),
        ({"min_new_tokens": -1}, "min_new_tokens: at least 0 is allowed, got -1"),
        ({"num_beams": 2, "do_sample": True}, "num_beams: 1 is allowed with do_sample=True, got 2"),
    ],
)
def test_bad_settings_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**{"max_new_tokens": 2, **given})


def test_ends_are_words() -> None:
    with pytest.raises(ValueError, match=r"eos_token_id: a word of the vocabulary \(6\) is allowed, got 6"):
        generate(Table(1), max_new_tokens=2, eos_token_id=WORDS)
