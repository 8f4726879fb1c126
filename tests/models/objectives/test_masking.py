"""Masking schemes against the published rates, with samples enough that a wrong rate fails."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from pkernels.models.parts.objectives import (
    ELECTRA,
    MACBERT,
    UNILM,
    WHOLE_WORDS,
    choose_ngrams,
    choose_tokens,
    corrupt,
    corrupt_similar,
    inverse_lengths,
    mask_tokens,
    segmented,
    similar_by_vectors,
    similar_in_table,
    static_generator,
)

WORDS, MASK = 1000, 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(share: Tensor | float, want: float, samples: int) -> bool:
    """Within four standard deviations of a binomial share."""
    return abs(float(share) - want) <= 4 * (want * (1 - want) / samples) ** 0.5


def text(rows: int, size: int) -> tuple[Tensor, Tensor]:
    """``(ids, special)``: [CLS], words, [SEP], and padding behind some."""
    ids = torch.randint(10, WORDS, (rows, size), generator=seeded(9))
    special = torch.zeros(rows, size, dtype=torch.bool)
    special[:, [0, -1]] = True
    special[::2, -size // 4 :] = True
    return ids.masked_fill(special, 0), special


# 80/10/10 -------------------------------------------------------------------------------


def test_tokens_are_masked_at_berts_rates() -> None:
    ids, special = text(500, 400)
    masked, labels = mask_tokens(ids, special, mask_id=MASK, words=WORDS, generator=seeded())
    chosen = labels != -100
    assert not (chosen & special).any()
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    count, words = int(chosen.sum()), int((~special).sum())
    assert count > 20_000
    assert near(count / words, 0.15, words)
    hidden, kept = (masked == MASK) & chosen, (masked == ids) & chosen
    # A random word is the true one, or [MASK], once in a thousand.
    assert near(hidden.sum() / count, 0.8 + 0.1 / WORDS, count)
    assert near(kept.sum() / count, 0.1 + 0.1 / WORDS, count)
    random = masked[chosen & ~hidden & ~kept]
    assert near((random < WORDS // 2).float().mean(), 0.5, len(random))
    assert int(random.min()) < 10 and int(random.max()) > WORDS - 10


def test_electras_generator_hides_85_percent_and_swaps_none() -> None:
    ids, special = text(300, 400)
    masked, labels = mask_tokens(ids, special, mask_id=MASK, words=WORDS, shares=ELECTRA, generator=seeded())
    chosen = labels != -100
    assert near((masked[chosen] == MASK).float().mean(), 0.85, int(chosen.sum()))
    assert torch.equal(masked[masked != MASK], ids[masked != MASK])


def test_fifteen_percent_is_the_rate_if_not_given() -> None:
    special = torch.zeros(1000, 100, dtype=torch.bool)
    assert near(choose_tokens(special, generator=seeded()).float().mean(), 0.15, 100_000)


def test_masking_is_dynamic_and_follows_the_generator() -> None:
    ids, special = text(20, 100)

    def run(generator: torch.Generator) -> Tensor:
        return mask_tokens(ids, special, mask_id=MASK, words=WORDS, generator=generator)[0]

    generator = seeded()
    first, second = run(generator), run(generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, run(seeded()))
    state = torch.random.get_rng_state()
    run(seeded())
    assert torch.equal(state, torch.random.get_rng_state())  # a generator of one's own, and no other


def test_static_masks_come_back_after_ten_epochs() -> None:
    draws = [torch.rand(50, generator=static_generator(1, text=4, epoch=epoch)) for epoch in range(40)]
    for epoch in range(40):
        assert torch.equal(draws[epoch], draws[epoch % 10])
    assert len({tuple(draw.tolist()) for draw in draws}) == 10  # so each is seen four times in 40
    others = [static_generator(2, text=4, epoch=0), static_generator(1, text=5, epoch=0)]
    assert all(not torch.equal(torch.rand(50, generator=other), draws[0]) for other in others)
    once = [torch.rand(50, generator=static_generator(1, text=4, epoch=epoch, copies=1)) for epoch in range(3)]
    assert torch.equal(once[0], once[1]) and torch.equal(once[0], once[2])


# Words and n-grams ----------------------------------------------------------------------


def words_of(rows: int, size: int, longest: int = 1) -> Tensor:
    """Words of 1 to ``longest`` tokens, [CLS] and [SEP] around them."""
    starts = torch.rand(rows, size, generator=seeded(5)) < 2 / (1 + longest)
    ids = starts.cumsum(1)
    ids[:, [0, -1]] = -1
    return ids


def runs(chosen: Tensor) -> Counter[int]:
    """Lengths of the stretches of chosen words, each row by itself."""
    found: Counter[int] = Counter()
    for row in chosen.tolist():
        found.update(map(len, "".join(".x"[x] for x in row).split(".")))
    del found[0]
    return found


# Each scheme beside the published shares of 1-grams, 2-grams, ...
SCHEMES = {
    "macbert": (MACBERT, (0.4, 0.3, 0.2, 0.1)),
    "albert": (inverse_lengths(3), (6 / 11, 3 / 11, 2 / 11)),
    "unilm": (UNILM, (0.8, 0.1, 0.1)),
    "words": (WHOLE_WORDS, (1.0,)),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ngrams_have_the_published_lengths_and_rate(scheme: str) -> None:
    lengths, published = SCHEMES[scheme]
    assert lengths == pytest.approx(published)
    # So few that n-grams which touch one another are rare, and are corrected for below.
    words, rate = words_of(1500, 402), 0.005
    chosen = choose_ngrams(words, lengths=lengths, rate=rate, generator=seeded())
    found = runs(chosen)
    total = found.total()
    mean = sum(n * p for n, p in enumerate(lengths, 1))
    assert total > 1000
    touching = rate / mean  # the probability that another begins where one ends
    for n, share in enumerate(lengths, 1):
        assert abs(found[n] / total - share) <= 4 * (share * (1 - share) / total) ** 0.5 + 2 * touching, (n, found)
    inner = int((words >= 0).sum())
    assert abs(int(chosen.sum()) / inner - rate) < 4 * rate * (mean / (rate * inner)) ** 0.5


@pytest.mark.parametrize("lengths", [MACBERT, inverse_lengths(3), UNILM, WHOLE_WORDS], ids=str)
def test_fifteen_percent_of_the_words_are_chosen(lengths: tuple[float, ...]) -> None:
    for size in (5, 13, 130):  # 3, 11 and 128 words
        words = words_of(60_000 // size, size)
        chosen = choose_ngrams(words, lengths=lengths, generator=seeded(size))
        share = chosen.sum() / (words >= 0).sum()
        assert abs(float(share) - 0.15) < 0.006, (size, share)


def test_places_are_equally_likely() -> None:
    words = torch.arange(20).expand(8000, 20)
    chosen = choose_ngrams(words, lengths=(0.0, 1.0), rate=0.2, generator=seeded())
    assert torch.equal(chosen.sum(1), torch.full((8000,), 4))  # two bigrams each, never one over the other
    inside = chosen.float().mean(0)
    # Two bigrams in 18 places of 153 pairs: the ends are covered by fewer.
    assert near(inside[0], 17 / 153, 8000) and near(inside[-1], 17 / 153, 8000)
    assert ((inside[2:-2] > 0.18) & (inside[2:-2] < 0.25)).all()


def test_words_are_chosen_whole_and_special_tokens_never() -> None:
    words = words_of(200, 120, longest=4)
    words[:, 60] = -1  # [SEP] between two segments
    words[::3, 90:] = -1
    words[:, 61:90] -= words[:, 61:62]  # numbers begin again, as tokenizers' do
    for lengths in (MACBERT, WHOLE_WORDS):
        chosen = choose_ngrams(words, lengths=lengths, rate=0.3, generator=seeded())
        assert not chosen[words < 0].any()
        same = (words[:, 1:] == words[:, :-1]) & (words[:, 1:] >= 0)
        assert same.sum() > 1000
        assert torch.equal(chosen[:, 1:][same], chosen[:, :-1][same])
        assert near(chosen.sum() / (words >= 0).sum(), 0.3, 1500)


def test_short_stretches_get_the_ngrams_that_fit() -> None:
    words = torch.tensor([[-1, 0, -1, 0, 1, -1]] * 4000)
    chosen = choose_ngrams(words, lengths=MACBERT, rate=0.5, generator=seeded())
    assert near(chosen[:, 1].float().mean(), 0.5, 4000)
    assert near(chosen[:, 3:5].float().mean(), 0.5, 4000)
    assert not choose_ngrams(words, lengths=(0.0, 0.0, 1.0), rate=0.5).any()
    assert choose_ngrams(words, rate=1.0)[words >= 0].all()
    assert not choose_ngrams(words, rate=0.0).any()


def test_choices_follow_the_generator() -> None:
    words = words_of(30, 90)
    a, b = (choose_ngrams(words, lengths=MACBERT, generator=seeded(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, choose_ngrams(words, lengths=MACBERT, generator=seeded(4)))
    assert choose_ngrams(torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 5)


def test_alberts_lengths_are_in_proportion_to_1_over_n() -> None:
    assert inverse_lengths(4) == pytest.approx((12 / 25, 6 / 25, 4 / 25, 3 / 25))
    assert inverse_lengths(1) == (1.0,)


def test_a_segmenter_says_what_a_word_is() -> None:
    sentence = "使用语言模型来预测"
    offsets = [(0, 0), *((i, i + 1) for i in range(9)), (0, 0)]
    ids = segmented(sentence, offsets, lambda _: ["使用", "语言", "模型", "来", "预测"])
    assert ids == [-1, 0, 0, 1, 1, 2, 2, 3, 4, 4, -1]
    with pytest.raises(ValueError, match="segment: words that together are the text"):
        segmented(sentence, offsets, lambda _: ["使用"])
    with pytest.raises(ValueError, match="offsets: places from 0 to 9"):
        segmented(sentence, [(9, 10)], lambda _: [sentence])


# MacBERT's similar words ----------------------------------------------------------------


def test_similar_words_take_macberts_shares() -> None:
    # Words of two tokens (2i, 2i + 1); the similar one of (a, b) is (a + 500, b + 500).
    pairs = torch.randint(5, 250, (600, 100), generator=seeded(1)) * 2
    ids = torch.stack([pairs, pairs + 1], -1).flatten(1)
    word_ids = torch.arange(200).div(2, rounding_mode="floor").expand_as(ids)
    similar = {(2 * i, 2 * i + 1): (2 * i + 500, 2 * i + 501) for i in range(250)}
    chosen = choose_ngrams(word_ids, lengths=MACBERT, generator=seeded())
    masked, labels = corrupt_similar(ids, chosen, word_ids, similar, words=WORDS, generator=seeded())
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert torch.equal(labels, ids.masked_fill(~chosen, -100))
    # All of a word has one fate.
    mine, true = masked.unflatten(1, (-1, 2)), ids.unflatten(1, (-1, 2))
    of_word = chosen.unflatten(1, (-1, 2)).all(-1)
    count = int(of_word.sum())
    replaced = (mine == true + 500).all(-1)[of_word]
    kept = (mine == true).all(-1)[of_word]
    assert count > 8000
    assert near(replaced.sum() / count, 0.8, count)
    assert near(kept.sum() / count, 0.1, count)
    random = mine[of_word][~replaced & ~kept].flatten()
    assert near((random < WORDS // 2).float().mean(), 0.5, len(random))


def test_words_without_a_similar_one_become_random() -> None:
    ids = torch.full((1, 20_000), 7)
    word_ids, chosen = torch.arange(20_000)[None], torch.ones(1, 20_000, dtype=torch.bool)
    masked, _ = corrupt_similar(ids, chosen, word_ids, {}, words=WORDS, generator=seeded())
    assert near((masked == 7).float().mean(), 0.1 + 0.9 / WORDS, 20_000)
    with pytest.raises(ValueError, match="similar: 1 tokens for a word of 1"):
        corrupt_similar(ids, chosen, word_ids, {(7,): (8, 9)}, words=WORDS, generator=seeded())


def letters(word: str) -> list[int]:
    return [ord(letter) for letter in word]


def test_a_table_gives_the_first_that_is_as_long() -> None:
    found = similar_in_table({"ab": ["abc", "ab", "cd", "ef"], "x": ["yz"], "": ["a"]}, letters)
    assert found == {tuple(letters("ab")): tuple(letters("cd"))}


@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_vectors_give_the_nearest_that_is_as_long(rows: int) -> None:
    vocabulary = ["a", "bb", "c", "dd", "e", "ff", "g", "hh", "a"]
    vectors = torch.randn(9, 4, generator=seeded(2))
    found = similar_by_vectors(vocabulary, vectors, letters, rows=rows)
    for word, other in found.items():
        i = vocabulary.index("".join(map(chr, word)))
        cosines = {
            vocabulary[j]: float(torch.cosine_similarity(vectors[i], vectors[j], dim=0))
            for j in range(8)
            if j != i and len(vocabulary[j]) == len(word)
        }
        assert "".join(map(chr, other)) == max(cosines, key=cosines.__getitem__)
        assert max(cosines.values()) >= 0
    assert len(found) >= 4
    assert not similar_by_vectors(vocabulary, vectors, letters, least=1.01)


# Errors ---------------------------------------------------------------------------------

IDS, YES = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mask_tokens(IDS, YES, mask_id=3, words=9, rate=1.5), "rate: in .0, 1."),
        (lambda: mask_tokens(IDS, YES[:1], mask_id=3, words=9), r"special: booleans of shape \(2, 3\)"),
        (lambda: choose_tokens(IDS), "special: booleans are allowed, got torch.int64"),
        (lambda: corrupt(IDS, IDS, mask_id=3, words=9), r"chosen: booleans of shape \(2, 3\)"),
        (lambda: corrupt(IDS, YES, mask_id=3, words=9, shares=(0.8, 0.3)), "shares: two shares with a sum"),
        (lambda: choose_ngrams(IDS[0]), r"word_ids: integers of shape \(B, S\)"),
        (lambda: choose_ngrams(YES), "word_ids: integers"),
        (lambda: choose_ngrams(IDS, lengths=(0.5, 0.4)), "lengths: probabilities with a sum of 1"),
        (lambda: choose_ngrams(IDS, lengths=()), "lengths: probabilities"),
        (lambda: choose_ngrams(IDS, rate=-0.1), "rate: in"),
        (lambda: inverse_lengths(0), "longest: at least 1"),
        (lambda: static_generator(0, 0, 0, copies=0), "copies: at least 1"),
        (lambda: similar_by_vectors(["a"], torch.ones(2, 3), letters), r"vectors: shape \(1, d\)"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
