"""The Triton kernels over Buckets in the watched interpreter, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch

import pkernels
from pkernels.triton import tune
from tests import test_attention as shared
from tests.budget import assert_within_budget
from tests.budget import run as evaluate
from tests.cases import Case, solved
from tests.edges import CASES

SMALL = tune.Config(own=16, other=32, warps=4, stages=1)
NAMES = (
    "buckets of local rows", "buckets, 3 rounds", "buckets, last resort, causal", "buckets, own 0.5", "buckets of 1",
    "buckets, one chunk", "buckets, both neighbours", "buckets, neighbours ahead",
    "buckets, more neighbours than chunks", "buckets, rows missing", "buckets of nothing", "buckets, heads 4:2",
    "buckets, D 26", "buckets, D 41, Dv 80", "buckets, lengths", "buckets, dropout", "buckets, NaN border",
    "buckets of no rows", "bf16, buckets, last resort, D 26",
)  # fmt: skip
SPARSE = [case for case in CASES if case.id in NAMES]


def test_every_name_is_a_case() -> None:
    assert {case.id for case in SPARSE} == set(NAMES)


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: case.id)
def test_within_budget(case: Case) -> None:
    call, exact, plain = solved(case)
    with tune.using(config=SMALL):
        assert_within_budget(evaluate(call, "triton"), exact, plain, case.dtype)


@pytest.mark.parametrize("name", ["buckets, heads 4:2"])
def test_with_the_shipped_tiles(name: str) -> None:
    case = next(case for case in SPARSE if case.id == name)
    call, exact, plain = solved(case)
    got = evaluate(call, "triton")
    assert_within_budget(got, exact, plain, case.dtype)
    shared.assert_same_bits(evaluate(call, "triton"), got)


@pytest.mark.parametrize("name", ["buckets of local rows", "buckets, last resort, causal"])
def test_nothing_leaks(name: str) -> None:
    case = next(case for case in SPARSE if case.id == name)
    with tune.using(config=SMALL):
        shared.test_rows_that_meet_nothing_may_hold_anything(case, float("nan"), "triton")
        shared.test_keys_reach_the_rows_that_see_them_alone(case, float("nan"), "triton")
        shared.test_queries_reach_the_keys_they_see_alone(case, "triton")


@pytest.mark.parametrize("sizes", [{"buckets": 4}, {"buckets": (4, 6)}, {"buckets": 64}, {"buckets": (2, 34)}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_order(sizes: dict, dtype: torch.dtype) -> None:
    x = torch.randn(2, 2, 37, 26).to(dtype)
    mask = torch.rand(2, 37) < 0.7
    for real in (None, mask):
        one, other = (
            pkernels.lsh_order(x, rounds=3, chunk=8, seed=2, mask=real, backend=name, **sizes)
            for name in ("triton", "reference")
        )
        assert torch.equal(one, other)
