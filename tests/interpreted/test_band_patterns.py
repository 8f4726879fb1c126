"""The Triton kernels over every pattern in the watched interpreter, against the float64 oracle."""

from __future__ import annotations

import pytest

from pkernels.triton import tune
from tests import test_attention as shared
from tests.budget import assert_within_budget
from tests.budget import run as evaluate
from tests.cases import Case, solved
from tests.edges import PATTERNS, patterns

SMALL = tune.Config(own=16, other=32, warps=4, stages=1)
# One program per residue class of the dilation: as many as there are rows, and slow to interpret.
SLOW = {"limits of int", "window of INF steps", "dilation wider than S"}
SQUARE = [case for case in patterns()[: len(PATTERNS)] if case.id not in SLOW]
LEAKS = {"causal", "dilation 3, globals", "prefix per row"}


@pytest.mark.parametrize("case", SQUARE, ids=lambda case: case.id)
def test_within_budget(case: Case) -> None:
    call, exact, plain = solved(case)
    with tune.using(config=SMALL):
        assert_within_budget(evaluate(call, "triton"), exact, plain, case.dtype)


@pytest.mark.parametrize("case", [case for case in SQUARE if case.id in LEAKS], ids=lambda case: case.id)
def test_nothing_leaks(case: Case) -> None:
    with tune.using(config=SMALL):
        shared.test_rows_that_meet_nothing_may_hold_anything(case, float("inf"), "triton")
        shared.test_keys_reach_the_rows_that_see_them_alone(case, float("nan"), "triton")
        shared.test_queries_reach_the_keys_they_see_alone(case, "triton")
