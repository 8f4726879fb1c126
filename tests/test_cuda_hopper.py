"""The forward for compute capability 9.0, executed: its PTX runs on the emulator, wgmma, TMA and mbarriers included.

Which calls it takes, that its results are those of every backend, and that a fault in it shows.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pkernels import Band, Blocks, attention, causal, cuda, dense, prefix_lm, window
from pkernels.cuda import call as launcher
from pkernels.cuda import hopper, split
from pkernels.problem import Problem
from tests.budget import assert_within_budget, plain, run
from tests.cases import Case
from tests.gpu.judge import HALF, ONE, TWO, instance, judged, unambiguous
from tests.gpu.nvcc import emulated, kernels
from tests.gpu.ptx import DeadlockError, InFlightError, PtxError, RaceError, Report, UninitialisedError
from tests.oracle import evaluate

pytestmark = pytest.mark.skipif("90" not in cuda.archs(), reason="the extension was built without sm_90")


@pytest.fixture(autouse=True)
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper, "capability", lambda device: (9, 0))
    monkeypatch.setattr(split, "multiprocessors", lambda device: 0)  # few queries do not meet keys in parts


# Results ------------------------------------------------------------------------------

CASES = [
    (None, Case("causal, S 200, D 64", causal, sq=200, d=64, **ONE)),
    (1, Case("dense, 20x600: each slot is filled three times", dense, sq=20, sk=600, d=64, **HALF)),
    (2, Case("window, 140x170, D 80, Dv 40, heads 2:1", window(60, 9), sq=140, sk=170, d=80, dv=40, **TWO)),
    (None, Case("causal, 150x60, rows without keys, D 128, scale < 0", causal, sq=150, sk=60, d=128, scale=-0.2,
                **HALF)),
    (3, Case("globals, lengths, rows before heads", window(9, globals=5), sq=200, d=64, lengths=[200, 29],
             layout="rows before heads", **{**HALF, "batch": 2})),
    (4, Case("prefix per row, offsets, D 16", prefix_lm(torch.tensor([3, 0, 1, 12])), sq=60, d=16,
             offsets=[0, 23, 24, 24, 57], **ONE)),
    (None, Case("lengths of both, a cache, one qkv", Band(right=0), sq=40, d=128, lengths=([7, 40], [40, 31]),
                layout="one qkv", **{**ONE, "batch": 2})),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_forward(seed: int | None, case: Case) -> None:
    call = replace(case.call(), dout=None, dlse=None)
    with emulated(seed) as reports:
        got = run(call, "cuda")
    assert_within_budget(got, evaluate(call), plain(call), case.dtype)
    assert [report.kernel for report in reports] == [f"hopper_forward_{instance(case)}"]
    assert times(reports[0], "wgmma.mma_async") > 0 and times(reports[0], "cp.async.bulk.tensor.4d") > 0
    assert times(reports[0], "mma.sync") == 0  # of the second, careful run
    unambiguous(reports)


def times(report: Report, opcode: str) -> int:
    return sum(n for name, n in report.executed.items() if name.startswith(opcode))


def test_every_kernel_is_executed() -> None:
    found = {name for name in kernels() if name.startswith("hopper_")}
    assert found == {f"hopper_forward_{instance(case)}" for _, case in CASES} and len(found) == 4


def test_the_backward_takes_what_it_leaves() -> None:
    judged(Case("causal, 40x50, heads 2:1", causal, sq=40, sk=50, d=64, **TWO), ("hopper_forward", "dq", "dkv"), 5)


def rows(sq: int, sk: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(1, 1, n, d, generator=draw).to(dtype) for n in (sq, sk, sk)]


@pytest.mark.parametrize(("d", "dtype"), [(64, torch.bfloat16), (128, torch.float16)])
def test_what_is_not_finite_reaches_the_rows_that_see_it_alone(d: int, dtype: torch.dtype) -> None:
    """Those are worked again: one key is NaN, values behind the last key and queries behind the last query are."""
    q, k, v = rows(30, 150, d, dtype)
    q[..., 25:, :], k[..., 141:, :], v[..., 141:, :] = torch.nan, torch.inf, torch.nan
    v[..., 130, :], k[..., 133, :] = torch.inf, torch.nan
    lengths = ([25], [141])
    with emulated(1) as reports:
        out, lse = attention(q, k, v, causal, lengths=lengths, return_lse=True, backend="cuda")
    assert times(reports[0], "mma.sync") > 0
    truth = attention(q.double(), k.double(), v.double(), causal, lengths=lengths, return_lse=True, backend="reference")
    assert 0 < out.isfinite().sum() < 25 * d
    for got, wanted in zip((out, lse), truth, strict=True):
        # Infinite values reach the rows as NaN, as in every kernel here.
        assert torch.equal(got.isfinite() | got.isneginf(), wanted.isfinite() | wanted.isneginf())
        assert (got - wanted)[got.isfinite()].abs().max() < 0.02


def test_the_same_bits_again() -> None:
    q, k, v = rows(200, 300, 64, torch.bfloat16)
    found = []
    for seed in (None, 1, 2):
        with emulated(seed):
            found.append(attention(q, k, v, causal, backend="cuda"))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


# Which calls --------------------------------------------------------------------------


def problem(pattern: Any = causal, **more: Any) -> Problem:
    return Problem(pattern, 1.0, **more)


Q = torch.zeros(2, 2, 64, 64, dtype=torch.bfloat16)
WIDE, FLAT = torch.zeros(2, 2, 64, 256, dtype=torch.bfloat16), torch.zeros(2, 64, 2, 64, dtype=torch.bfloat16)
TAKEN: dict[str, tuple[tuple[Tensor, Tensor, Tensor], Problem]] = {
    "causal": ((Q, Q, Q), problem()),
    "fp16, window, globals": ((Q.half(), Q.half(), Q.half()), problem(window(9, globals=4))),
    "heads 2:1, D 128, Dv 8": ((WIDE[..., :128], WIDE[:, :1, :, :128], Q[:, :1, :, :8]), problem()),
    "rows before heads": ((FLAT.transpose(1, 2),) * 3, problem()),
    "one row": ((Q[:1, :1, :1],) * 3, problem()),
}
LEFT: dict[str, tuple[tuple[Tensor, Tensor, Tensor], Problem]] = {
    "float32": ((Q.float(), Q.float(), Q.float()), problem()),
    "D 256": ((WIDE, WIDE, WIDE), problem()),
    "Dv 256": ((Q, Q, WIDE), problem()),
    "dropout": ((Q, Q, Q), problem(dropout=0.1)),
    "dilation": ((Q, Q, Q), problem(window(3, dilation=2))),
    "distance": ((Q, Q, Q), problem(distance=torch.zeros(2, 127))),
    "dense": ((Q, Q, Q), problem(dense=torch.zeros(1, 1, 64, 64))),
    "relative": ((Q, Q, Q), problem(query=Q, table=torch.zeros(2, 127, 64))),
    "rows of 40 bytes": ((Q[..., :20].contiguous(),) * 3, problem()),
    "rows that begin at 2 bytes": ((Q, Q[..., 1:57], Q), problem()),
    "no keys": ((Q, Q[:, :, :0], Q[:, :, :0]), problem()),
    "one head of values, expanded": ((Q, Q, Q[:, :1].expand(Q.shape)), problem()),
}


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str) -> None:
    tensors, given = TAKEN[name]
    assert hopper.serves(*tensors, given)


@pytest.mark.parametrize("name", LEFT)
def test_left_to_the_general_kernels(name: str) -> None:
    tensors, given = LEFT[name]
    assert not hopper.serves(*tensors, given)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr("pkernels.ops.backends._why_not_nvidia", lambda *_: None)
    monkeypatch.setattr(launcher, "launch", lambda name, *_: names.append(name))
    return names


@pytest.mark.parametrize(
    ("chip", "name"),
    [((0, 0), "band"), ((8, 0), "band"), ((8, 9), "band"), ((9, 0), "hopper"), ((10, 0), "band"), ((12, 0), "band")],
)
def test_the_gpu_decides(monkeypatch: pytest.MonkeyPatch, launched: list[str], chip: tuple, name: str) -> None:
    monkeypatch.setattr(hopper, "capability", lambda device: chip)
    attention(Q, Q, Q, causal, backend="cuda")
    assert launched == [f"{name}_forward"]


def test_other_ways_stay_as_they_are(monkeypatch: pytest.MonkeyPatch, launched: list[str]) -> None:
    attention(Q, Q, Q, Blocks.of([[0]], 64), backend="cuda")
    monkeypatch.setattr(split, "multiprocessors", lambda device: 100)
    many = torch.zeros(2, 2, 600, 64, dtype=torch.bfloat16)
    attention(Q[:, :, :5], many, many, dense, backend="cuda")
    monkeypatch.setattr(hopper, "operators", lambda: type("Built", (), {"has_hopper": staticmethod(lambda: False)}))
    attention(Q, Q, Q, causal, backend="cuda")
    assert launched == ["blocks_forward", "band_parts", "merge_parts", "band_forward"]


# Faults -------------------------------------------------------------------------------

KERNEL = "hopper_forward_bf16_64_none"
RIGHT = 0.02
WAIT = r"mbarrier\.try_wait[^;]*;\s*@complete bra done;\s*bra again;"
CONSUMERS, PRODUCER = "setmaxnreg.inc", "setmaxnreg.dec"
# (what is replaced, by what, behind which instruction, which occurrence or None for all, what must be seen)
FAULTS: dict[str, tuple[str, str, str, int | None, type[Exception]]] = {
    "queries are not awaited": (WAIT, "", CONSUMERS, 0, InFlightError),
    "the first keys are not awaited": (WAIT, "", CONSUMERS, 1, InFlightError),
    "keys are not awaited": (WAIT, "", CONSUMERS, 2, InFlightError),
    "values are not awaited": (WAIT, "", CONSUMERS, 3, InFlightError),
    "slots of keys are filled before they are empty": (WAIT, "", PRODUCER, 0, PtxError),
    "slots of values are filled before they are empty": (WAIT, "", PRODUCER, 1, PtxError),
    "slots are never released": (r"mbarrier\.arrive\.shared[^;]*;", "", CONSUMERS, 1, DeadlockError),
    "lanes do not wait for one another": (r"bar\.warp\.sync[^;]*;", "", CONSUMERS, None, RaceError),
    "scores are not awaited": (r"wgmma\.wait_group\S* 1;", "", CONSUMERS, 0, InFlightError),
    "sums are not awaited": (r"wgmma\.wait_group\S* 0;", "", CONSUMERS, 1, InFlightError),
    "no fence before products": (r"wgmma\.fence[^;]*;", "", CONSUMERS, 1, RaceError),
    "a commit is missing": (r"wgmma\.commit_group[^;]*;", "", CONSUMERS, 1, InFlightError),
    "fewer bytes are expected": (r"(mov\.u32\s+%r\d+), 16384;", r"\1, 8192;", PRODUCER, None, PtxError),
    "more bytes are expected": (r"(mov\.u32\s+%r\d+), 16384;", r"\1, 32768;", PRODUCER, None, DeadlockError),
    "nobody waits for the plan": (r"bar\.sync\s+0;", "", "", 0, UninitialisedError),
    "a turn is not passed on": (r"bar\.arrive[^;]*;", "", CONSUMERS, None, DeadlockError),
    "the first scores are added to something": (r"setp\.ne\.b32 no, 0, 0;", "setp.eq.b32 no, 0, 0;", CONSUMERS, 1,
                                                AssertionError),
    "weights of two rows are swapped": (r"\{(%r\d+),(%r\d+),(%r\d+,%r\d+\}, %rd\d+, yes)", r"{\2,\1,\3", CONSUMERS,
                                        None, AssertionError),
    "a row is another's": (r"(shfl\.sync\.bfly\.b32 \s*%r\d+\|%p\d+, %r\d+), %r\d+,", r"\1, 4,", CONSUMERS, None,
                           AssertionError),
    "what lies behind the last key is seen": (r"selp\.f32 (%f\d+), \1, 0fFF800000, %p\d+;", "", CONSUMERS, None,
                                              AssertionError),
}  # fmt: skip


def error(ptx: str) -> float:
    """How far the output is from the truth, in one run; five tiles of keys."""
    q, k, v = rows(120, 530, 64, torch.bfloat16)
    with emulated(mutants={KERNEL: ptx}) as reports:
        out = attention(q, k, v, causal, backend="cuda")
    assert times(reports[0], "mma.sync") == 0
    truth = attention(q.double(), k.double(), v.double(), causal, backend="reference")
    return (out - truth).abs().nan_to_num(torch.inf).max().item()


def test_without_a_fault_it_is_right() -> None:
    assert error(kernels()[KERNEL]) < RIGHT


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_caught(name: str) -> None:
    pattern, by, behind, which, verdict = FAULTS[name]
    ptx = kernels()[KERNEL]
    start = ptx.index(behind)
    found = [m for m in re.finditer(pattern, ptx) if m.start() >= start]
    assert found
    for match in reversed(found if which is None else [found[which]]):
        ptx = ptx[: match.start()] + match.expand(by) + ptx[match.end() :]
    with pytest.raises(verdict):
        assert error(ptx) < 5 * RIGHT
