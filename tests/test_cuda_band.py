"""The CUDA kernels' PTX, executed: what nvcc made of ``csrc/cuda`` runs on the emulator (``tests/gpu/ptx``).

``pkernels.attention`` itself is called, backward included; C++ works out each launch, and the
emulator, which refuses races, stray accesses and missing waits, runs the kernel that is in the
extension. Results are judged like those of every backend.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import Band, causal, cuda, prefix_lm, window
from tests import test_attention as shared
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from tests.gpu.nvcc import emulated

ONE: dict[str, Any] = {"batch": 1, "heads": 1, "dtype": torch.bfloat16}
HALF: dict[str, Any] = {**ONE, "dtype": torch.float16}
CASES = [
    (None, Case("causal, S 130, D 64", causal, sq=130, d=64, **ONE)),
    (1, Case("causal, S 70, D 128, fp16", causal, sq=70, d=128, **HALF)),
    (None, Case("window, dropout, heads 2:1, D 80, Dv 41", window(20, 9), sq=70, d=80, dv=41, dropout=0.3,
                **{**ONE, "heads": 2, "kv_heads": 1})),
    (2, Case("globals, dropout, 70x90, fp16", window(9, globals=5), sq=70, sk=90, d=64, dropout=0.3, **HALF)),
    (None, Case("dilation, globals, 90x70", Band(left=9, right=4, columns=3, rows=12, dilation=2), sq=90, sk=70, d=16,
                dropout=0.2, scale=-0.3, **ONE)),
    (3, Case("prefix per row, offsets", prefix_lm(torch.tensor([3, 0, 1, 12])), sq=60, d=26,
             offsets=[0, 23, 24, 24, 57], **ONE)),
    (None, Case("lengths, D 64, Dv 32", window(9, 2), sq=67, d=64, dv=32, lengths=[67, 29],
                layout="rows before heads", **{**ONE, "batch": 2})),
]  # fmt: skip


def judged(case: Case, seed: int | None) -> None:
    call, exact, plain = solved(case)
    with emulated(seed) as reports:
        got = run(call, "cuda")
    assert_within_budget(got, exact, plain, case.dtype)
    assert [report.kernel.split("_")[0] for report in reports] == ["forward", "dq", "dkv"]
    for report in reports:
        assert sum(n for name, n in report.executed.items() if name.startswith("mma.sync.aligned.m16n8k16")) > 0
        assert report.ambiguous == [] and report.conflicts == {}, report.kernel


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_band(seed: int | None, case: Case) -> None:
    judged(case, seed)


TWO: dict[str, Any] = {**ONE, "heads": 2, "kv_heads": 1}
BIASED = [
    Case("distance, 40x70, heads 2:1", causal, sq=40, sk=70, d=64, bias="distance", **TWO),
    Case("distance of one head, dilation, D 128", window(9, dilation=2, globals=3), sq=50, d=128, dropout=0.3,
         bias="distance shared", **HALF),
    Case("distance, offsets", window(9), sq=60, d=26, offsets=[0, 23, 24, 24, 57], bias="distance", **ONE),
    Case("dense hidden, lengths", dtype=torch.float16, heads=1, sq=70, d=64, bias="dense hidden", lengths=[70, 22]),
    Case("dense of keys, dropout, D 80", causal, sq=40, d=80, bias="dense 1x1x1x40", dropout=0.3, **ONE),
    Case("dense of queries, dilation, heads 2:1", window(9, dilation=2, globals=3), sq=40, d=16, bias="dense 1x2x40x1",
         **TWO),
]  # fmt: skip
RELATIVE = [
    Case("relative, 70x130, heads 2:1, dropout", causal, sq=70, sk=130, d=64, bias="relative", dropout=0.3, **TWO),
    Case("relative, window, D 128, Dr 26, fp16", window(20, 5, globals=3), sq=60, sk=40, d=128, bias="relative 26",
         **HALF),
    Case("relative, prefix, offsets", prefix_lm(torch.tensor([3, 0, 1, 12])), sq=60, d=16,
         offsets=[0, 23, 24, 24, 57], bias="relative", **ONE),
    Case("relative shared, lengths", window(9, 2), sq=40, d=16, lengths=[40, 17], bias="relative shared", scale=-0.3,
         **{**ONE, "batch": 2}),
]  # fmt: skip


@pytest.mark.parametrize("case", BIASED + RELATIVE, ids=lambda case: case.id)
def test_biases(case: Case) -> None:
    """Forward and all gradients, those of the bias too."""
    call, exact, plain = solved(case)
    with emulated() as reports:
        got = run(call, "cuda")
    assert got.dbias is not None
    assert_within_budget(got, exact, plain, case.dtype)
    assert case.bias is not None
    kind = case.bias.split()[0]
    last = "ddense" if kind == "dense" else "diagonals"
    names = [report.kernel.split("_") for report in reports]
    assert [name[0] for name in names] == ["forward", "dq", "dkv", last]
    assert {name[-1] for name in names} == {kind}
    for report in reports:
        assert report.ambiguous == [] and report.conflicts == {}, report.kernel


def test_dropout_draws_the_same_bits_as_on_the_cpu() -> None:
    call = Case("", window(30, globals=3), sq=70, d=64, dropout=0.4, **{**ONE, "heads": 2}).call()
    # All weights alike, and values that differ: each output is a code of the keys that were kept.
    call.q, call.dout, call.dlse = call.q * 0, None, None
    call.v = torch.eye(70, 64, dtype=torch.bfloat16).expand(call.v.shape)
    with emulated():
        kept = run(call, "cuda").out != 0
    assert torch.equal(kept, run(call, "cpu").out != 0)
    assert 0.2 < kept.float().mean() < 0.8


@pytest.mark.parametrize("case", [BIASED[0], BIASED[3], RELATIVE[0]], ids=lambda case: case.id)
def test_gradients_of_biases_are_the_same_bits_again(case: Case) -> None:
    with emulated():
        first = run(case.call(), "cuda")
    with emulated(5):
        shared.assert_same_bits(run(case.call(), "cuda"), first)


LEAKY = Case("", Band(left=5, right=-2, columns=2), sq=70, d=16, lse_grad=True, **ONE)


def test_results_are_the_same_bits_again() -> None:
    with emulated():
        first = run(LEAKY.call(), "cuda")
    with emulated(7):
        shared.assert_same_bits(run(LEAKY.call(), "cuda"), first)


@pytest.mark.parametrize("check", [
    lambda: shared.test_rows_that_meet_nothing_may_hold_anything(LEAKY, torch.nan, "cuda"),
    lambda: shared.test_keys_reach_the_rows_that_see_them_alone(LEAKY, torch.nan, "cuda"),
    lambda: shared.test_queries_reach_the_keys_they_see_alone(LEAKY, "cuda"),
], ids=["rows of nothing", "keys", "queries"])  # fmt: skip
def test_nothing_leaks(check: Any) -> None:
    with emulated():
        check()
