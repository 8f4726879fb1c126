"""Permutation LM: spans as published, an order for what is predicted, and nothing that tells a word."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pkernels.models.parts.objectives import partial_spans, permutation_lm


def lengths(chosen: Tensor) -> list[int]:
    """Of the runs of true values in all rows."""
    edges = torch.nn.functional.pad(chosen.int(), (1, 1)).diff(dim=1)
    return ((edges == -1).nonzero()[:, 1] - (edges == 1).nonzero()[:, 1]).tolist()


def test_spans_have_the_published_share_and_lengths() -> None:
    starts = torch.ones(40, 512, dtype=torch.bool)
    chosen = partial_spans(starts, generator=torch.Generator().manual_seed(0))
    # A span of n in 7 n tokens: n, and its stretch of 6 n around it.
    assert abs(float(chosen.float().mean()) * 7 - 1) < 0.1
    runs = torch.tensor(lengths(chosen))
    share = (runs == torch.arange(1, 6)[:, None]).float().mean(1)
    want = 1 / torch.arange(1, 6) / (1 / torch.arange(1, 6)).sum()
    assert runs.max() <= 10  # two may touch
    assert (share - want).abs().max() < 0.04
    assert not chosen[:, -1].any()


def test_spans_start_with_words_and_count_exactly() -> None:
    starts = torch.arange(300).remainder(3).eq(0).expand(8, -1)
    chosen = partial_spans(starts, generator=torch.Generator().manual_seed(0))
    edges = torch.nn.functional.pad(chosen.int(), (1, 0)).diff(dim=1) == 1
    assert starts[edges].all() and edges.any()
    exact = partial_spans(starts, count=50, generator=torch.Generator().manual_seed(0))
    assert exact.sum(1).tolist() == [50] * 8
    assert partial_spans(starts, count=300).all() and not partial_spans(starts, count=0).any()


@pytest.mark.parametrize("split", [0, 5])
def test_orders(split: int) -> None:
    ids = torch.arange(24).view(2, 12) + 10
    chosen, special = torch.zeros(2, 12, dtype=torch.bool), torch.zeros(2, 12, dtype=torch.bool)
    chosen[0, [1, 4, 7]], chosen[1, [0, 11]] = True, True
    special[:, -1] = True
    given = permutation_lm(ids, chosen, special, split=split, targets=4, generator=torch.Generator().manual_seed(1))
    ranks, mapping, labels = given["ranks"], given["target_mapping"], given["labels"]
    assert torch.equal(ranks >= 0, chosen | special)
    for first, last in ((0, split), (split, 12)):
        for row in ranks[:, first:last]:
            mine = row[row >= 0].tolist()
            assert len(set(mine)) == len(mine) and all(rank < last - first for rank in mine)
    # A special token is not predicted, chosen or not; rows behind the last target predict nothing.
    assert labels.tolist() == [[11, 14, 17, -100], [22, -100, -100, -100]]
    assert mapping.sum(2).tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert (mapping @ ids.float()[..., None]).squeeze(2)[labels >= 0].tolist() == [11, 14, 17, 22]


def test_every_order_is_as_likely() -> None:
    ids, all_ = torch.zeros(6000, 3, dtype=torch.long), torch.ones(6000, 3, dtype=torch.bool)
    ranks = permutation_lm(ids, all_, ~all_, generator=torch.Generator().manual_seed(0))["ranks"]
    _, counts = ranks.unique(dim=0, return_counts=True)
    assert len(counts) == 6 and (counts / 1000 - 1).abs().max() < 0.12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: partial_spans(x.long()), "starts: booleans"),
        (lambda x: partial_spans(x, count=9), "count: 0 to 4"),
        (lambda x: partial_spans(x, context=0), "context, longest: at least 1"),
        (lambda x: permutation_lm(x.long(), x, x, split=4), "split: 0 to 3"),
        (lambda x: permutation_lm(x.long(), x, ~x, targets=3), "targets: 4 .* to 4"),
        (lambda x: permutation_lm(x.long(), x.long(), x), "chosen: booleans"),
    ],
)
def test_bad_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 4, dtype=torch.bool))
