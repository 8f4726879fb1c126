"""BART's noises against the published distributions, with samples enough that a wrong one fails."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor

from pkernels.models import bart, build
from pkernels.models.parts.objectives import (
    Passage,
    bart_noises,
    delete,
    denoising,
    hide,
    infill,
    padded,
    permute,
    rotate,
)

from ..pairs import paragraphs

MASK = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(share: Tensor | float, want: float, samples: int) -> bool:
    """Within four standard deviations of a binomial share."""
    return abs(float(share) - want) <= 4 * (want * (1 - want) / samples) ** 0.5


def long(size: int) -> Passage:
    """Every token occurs once, so what is missing can be seen."""
    return Passage(torch.arange(10, 10 + size), torch.arange(size) // 12)


def gaps(tokens: Tensor) -> list[int]:
    """How many tokens of :func:`long` each [MASK] stands for; masks beside one another cannot be told
    apart, so these are left out."""
    values = [9, *tokens.tolist(), -1]
    alone = [
        (values[i - 1], values[i + 1])
        for i in range(1, len(values) - 1)
        if values[i] == MASK and values[i - 1] != MASK and values[i + 1] not in (MASK, -1)
    ]
    return [after - before - 1 for before, after in alone]


def test_masking_hides_each_token_by_itself() -> None:
    text = long(40_000)
    out = hide(text, mask_id=MASK, generator=seeded())
    masked = out.tokens == MASK
    assert near(masked.float().mean(), 0.15, 40_000)
    assert torch.equal(out.tokens[~masked], text.tokens[~masked])
    assert torch.equal(out.sentence, text.sentence)
    assert near((masked[1:] & masked[:-1]).float().mean(), 0.15**2, 40_000)


def test_deletion_leaves_no_trace() -> None:
    text = long(40_000)
    out = delete(text, rate=0.2, generator=seeded())
    assert near(1 - len(out) / 40_000, 0.2, 40_000)
    assert (out.tokens.diff() > 0).all() and MASK not in out.tokens
    assert torch.equal(out.sentence, (out.tokens - 10) // 12)


def test_infilling_takes_30_percent_in_spans_of_poisson_3() -> None:
    size, draw = 2000, seeded()
    out = [infill(long(size), mask_id=MASK, generator=draw).tokens for _ in range(60)]
    kept = sum(int((x != MASK).sum()) for x in out)
    spans = sum(int((x == MASK).sum()) for x in out)
    assert abs(1 - kept / (60 * size) - 0.3) < 0.01
    assert near(spans / 60 / size, 0.1, 60 * size)  # rate / mean
    lengths = Counter(size for x in out for size in gaps(x))
    total = sum(lengths.values())
    assert total > 9000
    for n in range(8):  # of length 0 too
        share = math.exp(-3) * 3**n / math.factorial(n)
        assert near(lengths[n] / total, share, total), n
    assert all((x[x != MASK].diff() > 0).all() for x in out)


def test_spans_are_anywhere_with_the_same_probability() -> None:
    """But the ends: a span over the first token can begin at it alone."""
    size, draw = 40, seeded()
    kept = torch.zeros(size)
    for _ in range(4000):
        tokens = infill(long(size), mask_id=MASK, generator=draw).tokens
        kept[tokens[tokens != MASK] - 10] += 1
    assert (kept[6:-6] / 4000 - kept[6:-6].mean() / 4000).abs().max() < 4 * (0.21 / 4000) ** 0.5
    assert abs(float(kept.mean()) / 4000 - 0.7) < 0.01


@pytest.mark.parametrize("mean", [0.5, 10.0])
def test_other_rates_and_lengths_of_spans(mean: float) -> None:
    tokens = infill(long(50_000), mask_id=MASK, rate=0.15, mean=mean, generator=seeded()).tokens
    count = int((tokens == MASK).sum())
    assert abs(count - 0.15 * 50_000 / mean) <= 1
    hidden = 50_000 - int((tokens != MASK).sum())
    assert abs(hidden - 0.15 * 50_000) < 4 * (count * mean) ** 0.5


def test_short_texts_are_infilled_too() -> None:
    draw = seeded()
    kept = sum(int((infill(long(4), mask_id=MASK, generator=draw).tokens != MASK).sum()) for _ in range(5000))
    assert 0.7 <= kept / 20_000 < 0.78  # a span that is longer than the text is cut
    empty = Passage.of([])
    for noise in (partial(infill, mask_id=MASK), partial(hide, mask_id=MASK), delete, permute, rotate):
        assert len(noise(empty)) == 0


def test_sentences_are_permuted_whole_and_all_orders_are_as_likely() -> None:
    text, draw = Passage.of([[5, 6], [7], [8, 9, 10]]), seeded()
    orders = Counter(tuple(permute(text, generator=draw).tokens.tolist()) for _ in range(6000))
    assert set(orders) == {
        (*a, *b, *c)
        for a in ((5, 6), (7,), (8, 9, 10))
        for b in ((5, 6), (7,), (8, 9, 10))
        for c in ((5, 6), (7,), (8, 9, 10))
        if len({a, b, c}) == 3
    }
    assert all(near(n / 6000, 1 / 6, 6000) for n in orders.values())


def test_rotation_begins_at_any_token() -> None:
    text, draw = long(7), seeded()
    begins = Counter()
    for _ in range(7000):
        out = rotate(text, generator=draw)
        begins[int(out.tokens[0])] += 1
        assert torch.equal(out.tokens.roll(int(out.tokens[0]) - 10), text.tokens)
    assert len(begins) == 7 and all(near(n / 7000, 1 / 7, 7000) for n in begins.values())


def test_noises_go_together_in_any_order() -> None:
    sentences = [[10, 11, 12], [13, 14], [15, 16, 17, 18]]
    every = [partial(hide, mask_id=MASK), delete, partial(infill, mask_id=MASK), permute, rotate]
    for noises in (every, every[::-1]):
        ids, labels = denoising(sentences, noises, first=0, last=2, generator=seeded(5))
        assert labels.tolist() == [0, *range(10, 19), 2]
        assert (ids[0], ids[-1]) == (0, 2) and set(ids.tolist()) <= {0, 2, MASK, *range(10, 19)}
    # A sentence that rotation cut is two that permutation puts anywhere.
    halves = Counter(
        tuple(permute(rotate(Passage.of([[5, 6]]), generator=seeded(seed)), generator=seeded(seed)).tokens.tolist())
        for seed in range(40)
    )
    assert set(halves) == {(5, 6), (6, 5)}


def test_the_released_models_permute_and_infill() -> None:
    sentences = [[10 + 4 * i + j for j in range(4)] for i in range(2000)]
    ids, labels = denoising(sentences, bart_noises(MASK), first=0, last=2, generator=seeded())
    kept = ids[ids >= 10]
    assert abs(len(kept) / 8000 - 0.7) < 0.02
    assert labels.tolist() == [0, *range(10, 8010), 2]
    steps = kept.diff()
    assert 0.1 < float((steps < 0).float().mean()) < 0.25  # about every second step from a sentence to another


def test_same_generator_same_noise() -> None:
    first, second = (denoising([[5, 6, 7]] * 9, bart_noises(MASK), first=0, last=2, generator=seeded(1)) for _ in "ab")
    assert torch.equal(first[0], second[0])


def test_bad_noises_are_named() -> None:
    with pytest.raises(ValueError, match=r"rate: in \[0, 1\] is allowed, got 2"):
        infill(long(3), mask_id=MASK, rate=2)
    with pytest.raises(ValueError, match="mean: more than 0 is allowed, got 0"):
        infill(long(3), mask_id=MASK, mean=0)


def test_a_small_model_learns_to_denoise_real_text() -> None:
    texts = [[list(s.encode("latin-1", "replace")) for s in p[:72].split(". ")] for p in paragraphs(72)][:64]
    torch.manual_seed(0)
    sizes = {"ffn_dim": 96, "layers": 1, "attention_heads": 3}
    config = bart.Config(
        vocab_size=260, d_model=48, max_position_embeddings=100, dropout=0.0,
        **{f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in sizes.items()},
    )  # fmt: skip
    model = build("BartForConditionalGeneration", config).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        some = [texts[(step * 8 + i) % len(texts)] for i in range(8)]
        rows = [denoising(text, bart_noises(MASK), first=0, last=2, generator=seeded(step)) for text in some]
        ids, lengths = padded([row.tolist() for row, _ in rows], 1)
        labels, wanted = padded([row.tolist() for _, row in rows], -100)
        loss = model(ids, lengths=lengths, labels=labels, decoder_lengths=wanted).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0], losses[-1]
