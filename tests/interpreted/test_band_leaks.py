"""What the Triton kernels over a Band must not see has no influence, in the watched interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pkernels.triton import tune
from tests import test_attention as shared
from tests import test_relative
from tests.edges import CASES

from .test_band_features import SMALL


@pytest.mark.parametrize("name", ["bias dense, hidden pairs", "lengths, prefix per row", "dropout, globals"])
def test_nothing_leaks(name: str) -> None:
    case = next(case for case in CASES if case.id == name)
    with tune.using(config=SMALL):
        shared.test_rows_that_meet_nothing_may_hold_anything(case, float("nan"), "triton")
        shared.test_keys_reach_the_rows_that_see_them_alone(case, float("nan"), "triton")
        shared.test_queries_reach_the_keys_they_see_alone(case, "triton")


@pytest.mark.parametrize("name", ["relative, globals", "relative, dilation, dropout"])
def test_nothing_of_a_relative_leaks(name: str) -> None:
    case = replace(next(case for case in CASES if case.id == name), heads=1)
    with tune.using(config=SMALL):
        test_relative.check_what_meets_nothing(case, float("nan"), "triton")
        test_relative.check_a_row_of_the_table(case, "triton")
        test_relative.check_a_query(case, "triton")
