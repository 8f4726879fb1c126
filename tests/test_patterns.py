"""Patterns as pictures: ``#`` is kept, ``.`` is not; a row is a query, a column a key."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pkernels import INF, Band, causal, dense, prefix_lm, window

from .oracle import mask_of

PICTURES = {
    "dense": (dense, "### ### ###"),
    "causal": (causal, "#... ##.. ###. ####"),
    "causal, fewer queries": (causal, "##. ###"),
    "causal, more queries": (causal, ".. .. #. ##"),
    "strict causal": (Band(right=-1), ".... #... ##.. ###."),
    "right to left": (Band(left=0), "#### .### ..## ...#"),
    "strict right to left": (Band(left=-1), ".### ..## ...# ...."),
    "window 0": (window(0), "#... .#.. ..#. ...#"),
    "window 1": (window(1), "##... ###.. .###. ..### ...##"),
    "window back": (window(2, 0), "#.... ##... ###.. .###. ..###"),
    "window ahead": (window(0, 1), "##.. .##. ..## ...#"),
    "window, fewer queries": (window(1), "..### ...##"),
    "window, more queries": (window(1), ".. .. #. ## ##"),
    "past": (Band(left=3, right=-2), "..... ..... #.... ##... .##.."),
    "future": (Band(left=-2, right=3), "..##. ...## ....# ..... ....."),
    "dilation 2": (window(1, dilation=2), "#.#.. .#.#. #.#.# .#.#. ..#.#"),
    "dilation 3, back": (window(1, 0, dilation=3), "#..... .#.... ..#... #..#.. .#..#. ..#..#"),
    "dilation 2, unbounded": (Band(dilation=2), "#.#. .#.# #.#. .#.#"),
    "dilation 2, fewer queries": (Band(right=0, dilation=2), "#.#.. .#.#. #.#.#"),
    "globals": (window(1, globals=1), "##### ###.. ####. #.### #..##"),
    "dilation 2, globals": (window(1, dilation=2, globals=2), "##### ##### ###.# ##.#. ###.#"),
    "globals, fewer queries": (window(0, globals=2), "##### ##### ##### ###.. ##.#. ##..#"[6:]),
    "columns": (Band(left=0, right=0, columns=2), "##.. ##.. ###. ##.#"),
    "rows": (Band(left=0, right=0, rows=2), "#### #### ..#. ...#"),
    "rows, more queries": (Band(left=0, right=0, rows=1), "... ... ### .#. ..#"),
    "columns and nothing else": (Band(left=-9, right=99, columns=1), "#.. #.. #.."),
    "prefix": (prefix_lm(2), "##.. ##.. ###. ####"),
    "prefix wider than the keys": (prefix_lm(9), "### ### ###"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str) -> None:
    pattern, picture = PICTURES[name]
    rows = picture.split()
    kept = [[mark == "#" for mark in row] for row in rows]
    assert pattern.dense(len(rows), len(rows[0])).tolist() == kept


def test_a_prefix_per_batch_row() -> None:
    mask = prefix_lm(torch.tensor([0, 2])).dense(3, 3)
    assert mask.int().tolist() == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 1, 0], [1, 1, 0], [1, 1, 1]]]


def test_masks_without_rows() -> None:
    assert causal.dense(0, 4).shape == (0, 4) and causal.dense(4, 0).shape == (4, 0)


def test_positions_may_be_narrow_integers() -> None:
    q, k = torch.arange(6, dtype=torch.int32)[:, None], torch.arange(6, dtype=torch.int32)
    for pattern in (Band(INF, 0, dilation=3), Band(0, INF, dilation=INF), Band(-1, INF, dilation=2)):
        assert pattern.keep(q, k).tolist() == pattern.dense(6, 6).tolist()


# Properties ----------------------------------------------------------------------------

sides = st.integers(-12, 40) | st.sampled_from([INF, -INF])
bands = st.builds(
    lambda left, right, columns, rows, dilation: Band(max(left, -right), right, columns, rows, dilation),
    sides,
    sides,
    st.integers(0, 20) | st.just(INF),
    st.integers(0, 20) | st.just(INF),
    st.integers(1, 5) | st.just(INF),
)
sizes = st.integers(0, 24)
often = settings(max_examples=200, deadline=None)


@often
@given(bands, sizes, sizes)
def test_dense_is_the_definition(pattern: Band, sq: int, sk: int) -> None:
    assert pattern.dense(sq, sk).tolist() == mask_of(pattern, 0, sq, sk).tolist()


@often
@given(bands, sizes, sizes)
def test_pairs_counts_what_dense_keeps(pattern: Band, sq: int, sk: int) -> None:
    assert pattern.pairs(sq, sk) == int(pattern.dense(sq, sk).sum())


@often
@given(bands, sizes, sizes, st.integers(1, 9), st.integers(1, 9))
def test_tiles_say_what_dense_keeps(pattern: Band, sq: int, sk: int, bm: int, bn: int) -> None:
    mask, kinds = pattern.dense(sq, sk), pattern.tiles(sq, sk, bm, bn)
    assert kinds.shape == (-(-sq // bm), -(-sk // bn))
    for i, row in enumerate(kinds.tolist()):
        for j, kind in enumerate(row):
            tile = mask[i * bm : (i + 1) * bm, j * bn : (j + 1) * bn]
            assert kind == (0 if not tile.any() else 2 if tile.all() else 1)


@often
@given(bands, st.integers(-10, 30), sizes, sizes)
def test_span_holds_the_band(pattern: Band, first: int, count: int, sk: int) -> None:
    last = first + count
    lo, hi = pattern.span(first, last, sk)
    bare = Band(pattern.left, pattern.right, dilation=pattern.dilation)
    kept = bare.keep(torch.arange(first, last + 1)[:, None], torch.arange(sk)).any(0).nonzero().flatten().tolist()
    assert 0 <= lo <= hi and (lo == hi or hi <= sk)
    assert all(lo <= k < hi for k in kept)
    if pattern.dilation == 1 and kept:
        assert (lo, hi) == (kept[0], kept[-1] + 1)


@often
@given(bands, sizes)
def test_the_transpose_is_the_mask_transposed(pattern: Band, size: int) -> None:
    assert torch.equal(pattern.transpose().dense(size, size), pattern.dense(size, size).T)
    assert pattern.transpose().transpose() == pattern


# Patterns are values ---------------------------------------------------------------------


def test_equal_patterns_are_interchangeable() -> None:
    assert window(3) == Band(3, 3) and hash(window(3)) == hash(Band(3, 3))
    assert window(3) != window(4) and causal != dense and causal != "causal"
    assert len({window(3), Band(3, 3), causal, Band(right=0)}) == 2


def test_a_tensor_makes_a_pattern_equal_to_itself_alone() -> None:
    lengths = torch.tensor([1, 2])
    assert prefix_lm(lengths) == prefix_lm(lengths) and hash(prefix_lm(lengths)) == hash(prefix_lm(lengths))
    assert prefix_lm(lengths) != prefix_lm(lengths.clone())


def test_patterns_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        causal.left = 3  # type: ignore[misc]


def test_repr_draws() -> None:
    assert repr(Band(left=1, right=0)).splitlines() == [
        "Band(left=1, right=0)",
        "■·······",
        "■■······",
        "·■■·····",
        "··■■····",
        "···■■···",
        "····■■··",
        "·····■■·",
        "······■■",
    ]
    assert repr(dense).startswith("Band()\n■■■■■■■■\n")
    assert repr(window(2, dilation=3, globals=1)).startswith("Band(left=2, right=2, columns=1, rows=1, dilation=3)\n")
    assert repr(prefix_lm(torch.tensor([2, 3]))).startswith("Band(right=0, columns=tensor of shape (2,))\n■■··")


def test_one_number_of_columns_where_a_batch_has_no_meaning() -> None:
    pattern = prefix_lm(torch.tensor([1, 2]))
    for use in (lambda: pattern.transpose(), lambda: pattern.pairs(4, 4), lambda: pattern.tiles(4, 4, 2, 2)):
        with pytest.raises(ValueError, match="columns: one number is allowed"):
            use()
