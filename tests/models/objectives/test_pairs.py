"""Pairs of segments and rows of whole sentences: what they hold, and how often which kind occurs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pkernels.models.parts.objectives import (
    Pair,
    cut,
    full_sentences,
    next_sentence_pairs,
    padded,
    sentence_order_pairs,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def corpus(documents: int, sentences: int, longest: int = 12) -> list[list[list[int]]]:
    """Every token occurs once: document * 10_000 + its place."""
    draw, found = seeded(7), []
    for document in range(documents):
        place, made = document * 10_000, []
        for size in torch.randint(1, longest + 1, (sentences,), generator=draw).tolist():
            made.append(list(range(place, place + size)))
            place += size
        found.append(made)
    return found


def near(share: float, want: float, samples: int) -> bool:
    return abs(share - want) <= 4 * (want * (1 - want) / samples) ** 0.5


def consecutive(tokens: list[int]) -> bool:
    return tokens == list(range(tokens[0], tokens[0] + len(tokens)))


# Next sentence prediction ---------------------------------------------------------------


def test_half_of_the_second_segments_are_the_next() -> None:
    documents = corpus(30, 400)
    pairs = list(next_sentence_pairs(documents, 64, generator=seeded()))
    assert len(pairs) > 1500
    assert near(sum(pair.label for pair in pairs) / len(pairs), 0.5, len(pairs))
    for pair in pairs:
        assert pair.first and pair.second and len(pair.first) + len(pair.second) <= 61
        assert consecutive(pair.first) and consecutive(pair.second)
        same = pair.first[0] // 10_000 == pair.second[0] // 10_000
        assert same == (pair.label == 0)
        if pair.label == 0:  # some tokens between the two may have been trimmed
            assert 0 < pair.second[0] - pair.first[-1] <= 12


def test_a_random_segment_may_come_from_any_other_document() -> None:
    pairs = [pair for pair in next_sentence_pairs(corpus(5, 400), 40, generator=seeded()) if pair.label]
    found = torch.zeros(5, 5)
    for pair in pairs:
        found[pair.first[0] // 10_000, pair.second[0] // 10_000] += 1
    assert not found.diagonal().any()
    shares = found[~torch.eye(5, dtype=torch.bool)] / len(pairs)
    assert ((shares - 1 / 20).abs() < 4 * (1 / 20 / len(pairs)) ** 0.5).all()


def test_sentences_that_a_random_segment_drove_out_are_used_next() -> None:
    documents = corpus(4, 200)
    pairs = list(next_sentence_pairs(documents, 300, short=0.0, generator=seeded()))
    for number, document in enumerate(documents):
        seen = [t for pair in pairs for t in pair.first if pair.first[0] // 10_000 == number]
        seen += [t for pair in pairs if not pair.label for t in pair.second if t // 10_000 == number]
        tokens = [token for sentence in document for token in sentence]
        assert len(seen) == len(set(seen))
        assert len(seen) > 0.9 * len(tokens)  # the rest was trimmed


def test_a_tenth_of_the_pairs_are_short() -> None:
    """One-token sentences fill a row exactly, so every shorter pair was meant to be."""
    documents = corpus(20, 9000, longest=1)
    pairs = list(next_sentence_pairs(documents, 43, generator=seeded()))
    sizes = [len(pair.first) + len(pair.second) for pair in pairs]
    assert near(sum(size < 40 for size in sizes) / len(sizes), 0.1 * 38 / 39, len(sizes))
    assert min(sizes) == 2
    full = list(next_sentence_pairs(documents[:2], 43, short=0.0, generator=seeded()))
    assert sum(len(pair.first) + len(pair.second) < 40 for pair in full) <= 12  # at the documents' ends


def test_the_first_segment_ends_anywhere() -> None:
    """Of 40 sentences 1 to 39, equally often."""
    pairs = list(next_sentence_pairs(corpus(20, 9000, longest=1), 43, short=0.0, generator=seeded()))
    splits = torch.tensor([len(pair.first) for pair in pairs if len(pair.first) + len(pair.second) == 40]).float()
    assert splits.min() == 1 and splits.max() == 39
    assert abs(splits.mean() - 20) < 4 * 11.3 / len(splits) ** 0.5


def test_the_longer_segment_is_trimmed_at_both_ends() -> None:
    documents = [[list(range(100)), list(range(100, 130))], [[10_000]]]
    fronts, backs = 0, 0
    for seed in range(30):
        pair = next(next_sentence_pairs(documents, 53, short=0.0, generator=seeded(seed)))
        assert len(pair.first) == 49 and pair.second == [10_000]  # one sentence fills the row: a random one
        fronts, backs = fronts + pair.first[0], backs + 99 - pair.first[-1]
    assert near(fronts / (fronts + backs), 0.5, fronts + backs)
    [pair, *_] = list(sentence_order_pairs(documents, 53, short=0.0, generator=seeded()))
    assert sorted([len(pair.first), len(pair.second)]) == [25, 25]


# Sentence order prediction --------------------------------------------------------------


def test_half_of_the_segments_are_swapped() -> None:
    pairs = list(sentence_order_pairs(corpus(30, 400), 64, generator=seeded()))
    assert len(pairs) > 1000
    assert near(sum(pair.label for pair in pairs) / len(pairs), 0.5, len(pairs))
    for pair in pairs:
        first, second = (pair.second, pair.first) if pair.label else (pair.first, pair.second)
        assert consecutive(first) and consecutive(second)
        assert 0 < second[0] - first[-1] <= 12
        assert len(first) + len(second) <= 61


def test_a_sentence_alone_has_no_order() -> None:
    assert not list(sentence_order_pairs([[[1, 2, 3]], [[4], []]], 9))
    [pair] = sentence_order_pairs([[[1], [2], [3]]], 5, short=0.0)
    assert sorted(pair.first + pair.second) == [1, 2]


@pytest.mark.parametrize("make", [next_sentence_pairs, sentence_order_pairs])
def test_pairs_follow_the_generator(make) -> None:
    documents = corpus(3, 100)
    runs = [list(make(documents, 40, generator=seeded(seed))) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_row_has_both_segments_and_their_types() -> None:
    ids, types = Pair([5, 6], [7], 1).row(first=101, last=102)
    assert ids == [101, 5, 6, 102, 7, 102] and types == [0, 0, 0, 0, 1, 1]


# Rows of whole sentences ----------------------------------------------------------------

FIRST, LAST, BETWEEN = -1, -2, -3


def test_rows_hold_as_many_whole_sentences_as_fit() -> None:
    documents = corpus(20, 50)
    rows = list(full_sentences(documents, 40, first=FIRST, last=LAST, separator=BETWEEN))
    assert all(row[0] == FIRST and row[-1] == LAST and 3 <= len(row) <= 40 for row in rows)
    tokens = [token for row in rows for token in row if token >= 0]
    assert tokens == [token for document in documents for sentence in document for token in sentence]
    ends = {sentence[-1]: number for document in documents for number, sentence in enumerate(document)}
    starts = {sentence[0]: len(sentence) for document in documents for sentence in document}
    across = 0
    for row, following in pairwise(rows):
        assert row[-2] in ends  # no sentence is cut
        begins = following[1] % 10_000 == 0  # a document: it would need a separator too
        assert len(row) + starts[following[1]] + begins > 40
        for left, right in pairwise(row[1:-1]):
            assert (right == BETWEEN) == (left >= 0 and right < 0)
            if left == BETWEEN:
                across += 1
                assert right % 10_000 == 0
        documents_in = {token // 10_000 for token in row if token >= 0}
        assert row.count(BETWEEN) == len(documents_in) - 1
    assert across > 5


def test_a_sentence_longer_than_a_row_is_cut() -> None:
    rows = list(full_sentences([[list(range(10)), [10]]], 6, first=FIRST, last=LAST))
    assert rows == [[-1, 0, 1, 2, 3, -2], [-1, 4, 5, 6, 7, -2], [-1, 8, 9, 10, -2]]


def test_the_separator_needs_a_place_too() -> None:
    rows = list(full_sentences([[[5, 6]], [[7, 8]], [[9]]], 6, first=FIRST, last=LAST, separator=BETWEEN))
    assert rows == [[-1, 5, 6, -2], [-1, 7, 8, -3, 9, -2]]


def test_the_separator_is_the_last_token_if_not_given() -> None:
    assert list(full_sentences([[[5]], [], [[6]]], 9, first=0, last=2)) == [[0, 5, 2, 6, 2]]


def test_cut_leaves_no_padding() -> None:
    rows = cut(torch.arange(100), 12, first=FIRST, last=LAST)
    assert rows.shape == (10, 12)
    assert torch.equal(rows[:, 1:-1].flatten(), torch.arange(100))
    assert (rows[:, 0] == FIRST).all() and (rows[:, -1] == LAST).all()


def test_padded_rows_carry_their_lengths() -> None:
    ids, lengths = padded([[1], [2, 3, 4], []], padding=9)
    assert ids.tolist() == [[1, 9, 9], [2, 3, 4], [9, 9, 9]] and lengths.tolist() == [1, 3, 0]
    assert padded([], padding=9)[0].shape == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next(next_sentence_pairs([[[1]], [[]]], 9)), "documents: at least two with text are allowed, got 1"),
        (lambda: next(next_sentence_pairs([[[1]], [[2]]], 4)), "length: at least 5"),
        (lambda: next(sentence_order_pairs([[[1], [2]]], 9, short=1.5)), "short: in .0, 1."),
        (lambda: next(full_sentences([], 2, first=0, last=2)), "length: at least 3"),
        (lambda: cut([1, 2], 2, first=0, last=2), "length: from 3 to 4"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
