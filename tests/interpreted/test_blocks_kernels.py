"""The Triton kernels over Blocks in the watched interpreter, against the float64 oracle."""

from __future__ import annotations

import pytest

from pkernels.triton import tune
from tests import test_attention as shared
from tests.budget import assert_within_budget
from tests.budget import run as evaluate
from tests.cases import Case, solved
from tests.edges import CASES

SMALL = tune.Config(own=16, other=32, warps=4, stages=1)
NAMES = (
    "blocks of 1", "blocks of 16, per head", "blocks of 24, 70x37", "blocks wider than S", "blocks of nothing",
    "blocks counted", "blocks, heads 4:2", "blocks, D 26", "blocks, D 41, Dv 80", "blocks, lengths",
    "blocks, lengths 0 and 1", "blocks, lengths pair", "blocks, dropout", "blocks, distance", "blocks, distance, 21x50",
    "blocks, dense", "blocks, dense hidden", "blocks, dense of keys", "blocks, NaN border", "blocks of no rows",
    "relative, blocks of 24, lengths, dropout",
    "bf16, blocks, D 64",
)  # fmt: skip
SPARSE = [case for case in CASES if case.id in NAMES]


def test_every_name_is_a_case() -> None:
    assert {case.id for case in SPARSE} == set(NAMES)


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: case.id)
def test_within_budget(case: Case) -> None:
    call, exact, plain = solved(case)
    with tune.using(config=SMALL):
        assert_within_budget(evaluate(call, "triton"), exact, plain, case.dtype)


@pytest.mark.parametrize("name", ["blocks, heads 4:2"])
def test_with_the_shipped_tiles(name: str) -> None:
    case = next(case for case in SPARSE if case.id == name)
    call, exact, plain = solved(case)
    got = evaluate(call, "triton")
    assert_within_budget(got, exact, plain, case.dtype)
    shared.assert_same_bits(evaluate(call, "triton"), got)


@pytest.mark.parametrize("name", ["blocks, dense hidden"])
def test_nothing_leaks(name: str) -> None:
    case = next(case for case in SPARSE if case.id == name)
    with tune.using(config=SMALL):
        shared.test_rows_that_meet_nothing_may_hold_anything(case, float("nan"), "triton")
        shared.test_keys_reach_the_rows_that_see_them_alone(case, float("nan"), "triton")
        shared.test_queries_reach_the_keys_they_see_alone(case, "triton")
