"""Dropout's random bits: known answers, and the layout of the counters."""

from __future__ import annotations

import pytest
import torch

from pkernels.reference import philox

from . import oracle

# Random123's known answers (kat_vectors) for philox4x32 with 7 rounds: counter, key, output.
KNOWN = [
    ((0, 0, 0, 0), 0, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    ((2**32 - 1,) * 4, -1, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0_A4093822,
        (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A),
    ),
]


@pytest.mark.parametrize(("counter", "seed", "wanted"), KNOWN)
def test_known_answers(counter: tuple[int, ...], seed: int, wanted: tuple[int, ...]) -> None:
    assert tuple(int(x) for x in oracle.philox(seed, counter)) == wanted
    tensors = tuple(torch.tensor([x]) for x in counter)
    assert tuple(int(x) for x in philox.words(seed, tensors)) == wanted


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x0123_4567_89AB_CDEF])
@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.999])
def test_the_bits_of_pairs(seed: int, dropout: float) -> None:
    kept = philox.kept(seed, torch.tensor([0, 3]), 3, 5, 19, dropout)
    for n, b in enumerate((0, 3)):
        assert kept[n].tolist() == oracle.survivors(seed, b, 3, 5, 19, dropout).tolist()


def test_bits_do_not_depend_on_the_number_of_keys() -> None:
    batch = torch.arange(2)
    whole = philox.kept(7, batch, 2, 9, 64, 0.5)
    for sk in (1, 7, 8, 9, 63):
        assert torch.equal(philox.kept(7, batch, 2, 9, sk, 0.5), whole[..., :sk])


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept(dropout: float) -> None:
    kept = philox.kept(11, torch.arange(4), 4, 128, 128, dropout).double()
    # Five standard deviations of the mean of this many coins.
    assert abs(kept.mean() - (1 - dropout)) < 5 * (dropout * (1 - dropout) / kept.numel()) ** 0.5
    for dim in range(4):
        means = kept.mean(tuple(d for d in range(4) if d != dim))
        assert (means - (1 - dropout)).abs().max() < 6 * (dropout * (1 - dropout) * len(means) / kept.numel()) ** 0.5


def test_neighbours_are_independent() -> None:
    signs = philox.kept(3, torch.arange(2), 2, 256, 256, 0.5).double() * 2 - 1
    for dim in range(4):
        a, b = signs.narrow(dim, 0, signs.shape[dim] - 1), signs.narrow(dim, 1, signs.shape[dim] - 1)
        assert abs((a * b).mean()) < 5 / a.numel() ** 0.5
