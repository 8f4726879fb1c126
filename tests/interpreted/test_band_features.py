"""The Triton kernels with every feature in the watched interpreter, against the float64 oracle."""

from __future__ import annotations

import fnmatch
from dataclasses import replace

import pytest
import torch

from pkernels.triton import tune
from tests import test_attention as shared
from tests.budget import assert_within_budget
from tests.budget import run as evaluate
from tests.cases import Case, solved
from tests.edges import BIASES, CASES, CORE, EMPTY, EVERYTHING

SMALL = tune.Config(own=16, other=32, warps=4, stages=1)
NAMES = (
    *(f"D {d}" for d in (1, 26, 41, 80, 128, 256)),
    *(f"no {name}" for name in EMPTY),
    *(f"bias {name}" for name in BIASES),
    "D 64, Dv 32", "S 1", "S 1x129", "causal, S 33x17", "heads 6:2", "scale negative", "gradient of out alone",
    "bias distance, heads 4:2", "bias dense, heads 4:2", "bias distance, 21x50", "bias dense, 50x21",
    "bias distance, lengths", "bias distance, dilation 3, globals", "bias dense hidden, globals",
    "relative, window of the past", "relative, globals", "relative, shared", "relative, D 64, Dr 7",
    "relative, heads 4:2", "relative, lengths pair", "relative, offsets, window", "relative, dropout",
    "relative, dilation, dropout", "relative, column, dilation, S 99", "relative, no keys",
    "bf16, relative, causal, D 26",
    "lengths, prefix per row", "lengths 0, 1, S", "lengths pair", "lengths, heads 4:2", "offsets pair",
    "offsets, dilation 3, globals", "offsets, bias dense", "offsets of none",
    "dropout, globals", "dropout, S 131", "dropout, heads 4:2", "dropout, offsets", "dropout, dense",
    "rows before heads, D 26", "NaN border, D 26", "one row, expanded, D 16", "last dimension strided, D 16",
    "bf16, causal, 70x37", "bf16, dense bias of keys, lengths", "bf16, offsets, D 128", "bf16, dropout, Dv 41",
    "bf16, scale negative",
    "fp16, window, heads 4:2", "fp16, distance, causal, D 1", "fp16, everything",
)  # fmt: skip
CHOSEN = [case for case in CASES if case.id in NAMES]


def test_every_name_is_a_case() -> None:
    assert {case.id for case in CHOSEN} == set(NAMES)


@pytest.mark.parametrize("case", CHOSEN, ids=lambda case: case.id)
def test_within_budget(case: Case) -> None:
    call, exact, plain = solved(case)
    with tune.using(config=SMALL):
        assert_within_budget(evaluate(call, "triton"), exact, plain, case.dtype)


@pytest.mark.parametrize("pattern", ["everything", "causal, S 65, D 64", "offsets, D 128", "bf16, causal, S 300"])
def test_with_the_shipped_tiles(pattern: str) -> None:
    case = next(case for case in (*CORE, *CASES) if fnmatch.fnmatch(case.id, pattern))
    call, exact, plain = solved(case)
    got = evaluate(call, "triton")
    assert_within_budget(got, exact, plain, case.dtype)
    shared.assert_same_bits(evaluate(call, "triton"), got)


def test_dropout_draws_the_same_bits_as_on_the_cpu() -> None:
    call = replace(EVERYTHING, bias=None).call()
    # All weights alike, and values that differ: each output is a code of the keys that were kept.
    call.k, call.v = call.k * 0, 1 + torch.rand(call.v.shape, generator=torch.Generator().manual_seed(1))
    triton, cpu = evaluate(call, "triton").out, evaluate(call, "cpu").out
    assert (triton - cpu).abs().max() < 1e-5
