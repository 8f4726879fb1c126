"""Caches: what they give back is what attention over the whole text would see."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pkernels import attention, causal, prefix_lm, window
from pkernels.models.parts.cache import Growing, Reading, Ring, Writing, cache_of
from pkernels.models.parts.padding import layout
from pkernels.patterns import Band

CPU = torch.device("cpu")


def heads(size: int, seed: int) -> Tensor:
    return torch.randn(2, 3, size, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prompt", [[5, 5], [6, 1], [1, 6], [2, 9]])
@pytest.mark.parametrize("steps", [[1] * 9, [1, 3, 1, 1, 5], [7, 1, 1]])
@pytest.mark.parametrize(
    ("pattern", "room"), [(causal, 0), (causal, 40), (window(3, 0), 40), (window(0, 0), 40), (window(3, 0), 4)]
)
def test_attention_by_parts_is_that_of_the_whole(prompt: list[int], steps: list[int], pattern: Band, room: int) -> None:
    longest, lengths = max(prompt), torch.tensor(prompt)
    ragged = None if prompt[0] == prompt[1] else lengths
    cache = cache_of(pattern, room)
    where = layout(2, longest, CPU, lengths=lengths)
    new = [heads(n, seed) for seed, n in enumerate([longest, *steps])]
    packed = [where.pack(x.transpose(1, 2)).transpose(1, 2) for x in (new[0], -new[0], 2 * new[0])]
    got = [
        where.unpack(Reading(where, ragged, cache).attend(*packed, pattern, None, 0.0).transpose(1, 2)).transpose(1, 2)
    ]
    for x in new[1:]:
        got.append(Writing(2, x.shape[2], CPU, cache).attend(x, -x, 2 * x, pattern, None, 0.0))
    for row, n in enumerate(prompt):
        whole, mixed = (torch.cat([x[0][row, :, :n], *(y[row] for y in x[1:])], 1)[None] for x in (new, got))
        assert torch.allclose(mixed, attention(whole, -whole, 2 * whole, pattern), atol=1e-6)


def test_rings_hold_no_more_than_their_window() -> None:
    cache = Ring(4)
    for n in (9, 1, 1, 6, 1):
        cache.append(heads(n, n), heads(n, n))
    assert cache.k.shape == cache.v.shape == (2, 3, 4, 8)


def test_room_is_taken_once() -> None:
    cache = Growing(20)
    cache.append(heads(9, 0), heads(9, 1))
    memory = cache.k.data_ptr()
    for seed in range(11):
        keys, _ = cache.append(heads(1, seed), heads(1, seed))
    assert cache.k.data_ptr() == memory == keys.data_ptr() and keys.shape[2] == 20
    keys, values = cache.append(heads(1, 50), heads(1, 51))
    assert (
        keys.shape[2] == 21
        and torch.equal(keys[:, :, :9], heads(9, 0))
        and torch.equal(values[:, :, 20:], heads(1, 51))
    )


@pytest.mark.parametrize("make", [Growing, lambda: Ring(4)])
@pytest.mark.parametrize("ragged", [True, False])
@pytest.mark.parametrize("rows", [[1, 0], [1, 1, 0]])
def test_reordered_rows_go_on_as_theirs(make, ragged: bool, rows: list[int]) -> None:
    cache, lengths = make(), torch.tensor([2, 5]) if ragged else None
    cache.append(heads(5, 0), heads(5, 1), lengths)
    cache.append(heads(1, 2), heads(1, 3))
    other, picked = make(), torch.tensor(rows)
    other.append(heads(5, 0)[rows], heads(5, 1)[rows], None if lengths is None else lengths[rows])
    other.append(heads(1, 2)[rows], heads(1, 3)[rows])
    cache.reorder(picked)
    new = heads(2, 4)[[0] * len(rows)][:, :, :1]
    for mine, want in zip(cache.append(new, new), other.append(new, new), strict=True):
        for row in range(len(rows)):
            real = slice(None) if other.lengths is None else slice(int(other.lengths[row]))
            assert torch.equal(mine[row, :, real], want[row, :, real])
    assert (cache.lengths is None) == (other.lengths is None)
    assert cache.lengths is None or torch.equal(cache.lengths, other.lengths)


def test_patterns_choose_their_cache() -> None:
    assert isinstance(cache_of(causal, 8), Growing)
    assert isinstance(cache_of(window(7, 0), 8), Growing)  # all that there will be is within reach
    assert isinstance(cache_of(window(6, 0), 8), Ring)
    assert isinstance(cache_of(window(6, 0), 0), Ring)
    assert isinstance(cache_of(window(2, 0, globals=0, dilation=2), 8), Growing)
    assert isinstance(cache_of(Band(2, 0, columns=1), 8), Growing)
    for pattern in (window(3), prefix_lm(3).transpose(), Band(2, 0, rows=1)):
        with pytest.raises(ValueError, match="pattern: words follow one another"):
            cache_of(pattern, 8)
