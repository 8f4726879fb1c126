"""Blocks as values: how they are written, drawn, transposed and refused."""

from __future__ import annotations

import pytest
import torch

from pkernels import Blocks, attention
from pkernels.blocks import Lists

from .shapes import listed


def test_of_lists() -> None:
    blocks = Blocks.of([[2, 0, 0], [], [1]], 2)
    assert blocks.counts(3).tolist() == [[[2, 0, 1], [0, 0, 0], [0, 1, 0]]]
    assert blocks.dense(6, 6)[0].int().tolist() == [
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0, 0],
    ]
    assert blocks.dense(5, 5)[0, :, 4].int().tolist() == [1, 1, 0, 0, 0]


def test_of_lists_per_head() -> None:
    blocks = Blocks.of([[[0], [1]], [[], [0, 1]]], 4)
    assert blocks.counts(2).tolist() == [[[1, 0], [0, 1]], [[0, 0], [1, 1]]]


@pytest.mark.parametrize("heads", [1, 3])
def test_mask_and_back(heads: int) -> None:
    counts = listed(4, 30, 22, heads, most=3, seed=heads).counts(6)
    blocks = Blocks.from_mask(counts, 4)
    assert torch.equal(blocks.counts(6), counts)
    offsets, columns, back = blocks.transposed(6)
    assert torch.equal(Blocks(Lists(offsets, columns, back), 4).counts(8), counts.mT)
    assert blocks.transposed(6) is blocks.transposed(6)


def test_pairs_count_rows_of_the_last_blocks() -> None:
    blocks = listed(4, 30, 22, 2, most=2)
    assert blocks.pairs(30, 22) == int(blocks.dense(30, 22).sum()) // 2


def test_drawing() -> None:
    assert repr(Blocks.of([[0], [1]], 1)) == "Blocks(2 x 2 blocks of 1)\n■·\n·■"


def test_bad_input() -> None:
    q = torch.randn(1, 2, 8, 4)
    with pytest.raises(ValueError, match="pattern: 2 lists .* of 2 blocks of 4 queries .* got 1 of 3"):
        attention(q, q, q, Blocks.of([[0], [0], [0]], 4))
    with pytest.raises(ValueError, match="pattern: 2 lists .* got 3 of 2"):
        attention(q, q, q, Blocks.of([[[0], [0]]] * 3, 4))
    with pytest.raises(ValueError, match="pattern: key blocks from 0 to 1 are allowed for 8 keys, got 0 to 2"):
        attention(q, q, q, Blocks.of([[0], [2]], 4), backend="cpu")
    with pytest.raises(ValueError, match="lists: blocks from 0 on are allowed, got -1"):
        Blocks.of([[0], [-1]], 4)
    with pytest.raises(ValueError, match="size: a positive int is allowed, got 0"):
        Blocks.of([[0]], 0)
    with pytest.raises(ValueError, match="mask: booleans or counts"):
        Blocks.from_mask(torch.ones(2, 2), 4)
    with pytest.raises(ValueError, match="offsets: packed sequences are allowed with a Band alone"):
        attention(q[:1], q[:1], q[:1], Blocks.of([[0], [0]], 4), offsets=[0, 8])


@pytest.mark.parametrize(
    ("offsets", "columns", "counts", "message"),
    [
        ([[0, 2, 1]], [0], [1], "offsets that rise from 0 to 1"),
        ([[0, 1, 3]], [0, 1], [1, 1], "offsets that rise from 0 to 2"),
        ([[0, 1, 2]], [0, 1], [1, 0], "counts of at least 1"),
        ([[0, 1, 2]], [0, -1], [1, 1], "key blocks from 0 to 1"),
    ],
)
def test_lists_that_are_out_of_order(offsets: list, columns: list, counts: list, message: str) -> None:
    q = torch.randn(1, 1, 8, 4)
    lists = Lists(*(torch.tensor(x, dtype=torch.int32) for x in (offsets, columns, counts)))
    with pytest.raises(ValueError, match=message):
        attention(q, q, q, Blocks(lists, 4), backend="cpu")


def test_opcheck(backend: str) -> None:
    q, k, v = torch.randn(3, 2, 2, 24, 8).requires_grad_().unbind()
    blocks = listed(8, 24, 24, heads=2, most=2)
    pattern = (None, None, None, None, *blocks.lists, None, None, None, None, None, None, 8)
    torch.library.opcheck(torch.ops.pkernels.blocks_fwd.default, (q, k, v, *pattern, 0, False, 1.0, 0.0, backend))


@pytest.mark.compiles
def test_compiles_in_one_graph() -> None:
    blocks = listed(8, 24, 24, heads=2, most=2)
    q, k, v = torch.randn(3, 1, 2, 24, 16).unbind()
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: attention(*x, blocks), backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), attention(q, k, v, blocks))
