"""UniLM's modes: their shares of a batch, who sees whom, and what is hidden."""

from __future__ import annotations

import functools
from collections import Counter
from itertools import repeat

import pytest
import torch
from torch import Tensor

from pkernels.models import Model, build, unilm
from pkernels.models.parts.attention import SelfAttention
from pkernels.models.parts.objectives import (
    MODES,
    ModeBatch,
    Pair,
    consecutive_pairs,
    draw_modes,
    mask_targets,
    next_sentence_pairs,
    unilm_batches,
)
from pkernels.models.parts.padding import layout

SOS, EOS, PADDING, MASK, WORDS = 1, 2, 0, 3, 1000
IDS = {"first": SOS, "last": EOS, "padding": PADDING, "mask_id": MASK, "words": WORDS}
SHARES = {"bidirectional": 1 / 3, "seq2seq": 1 / 3, "left_to_right": 1 / 6, "right_to_left": 1 / 6}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(share: float, want: float, samples: float) -> bool:
    return abs(share - want) <= 4 * (want * (1 - want) / samples) ** 0.5


@functools.cache
def documents(count: int = 4, sentences: int = 2500) -> list[list[list[int]]]:
    draw = seeded(3)
    sizes = torch.randint(1, 9, (count, sentences), generator=draw).tolist()
    return [[torch.randint(10, WORDS, (n,), generator=draw).tolist() for n in row] for row in sizes]


def batches(rows: int, length: int = 48, **options) -> list[list[ModeBatch]]:
    draw = seeded()
    related = next_sentence_pairs(documents(), length, generator=draw)
    consecutive = consecutive_pairs(documents(), length, generator=draw)
    return list(unilm_batches(rows, related, consecutive, **IDS, **options, generator=draw))


# Shares ---------------------------------------------------------------------------------


def test_a_batch_has_a_third_a_third_a_sixth_and_a_sixth() -> None:
    for rows in (330, 6, 12):
        drawn = Counter(draw_modes(rows, seeded(rows)))
        assert drawn == {mode: round(rows * share) for mode, share in SHARES.items()}


@pytest.mark.parametrize("rows", [1, 4, 5])
def test_small_batches_have_the_shares_in_expectation(rows: int) -> None:
    draw = seeded()
    drawn = [draw_modes(rows, draw) for _ in range(6000)]
    for place in {0, rows - 1}:  # and at every place alike
        found = Counter(modes[place] for modes in drawn)
        for mode, share in SHARES.items():
            assert near(found[mode] / 6000, share, 6000), (place, found)
    for modes in drawn[:200]:
        assert all(abs(modes.count(mode) - rows * share) < 1 + 1e-9 for mode, share in SHARES.items())
    assert {mode: made.share for mode, made in MODES.items()} == SHARES


# Who sees whom --------------------------------------------------------------------------


def rule(mode: str, first: int, length: int) -> Tensor:
    """Section 2.2, pair by pair."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    for i in range(length):
        for j in range(length):
            seen[i, j] = {
                "bidirectional": True,
                "left_to_right": j <= i,
                "right_to_left": j >= i,
                "seq2seq": j < first or (i >= first and j <= i),
            }[mode]
    return seen


def test_attention_sees_what_the_mode_allows() -> None:
    """Gradients tell who saw whom, through a layer on a padded batch."""
    torch.manual_seed(0)
    attention = SelfAttention(8, heads=2)
    pairs = [Pair([10] * 3, [11] * 4, 0), Pair([10] * 5, [11], 0), Pair([10], [11] * 2, 0)]
    [batch] = unilm_batches(18, pairs * 6, pairs * 6, **IDS, rate=0.0)
    assert [part.mode for part in batch] == list(SHARES)
    for part in batch:
        attention.pattern = part.pattern
        rows, size = part.input_ids.shape
        placed = layout(rows, size, torch.device("cpu"), lengths=part.lengths)
        x = torch.randn(rows, size, 8, requires_grad=True)
        y = placed.unpack(attention(placed.pack(x), placed))
        for row, length in enumerate(part.lengths.tolist()):
            first = part.input_ids[row].tolist().index(EOS) + 1
            for i in range(length):
                [gradient] = torch.autograd.grad(y[row, i].sum(), x, retain_graph=True)
                seen = gradient.abs().sum(-1) > 0
                assert torch.equal(seen[row, :length], rule(part.mode, first, length)[i]), (part.mode, row, i)
                assert int(seen.sum()) == int(seen[row, :length].sum())


def run(model: Model, part: ModeBatch):
    return model(
        part.input_ids, lengths=part.lengths, token_type_ids=part.token_type_ids, pattern=part.pattern,
        labels=part.labels, next_sentence_label=part.next_sentence_label,
    )  # fmt: skip


def test_one_model_learns_all_modes() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = unilm.Config(**sizes, intermediate_size=64, hidden_dropout_prob=0.0)
    model = build("UniLMForPreTraining", config).train()
    [batch] = batches(24)[:1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        found = {part.mode: run(model, part).loss for part in batch}
        optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        optimizer.step()
        losses.append({mode: loss.item() for mode, loss in found.items()})
    assert set(losses[0]) == set(SHARES)
    for mode in SHARES:
        assert abs(losses[0][mode] - 6.9 - 0.7 * (mode == "bidirectional")) < 0.4  # log(1000), log(2)
        assert losses[-1][mode] < 0.3 * losses[0][mode], (mode, losses[::10])


def test_patterns_are_those_of_the_paper() -> None:
    prefix = torch.tensor([2, 3])
    for name, mode in MODES.items():
        mask = mode.pattern(prefix).dense(5, 5)
        for row, first in enumerate(prefix.tolist()):
            assert torch.equal(mask[row] if mask.dim() == 3 else mask, rule(name, first, 5)), name


# Rows -----------------------------------------------------------------------------------


def test_rows_have_the_segments_and_types_of_their_mode() -> None:
    pairs = [Pair([10, 11], [12], 1), Pair([13], [14, 15, 16], 0)]
    [batch] = unilm_batches(12, pairs * 2, pairs * 4, **IDS, rate=0.0)
    found = {part.mode: part for part in batch}
    types = {"bidirectional": (0, 1), "seq2seq": (4, 5)}
    for mode, (a, b) in types.items():
        part = found[mode]
        assert part.input_ids[:2].tolist() == [[1, 10, 11, 2, 12, 2, 0], [1, 13, 2, 14, 15, 16, 2]]
        assert part.token_type_ids[0, :6].tolist() == [a, a, a, a, b, b]
        assert part.token_type_ids[1].tolist() == [a, a, a, b, b, b, b]
        assert part.lengths[:2].tolist() == [6, 7]
    for mode, a in {"left_to_right": 2, "right_to_left": 3}.items():
        assert found[mode].input_ids.tolist() == [[1, 10, 11, 12, 2, 0], [1, 13, 14, 15, 16, 2]]
        assert (found[mode].token_type_ids == a).all()
    assert found["bidirectional"].next_sentence_label.tolist() == [1, 0, 1, 0]
    assert all(part.next_sentence_label is None for part in batch if part.mode != "bidirectional")
    assert all((part.labels == -100).all() for part in batch)


def test_next_sentences_are_asked_for_in_the_bidirectional_mode_alone() -> None:
    made = [batch[0] for batch in batches(30)]
    assert {part.mode for part in made} == {"bidirectional"}
    labels = torch.cat([part.next_sentence_label for part in made])
    assert len(labels) > 100
    assert near(float(labels.float().mean()), 0.5, len(labels))


def test_batches_end_with_the_pairs() -> None:
    pair = Pair([10], [11], 0)
    made = unilm_batches(6, [pair] * 5, repeat(pair), **IDS)
    assert len(list(made)) == 2
    assert sum(len(part.lengths) for part in next(iter(unilm_batches(7, repeat(pair), repeat(pair), **IDS)))) == 7
    with pytest.raises(ValueError, match="rows: at least 1 is allowed, got 0"):
        next(unilm_batches(0, [], [], **IDS))


def test_batches_follow_the_generator() -> None:
    a, b = batches(12)[:3], batches(12)[:3]
    for one, other in zip(a, b, strict=True):
        assert [part.mode for part in one] == [part.mode for part in other]
        assert all(torch.equal(x.input_ids, y.input_ids) for x, y in zip(one, other, strict=True))


# Cloze ----------------------------------------------------------------------------------


def test_cloze_has_the_published_rates() -> None:
    counts: Counter[str] = Counter()
    sides: dict[str, Counter] = {mode: Counter() for mode in SHARES}
    for batch in batches(24):
        for part in batch:
            chosen = part.labels != -100
            place = torch.arange(chosen.shape[1])
            text = torch.where(chosen, part.labels, part.input_ids)
            special = (text == SOS) | (text == EOS) | (place >= part.lengths[:, None])
            assert not (chosen & special).any()
            assert (text[place.expand_as(text) >= part.lengths[:, None]] == PADDING).all()
            counts["words"] += int((~special).sum())
            counts["chosen"] += int(chosen.sum())
            counts["hidden"] += int((part.input_ids[chosen] == MASK).sum())
            counts["kept"] += int((part.input_ids[chosen] == part.labels[chosen]).sum())
            for side in (0, 1):
                of = (part.token_type_ids == MODES[part.mode].types[side]) & ~special
                sides[part.mode][side] += int((of & chosen).sum())
                sides[part.mode][f"of {side}"] += int(of.sum())
    assert counts["chosen"] > 2000
    # Tokens are chosen up to three at a time, so their number varies more than one by one.
    assert near(counts["chosen"] / counts["words"], 0.15, counts["words"] / 2)
    assert near(counts["hidden"] / counts["chosen"], 0.8, counts["chosen"])
    assert near(counts["kept"] / counts["chosen"], 0.1, counts["chosen"])
    for mode, found in sides.items():  # source and target alike
        for side in (0, 1):
            assert near(found[side] / found[f"of {side}"], 0.15, found[f"of {side}"] / 2), mode


def test_segments_of_a_consecutive_pair_follow_one_another() -> None:
    sentences = [[[10 * i, 10 * i + 1] for i in range(200)]]
    pairs = list(consecutive_pairs(sentences, 40, generator=seeded()))
    assert all(pair.label == 0 for pair in pairs)
    tokens = [token for sentence in sentences[0] for token in sentence]
    for pair in pairs:
        start = tokens.index(pair.first[0])
        joined = pair.first + pair.second
        assert len(set(joined)) == len(joined) <= 37
        assert pair.second[0] in tokens[start + len(pair.first) : start + len(pair.first) + 3]


def test_fine_tuning_hides_words_of_the_target_and_its_end() -> None:
    draw = seeded()
    ids = torch.randint(10, WORDS, (400, 30), generator=draw)
    sources, lengths = torch.randint(1, 15, (400,), generator=draw), torch.randint(15, 31, (400,), generator=draw)
    masked, labels = mask_targets(ids, lengths, sources, mask_id=MASK, words=WORDS, generator=draw)
    place = torch.arange(30)
    target = (place >= sources[:, None]) & (place < lengths[:, None])
    chosen = labels != -100
    assert not (chosen & ~target).any()
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    assert near(float(chosen[target].float().mean()), 0.7, int(target.sum()))
    assert near(float(chosen[torch.arange(400), lengths - 1].float().mean()), 0.7, 400)
    assert near(float((masked[chosen] == MASK).float().mean()), 0.8, int(chosen.sum()))
