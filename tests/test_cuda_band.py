"""The CUDA kernels' PTX, executed: what nvcc made of ``csrc/cuda`` runs on the emulator (``tests/gpu/ptx``).

``pkernels.attention`` itself is called, backward included; C++ works out each launch, and the
emulator, which refuses races, stray accesses and missing waits, runs the kernel that is in the
extension. Results are judged like those of every backend.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pkernels import Band, causal, prefix_lm, window
from pkernels.cuda import split
from pkernels.problem import Problem
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved
from tests.gpu.judge import (
    EXACT,
    HALF,
    ONE,
    TWO,
    instance,
    judged,
    not_executed,
    nothing_leaks,
    same_bits_again,
    unambiguous,
)
from tests.gpu.nvcc import emulated

PASSES = ("forward", "dq", "dkv")
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


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_band(seed: int | None, case: Case) -> None:
    for report in judged(case, PASSES, seed):
        assert sum(n for name, n in report.executed.items() if name.startswith("mma.sync.aligned.m16n8k")) > 0


WIDE = [
    Case("fp32, causal, S 70", causal, sq=70, d=64, **EXACT),
    Case("fp32, window, dropout, 2:1, D 80, Dv 41", window(20, 9, globals=3), sq=50, sk=70, d=80, dv=41, dropout=0.3,
         **{**EXACT, "heads": 2, "kv_heads": 1}),
    Case("D 256, causal, S 70", causal, sq=70, d=256, **ONE),
    Case("D 200, Dv 256, lengths, dropout", window(9, 2), sq=40, d=200, dv=256, lengths=[40, 17], dropout=0.3,
         **{**HALF, "batch": 2}),
]  # fmt: skip


@pytest.mark.parametrize("case", WIDE, ids=lambda case: case.id)
def test_wide_rows(case: Case) -> None:
    """Of 256 bytes and more: fp32, within the budget of plain torch in fp32, and head dimensions above 128."""
    judged(case, PASSES)


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
BIASED += [
    Case("distance, fp32", causal, sq=40, sk=50, d=16, bias="distance", **EXACT),
    Case("dense, fp32, D 128", window(9, 2), sq=40, d=128, bias="dense 1x1x40x40", **EXACT),
    Case("distance, D 256", causal, sq=40, sk=50, d=256, bias="distance", **ONE),
]
# The other kernels there are, each over a few rows.
FEW: dict[str, Any] = {"sq": 9, "sk": 12}
BIASED += [
    Case(f"{bias}, D {d}, {given['dtype']}", causal, d=d, bias=bias, **FEW, **given)
    for bias, d, given in [
        ("distance", 128, ONE), ("distance", 256, HALF), ("distance", 128, EXACT),
        ("dense", 256, ONE), ("dense", 128, HALF), ("dense", 256, HALF), ("dense", 64, EXACT),
    ]
]  # fmt: skip
RELATIVE = [
    Case("relative, fp32", causal, sq=50, sk=70, d=64, bias="relative", dropout=0.3, **EXACT),
    Case("relative, 70x130, heads 2:1, dropout", causal, sq=70, sk=130, d=64, bias="relative", dropout=0.3, **TWO),
    Case("relative, window, D 128, Dr 26, fp16", window(20, 5, globals=3), sq=60, sk=40, d=128, bias="relative 26",
         **HALF),
    Case("relative, prefix, offsets", prefix_lm(torch.tensor([3, 0, 1, 12])), sq=60, d=16,
         offsets=[0, 23, 24, 24, 57], bias="relative", **ONE),
    Case("relative shared, lengths", window(9, 2), sq=40, d=16, lengths=[40, 17], bias="relative shared", scale=-0.3,
         **{**ONE, "batch": 2}),
    Case("relative, dilation, globals, 70x90, dropout", window(9, 4, dilation=2, globals=3), sq=70, sk=90, d=64,
         dropout=0.3, bias="relative", **TWO),
    Case("relative, dilation, prefix per row, lengths", Band(5, 3, columns=torch.tensor([9, 3]), rows=12, dilation=3),
         sq=60, sk=50, d=16, lengths=([60, 40], [50, 41]), bias="relative shared", scale=-0.3, **{**ONE, "batch": 2}),
    Case("relative, few, D 128", causal, d=128, bias="relative", **FEW, **ONE),
    Case("relative, few, fp16", causal, d=64, bias="relative", **FEW, **HALF),
]  # fmt: skip


@pytest.mark.parametrize("case", BIASED + RELATIVE, ids=lambda case: case.id)
def test_biases(case: Case) -> None:
    """Forward and all gradients, those of the bias too."""
    assert case.bias is not None
    judged(case, [*PASSES, "ddense" if case.bias.startswith("dense") else "diagonals"])


PARTS = [
    Case("5x300 in parts, heads 2:1, dropout", causal, sq=5, sk=300, d=64, dropout=0.3, **TWO),
    Case("3x200 in parts, lengths, distance, fp16", window(100, globals=3), sq=3, sk=200, d=26, bias="distance",
         lengths=([3, 2], [200, 40]), **{**HALF, "batch": 2}),
    Case("1x150 in parts, relative, fp32", causal, sq=1, sk=150, d=64, bias="relative", lse_grad=False, **EXACT),
]  # fmt: skip


@pytest.mark.parametrize("case", PARTS, ids=lambda case: case.id)
def test_few_queries_meet_keys_in_parts(monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    monkeypatch.setattr(split, "multiprocessors", lambda device: 6)
    monkeypatch.setattr(split, "KEYS", 40)
    call, exact, plain = solved(case)
    with emulated(4) as reports:
        got = run(call, "cuda")
    assert_within_budget(got, exact, plain, case.dtype)
    of_call, last = instance(case), [] if case.bias is None else ["diagonals"]
    assert [report.kernel for report in reports] == [
        f"forward_{of_call}", f"merge_{of_call.split('_')[0]}", *(f"{name}_{of_call}" for name in ("dq", "dkv", *last))
    ]  # fmt: skip
    unambiguous(reports)


def test_every_kernel_is_executed() -> None:
    every = [*(case for _, case in CASES), *WIDE, *BIASED, *RELATIVE, *PARTS]
    assert not_executed((*PASSES, "ddense", "diagonals"), every) == []
    assert {case.dtype for case in PARTS} == {torch.bfloat16, torch.float16, torch.float32}  # those of merge


def test_parts_are_as_many_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "multiprocessors", lambda device: 100)
    q, k = torch.empty(1, 8, 1, 64, device="meta"), torch.empty(1, 2, 8192, 64, device="meta")
    assert split.parts(q, k, Problem(causal, 1.0)) == 25
    assert split.parts(q.expand(25, 8, 1, 64), k, Problem(causal, 1.0)) == 1
    assert split.parts(q, k, Problem(window(600), 1.0)) == 4
    assert split.parts(q.expand(1, 8, 129, 64), k, Problem(causal, 1.0)) == 1
    assert split.parts(q[:, :1], k.expand(1, 2, 8192, 64), Problem(causal, 1.0)) == 32


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
    same_bits_again(case, 5)


LEAKY = Case("", Band(left=5, right=-2, columns=2), sq=70, d=16, lse_grad=True, **ONE)


def test_results_are_the_same_bits_again() -> None:
    same_bits_again(LEAKY)


def test_nothing_leaks() -> None:
    nothing_leaks(LEAKY)
