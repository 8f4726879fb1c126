"""Word-region alignment against float64 solvers: the algorithm as printed, and the linear program."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pkernels.models.parts.objectives import alignment_cost, ipot

from ..dense_joint import cheapest, transport
from ..pairs import assert_close

SIZES = [(3, 4), (4, 2), (1, 4), (3, 1), (5, 4)]


def ragged() -> tuple[Tensor, Tensor, Tensor]:
    """Costs with nonsense in the padding, and what is real."""
    draw = torch.Generator().manual_seed(0)
    costs = torch.rand(len(SIZES), 5, 4, generator=draw) * 2
    rows, columns = (torch.arange(n) < torch.tensor(sizes)[:, None] for n, sizes in zip((5, 4), zip(*SIZES)))  # noqa: B905
    return costs, rows, columns


@pytest.mark.parametrize("padding", ["right", "holes"])
def test_plans_are_those_of_each_problem_alone(padding: str) -> None:
    costs, rows, columns = ragged()
    if padding == "holes":
        rows, columns = rows.flip(1), columns.roll(1, 1)
    plans = ipot(costs, rows, columns, beta=0.5, steps=50)
    assert (plans[~(rows[:, :, None] & columns[:, None, :])] == 0).all()
    for plan, cost, r, c in zip(plans, costs, rows, columns, strict=True):
        want = transport(cost[r][:, c], 0.5, 50)
        assert (plan[r][:, c] - want).abs().max() < 1e-5
        assert (plan.sum(1)[r] - 1 / r.sum()).abs().max() < 1e-6


def test_many_steps_reach_the_optimum() -> None:
    costs, rows, columns = ragged()
    sizes = [(rows[i].sum(), columns[i].sum()) for i in (0, 1, 2, 3)]
    plans = ipot(costs.double(), rows, columns, beta=0.1, steps=1000)
    few = ipot(costs, rows, columns)
    for i, (m, n) in enumerate(sizes):
        cost = costs[i, :m, :n]
        best = cheapest(cost) if m * n < 12 else small(cost)
        assert abs(float((plans[i] * costs[i]).sum()) - best) < 1e-3
        assert abs(float((few[i] * costs[i]).sum()) - best) < 0.1
        assert (plans[i].sum(0)[:n] - 1 / n).abs().max() < 1e-4


def small(cost: Tensor) -> float:
    """3 x 4: a linear program of 12 copies has too many matchings to try; its dual has few corners. A
    row's copies are alike, so whole plans are tried: how many quarters of each row go to each column."""
    ways = [w for w in torch.cartesian_prod(*[torch.arange(4)] * 4).tolist() if sum(w) == 4]
    best = float("inf")
    for a in ways:
        for b in ways:
            c = [3 - x - y for x, y in zip(a, b, strict=True)]
            if min(c) >= 0:
                best = min(best, float((torch.tensor([a, b, c]) * cost).sum()) / 12)
    return best


def test_costs_and_their_gradients() -> None:
    _, rows, columns = ragged()
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(5, n, 6, generator=draw).requires_grad_() for n in (5, 4))
    got = alignment_cost(x, y, rows, columns)
    total = torch.zeros(())
    for i, (m, n) in enumerate(SIZES):
        a, b = x[i, :m], y[i, :n]
        cost = 1 - (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
        want = (cost * transport(cost.detach(), 0.5, 50)).sum()
        assert abs(float((got[i] - want).detach())) < 1e-5
        total = total + (i + 1) * want
    wanted = torch.autograd.grad(total, (x, y))
    found = torch.autograd.grad((torch.arange(1, 6) * got).sum(), (x, y))
    for got_, want_, real in zip(found, wanted, (rows, columns), strict=True):
        assert_close(got_, want_, "gradient")
        assert (got_[~real] == 0).all()


def test_it_is_float32_under_autocast_and_of_halves() -> None:
    _, rows, columns = ragged()
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(5, 5, 6, generator=draw).bfloat16(), torch.randn(5, 4, 6, generator=draw).bfloat16()
    want = alignment_cost(x.float(), y.float(), rows, columns)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(alignment_cost(x, y, rows, columns), want) and want.dtype == torch.float32


def test_nothing_to_carry_costs_nothing() -> None:
    x = torch.randn(2, 3, 4).requires_grad_()
    none = torch.zeros(2, 3, dtype=torch.bool)
    cost = alignment_cost(x, x.detach(), none, ~none)
    cost.sum().backward()
    assert cost.tolist() == [0, 0] and (x.grad == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"costs": torch.zeros(2, 3)},
            r"costs: floats of shape \(B, M, N\) are allowed, got torch.float32 of \(2, 3\)",
        ),
        ({"real_rows": torch.ones(1, 3)}, r"real_rows: booleans of shape \(1, 2\) are allowed, got torch.float32"),
        ({"real_columns": torch.ones(1, 2).bool()}, r"real_columns: booleans of shape \(1, 3\)"),
        ({"beta": 0.0}, "beta: above 0 is allowed, got 0.0"),
        ({"steps": 0}, "steps, inner: at least 1 is allowed, got 0, 1"),
    ],
)
def test_wrong_calls_are_named(changes: dict, message: str) -> None:
    real = {"real_rows": torch.ones(1, 2).bool(), "real_columns": torch.ones(1, 3).bool()}
    with pytest.raises(ValueError, match=message):
        ipot(**{"costs": torch.zeros(1, 2, 3), **real, **changes})


def test_wrong_states_are_named() -> None:
    real = torch.ones(1, 2).bool()
    with pytest.raises(ValueError, match=r"words, regions: .* got \(1, 2, 4\) and \(1, 2, 5\)"):
        alignment_cost(torch.zeros(1, 2, 4), torch.zeros(1, 2, 5), real, real)
