"""The softmax by a sample, and what both directions predict: against their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from pkernels.models.parts.objectives import both_directions, expected_counts, log_uniform, sampled_softmax_loss


def test_draws_are_different_and_as_often_as_expected() -> None:
    words, count, rounds = 30, 8, 3000
    draw = torch.Generator().manual_seed(0)
    seen, expected = torch.zeros(words), torch.zeros(words)
    for _ in range(rounds):
        ids, tries = log_uniform(count, words, draw)
        assert len(ids.unique()) == count == len(ids) and tries >= count
        seen[ids] += 1
        expected += expected_counts(torch.arange(words), words, tries).float()
    # Given the tries the number of different words is known, so the two differ a little.
    assert (seen / rounds - expected / rounds).abs().max() < 0.03
    assert seen[0] > 2 * seen[-1]


def test_probabilities_are_zipfs() -> None:
    one = expected_counts(torch.arange(50), 50, 1)
    assert abs(float(one.sum()) - 1) < 1e-12
    assert abs(float(one[3]) - math.log(5 / 4) / math.log(51)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_and_its_gradients_are_the_definition(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(1)
    words, count = 25, 10
    states, weight, bias = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((9, 4), (words, 4), (words,))
    )
    targets = torch.tensor([0, 3, 24, 0, 1, -100, 7, 2, 5])
    got = sampled_softmax_loss(states, weight, bias, targets, count, torch.Generator().manual_seed(2))
    drawn, tries = log_uniform(count, words, torch.Generator().manual_seed(2))
    assert set(drawn.tolist()) & set(targets.tolist())  # some draw hits a target
    log_expected = [
        math.log(1 - (1 - math.log((w + 2) / (w + 1)) / math.log(words + 1)) ** tries) for w in range(words)
    ]
    losses = []
    for state, target in zip(states, targets.tolist(), strict=True):
        if target == -100:
            continue
        rivals = [target, *(w for w in drawn.tolist() if w != target)]
        scores = torch.stack([state @ weight[w] + bias[w] - log_expected[w] for w in rivals])
        losses.append(scores.logsumexp(0) - scores[0])
    want = torch.stack(losses).mean()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert abs(got - want) < tolerance
    for a, b in zip(*(torch.autograd.grad(x, (states, weight, bias)) for x in (got, want)), strict=True):
        assert (a - b).abs().max() < tolerance


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="count: between 1 and 4"):
        log_uniform(5, 5)
    with pytest.raises(ValueError, match=r"states, targets: shapes \(N, P\) and \(N,\)"):
        sampled_softmax_loss(torch.zeros(2, 3, 4), torch.zeros(9, 4), torch.zeros(9), torch.zeros(2).long(), 3)


def test_both_directions_of_ragged_sentences() -> None:
    ahead, back = both_directions(torch.tensor([[5, -100, 7], [8, 9, 9], [3, 3, 3]]), torch.tensor([3, 1, 0]), 1, 2)
    assert ahead.tolist() == [[5, -100, 7, 2, -100], [8, 2, -100, -100, -100], [2, -100, -100, -100, -100]]
    assert back.tolist() == [[-100, 1, 5, -100, 7], [-100, 1, 8, -100, -100], [-100, 1, -100, -100, -100]]
