"""BigBird's layouts: drawn, against transformers' own functions, and against what the paper says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BigBirdConfig
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention

import pkernels as pk
from pkernels import Blocks, bigbird, bigbird_attention, bigbird_evaluation, bigbird_training


def fixed(blocks: int) -> Tensor:
    """What every row sees: the first block, the last, itself and its neighbours, each once."""
    mask = torch.zeros(blocks, blocks, dtype=torch.int32)
    for i in range(blocks):
        for j in range(blocks):
            mask[i, j] = i in (0, blocks - 1) or j in (0, blocks - 1) or abs(i - j) <= 1
    return mask


def extra(layout: Blocks) -> Tensor:
    """``(heads, blocks, blocks)``: how often each pair is there beyond the fixed ones."""
    return layout.counts(layout.rows) - fixed(layout.rows)


def drawn_by_transformers(length: int, heads: int, size: int, random: int, seed: int, longest: int) -> Tensor:
    """The counts of its functions' lists, which it calls so in its forward pass."""
    c = BigBirdConfig(
        hidden_size=heads, num_attention_heads=heads, block_size=size, num_random_blocks=random,
        max_position_embeddings=longest,
    )  # fmt: skip
    theirs = BigBirdBlockSparseAttention(c, seed).train()
    np.random.seed(seed)
    blocks = length // size
    if length in (1024, 3072, 4096):
        lists = [
            theirs._bigbird_block_rand_mask(longest, longest, size, size, random, last_idx=1024)[: blocks - 2]
            for _ in range(heads)
        ]
    else:
        plan = theirs._get_rand_attn_plan(length, size, random)
        lists = theirs._bigbird_block_rand_mask_with_head(length, length, size, size, heads, *plan)
    found = torch.zeros(heads, blocks, blocks, dtype=torch.int32)
    for h, rows in enumerate(lists):
        for i, row in enumerate(rows):
            for j in row:
                found[h, i + 1, j] += 1
    return found


@pytest.mark.parametrize(
    ("length", "size", "random", "longest"),
    [
        (768, 64, 3, 4096),
        (960, 64, 3, 4096),
        (1024, 64, 3, 4096),
        (1024, 64, 3, 1024),
        (1024, 16, 2, 2048),
        (2048, 64, 3, 4096),
        (3072, 64, 3, 4096),
        (4096, 64, 3, 4096),
        (4096, 128, 2, 4096),
        (60, 4, 2, 60),
        (84, 7, 3, 84),
        (9, 1, 1, 9),
        (84, 4, 8, 84),
        (92, 4, 9, 92),
        (32, 4, 3, 32),
    ],
)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("seed", [0, 7])
def test_training_is_what_transformers_draws(
    length: int, size: int, random: int, longest: int, heads: int, seed: int
) -> None:
    want = drawn_by_transformers(length, heads, size, random, seed, longest)
    layout = bigbird_training(length, heads, size=size, random=random, seed=seed, longest=longest)
    assert torch.equal(extra(layout), want)
    if length != 2048:
        assert layout is bigbird_training(length, heads, size=size, random=random, seed=seed, longest=longest)
        authors = bigbird(length, heads, size=size, random=random, seed=seed, longest=longest)
        assert torch.equal(authors.counts(layout.rows), layout.counts(layout.rows))


def test_the_authors_draw_2048_from_the_first_1024() -> None:
    layout = bigbird(2048, 3, seed=1)
    found = extra(layout)
    assert not found[:, :, 16:].any() and (found[:, 1:-1].sum(-1) == 3).all() and found[:, :, 11:16].any()
    assert not extra(bigbird_training(2048, 3, seed=1))[:, :, 11:].any()
    # The rows of all these lengths are drawn for 4,096: a shorter text sees the first of them.
    longer = extra(bigbird(4096, 3, seed=1))
    assert torch.equal(found[:, :-1, :-1], longer[:, :31, :31])
    assert torch.equal(extra(bigbird(1024, 3, seed=1))[:, :-1], longer[:, :15, :16])


def test_evaluation_takes_the_first_block_instead() -> None:
    layout = bigbird_evaluation(1000, random=3)
    want = torch.zeros(1, 16, 16, dtype=torch.int32)
    want[:, 1:-1, 0] = 3
    assert torch.equal(extra(layout), want)
    assert bigbird_evaluation(1000, random=3) is layout


def test_pictures() -> None:
    picture = [
        "111111111",
        "111000001",
        "111100001",
        "101110001",
        "100111001",
        "100011101",
        "100001111",
        "100000111",
        "111111111",
    ]
    for layout in (
        bigbird(9, 1, size=1, random=0),
        bigbird_evaluation(9, size=1),
        bigbird_evaluation(9, size=1, random=0),
    ):
        assert ["".join(map(str, row)) for row in layout.dense(9, 9)[0].int().tolist()] == picture
    assert bigbird(9, 1, size=1, random=0).counts(9).max() == 1
    assert bigbird_evaluation(9, size=1, random=2).counts(9)[0, :, 0].tolist() == [1, 3, 3, 3, 3, 3, 3, 3, 1]


@pytest.mark.parametrize("random", [0, 1, 3])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5, 6, 8, 9, 11])
def test_short_texts_have_as_many_random_blocks_as_there_are(blocks: int, random: int) -> None:
    layout = bigbird(4 * blocks - 1, 2, size=4, random=random, seed=3)
    found = extra(layout)
    assert layout.rows == blocks and found.min() >= 0 and found.max() <= 1
    assert (found.sum(-1) <= random).all()
    assert not (found * fixed(blocks)).any()


def test_lengths_are_rounded_up() -> None:
    assert torch.equal(bigbird(961, 2).counts(16), bigbird(1024, 2).counts(16))
    assert not torch.equal(bigbird(960, 2).counts(16), bigbird(1024, 2).counts(16))


@pytest.mark.parametrize("length", [60, 57])
def test_attention_counts(backend: str, length: int) -> None:
    q, k, v = torch.randn(3, 2, 3, length, 8, generator=torch.Generator().manual_seed(0)).double()
    lengths = torch.tensor([length, 31])
    for layout in (bigbird(length, 3, size=4, seed=2), bigbird_evaluation(length, size=4)):
        counts = layout.multiplicity(slice(None), length, length, q.device)
        real = (torch.arange(length) < lengths[:, None])[:, None]
        weights = (q @ k.mT / 8**0.5).exp() * counts * real[:, :, None]
        want = (weights @ v / weights.sum(-1, keepdim=True)) * real[..., None]
        got = bigbird_attention(q.float(), k.float(), v.float(), layout, lengths=lengths, backend=backend)
        torch.testing.assert_close(got, want.float(), atol=2e-6, rtol=2e-5)


def test_the_default_layout_is_the_authors() -> None:
    q = torch.randn(1, 2, 800, 4)
    assert torch.equal(bigbird_attention(q, q, q), pk.attention(q, q, q, bigbird(800, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "length: an int of at least 1 is allowed, got 0"),
        ({"heads": 1.5}, "heads: an int of at least 1 is allowed, got 1.5"),
        ({"size": True}, "size: an int of at least 1 is allowed, got True"),
        ({"random": -1}, "random: an int of at least 0 is allowed, got -1"),
    ],
)
def test_bad_input_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bigbird(**{"length": 100, "heads": 2, **arguments})
    if "heads" not in arguments:
        with pytest.raises(ValueError, match=message):
            bigbird_evaluation(**{"length": 100, **arguments})


def test_a_layout_of_another_length_is_refused() -> None:
    q = torch.randn(1, 2, 100, 4)
    with pytest.raises(ValueError, match="pattern: 2 lists .* of 25 blocks of 4 queries"):
        bigbird_attention(q, q, q, bigbird(96, 2, size=4))
