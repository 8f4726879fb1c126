"""The emulator's eyes: a good kernel with one fault put into its PTX must not pass.

The kernel is the sample attention as Triton 3.7.1 compiles it. Every barrier, wait, commit and fence
is left out in turn. Those that are redundant here, found by reading the PTX, are named with the
reason; if another Triton moves them, read again.
"""

from __future__ import annotations

import functools
import re

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from benchmarks.static.launches import Launch, compiled, launches
from tests.gpu import sample
from tests.gpu.ptx import (
    DivergenceError,
    InFlightError,
    MisalignedError,
    OutOfBoundsError,
    PtxError,
    RaceError,
    UninitialisedError,
)
from tests.gpu.ptx.triton import launch

N, D = 130, 64
BN = {"sm_80": 32, "sm_90": 64}


@functools.cache
def made(target: str) -> Launch:
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, N, D, generator=draw).bfloat16() for _ in range(3))
    with launches() as collected:
        sample.attention(q, k, v, 64, BN[target], num_warps=4, num_stages=3)
    return collected[0]


@functools.cache
def ptx(target: str) -> str:
    return compiled(made(target), target).assembly


@functools.cache
def truth(target: str) -> torch.Tensor:
    q, k, v = (x.double() for x in made(target).args[:3])
    hidden = torch.ones(N, N, dtype=torch.bool).triu(1)
    return (q @ k.mT * D**-0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v


def error(target: str, text: str, seed: int | None = None, **changes: object) -> float:
    """How far the output is from the truth; what is not written is infinitely far."""
    out, lse = made(target).args[3:5]
    out.fill_(torch.nan)
    lse.fill_(torch.nan)
    launch(made(target), target, seed, ptx=text, **changes)
    return (out - truth(target)).abs().nan_to_num(torch.inf).max().item()


RIGHT = 0.01

BAR, WAIT, COMMIT = r"bar\.sync[^;]*;", r"cp\.async\.wait_group[^;]*;", r"cp\.async\.commit_group;"
TILES_WAIT, TILES_COMMIT = r"wgmma\.wait_group[^;]*;", r"wgmma\.commit_group[^;]*;"
FENCE, PROXY = r"wgmma\.fence[^;]*;", r"fence\.proxy[^;]*;"
LEFT_OUT: dict[tuple[str, str], list[type[PtxError] | None]] = {
    # The first barrier lies between copies to different stages, nothing of which has been read. After
    # the loop, the output tile is staged where Q was, last read before the loop's own barrier.
    ("sm_80", BAR): [None, RaceError, RaceError, None, RaceError, RaceError, RaceError],
    # Nothing reads what the last wait is for.
    ("sm_80", WAIT): [InFlightError, None],
    # The first group then closes with the second, which is waited for before either is read.
    ("sm_80", COMMIT): [None, *[InFlightError] * 5],
    ("sm_90", BAR): [None, *[RaceError] * 6],
    ("sm_90", WAIT): [InFlightError, InFlightError],
    ("sm_90", COMMIT): [None, *[InFlightError] * 5],
    ("sm_90", TILES_WAIT): [InFlightError, InFlightError],
    ("sm_90", TILES_COMMIT): [InFlightError, InFlightError],
    ("sm_90", FENCE): [RaceError, RaceError],
    # The fence for Q before the loop is repeated in the loop.
    ("sm_90", PROXY): [None, RaceError],
}


@pytest.mark.parametrize("target", BN)
@pytest.mark.parametrize("seed", [None, 1])
def test_the_kernel_is_right(target: str, seed: int | None) -> None:
    assert error(target, ptx(target), seed) < RIGHT


@pytest.mark.parametrize(("target", "pattern"), LEFT_OUT)
def test_left_out(target: str, pattern: str) -> None:
    found = list(re.finditer(pattern, ptx(target)))
    verdicts = LEFT_OUT[target, pattern]
    assert len(found) == len(verdicts)
    for match, verdict in zip(found, verdicts, strict=True):
        mutant = ptx(target)[: match.start()] + ptx(target)[match.end() :]
        if verdict is None:
            assert error(target, mutant) < RIGHT
        else:
            with pytest.raises(verdict, match=r"line \d+: .*sample\.py:\d+"):
                error(target, mutant)


def replaced(target: str, pattern: str, by: str, count: int = 0) -> str:
    text, times = re.subn(pattern, by, ptx(target), count=count)
    assert times > 0
    return text


GUARDED = r"{ .reg .pred q; setp.lt.u32 q, %tid.x, LIMIT; @q \g<0> }"

FAULTS = {
    "a shorter wait": ("sm_80", r"cp\.async\.wait_group\s+2", "cp.async.wait_group 3", InFlightError),
    "no bound on stores": ("sm_80", r"@%p\d+ (st\.global)", r"\1", OutOfBoundsError),
    "no bound on loads": ("sm_80", r"@%p\d+ (ld\.global)", r"\1", OutOfBoundsError),
    "no bound on copies": ("sm_80", r"(cp\.async\.cg\S+ .*, 0x10), %r\d+;", r"\1;", OutOfBoundsError),
    "8 bytes off": ("sm_80", r"(st\.shared\.v4\.b32 \[ %r\d+ \+) 0", r"\1 8", MisalignedError),
    "every program takes one tile": ("sm_80", r"%ctaid\.y", "0", RaceError),
    "a lost definition": ("sm_80", r"mov\.u32 \s*%r\d+, %ctaid\.y;", "", UninitialisedError),
    "half a warp shuffles": ("sm_80", r"shfl\.sync[^;]*;", GUARDED.replace("LIMIT", "16"), DivergenceError),
    "half a warp multiplies": ("sm_80", r"mma\.sync[^;]*;", GUARDED.replace("LIMIT", "16"), DivergenceError),
    "half the warps meet": ("sm_80", r"bar\.sync[^;]*;", GUARDED.replace("LIMIT", "64"), RaceError),
    "half a warp waits": ("sm_80", r"bar\.sync[^;]*;", GUARDED.replace("LIMIT", "16"), DivergenceError),
    "half a warpgroup": ("sm_90", r"wgmma\.mma_async[^;]*;", GUARDED.replace("LIMIT", "64"), DivergenceError),
    "a longer pipeline of tiles": (
        "sm_90",
        r"wgmma\.wait_group\S*\s+0",
        "wgmma.wait_group.sync.aligned 1",
        InFlightError,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_caught(name: str) -> None:
    target, pattern, by, verdict = FAULTS[name]
    with pytest.raises(verdict, match=r"line \d+"):
        error(target, replaced(target, pattern, by))


@pytest.mark.parametrize("target", BN)
def test_too_little_shared_memory(target: str) -> None:
    short = compiled(made(target), target).shared - 4096
    with pytest.raises(OutOfBoundsError, match=f"of {short}"):
        error(target, ptx(target), shared_bytes=short)


WRONG = {
    "rows of A swapped": ("sm_80", r"(mma\.sync\S+ \{[^}]*\}, \{) (%r\d+), (%r\d+)", r"\1 \3, \2"),
    "halves of B swapped": ("sm_80", r"(mma\.sync\S+ .*\}, \{) (%r\d+), (%r\d+) (\}, \{[^}]*\};)", r"\1 \3, \2 \4"),
    "another lane": ("sm_80", r"(shfl\.sync\.bfly\.b32 \s*%r\d+, %r\d+), 2,", r"\1, 4,"),
    "not transposed": ("sm_80", r"ldmatrix(\S+)\.trans", r"ldmatrix\1"),
    "pairs swapped": ("sm_80", r"(cvt\.rn\.bf16x2\.f32 \s*%r\d+), (%r\d+), (%r\d+)", r"\1, \3, \2"),
    "minus A": ("sm_90", r"(wgmma\.mma_async\S+ .*), 1, 1, 1;", r"\1, -1, 1, 1;"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers(name: str) -> None:
    """What is well-formed but computes something else shows in the result."""
    target, pattern, by = WRONG[name]
    assert error(target, replaced(target, pattern, by)) > 10 * RIGHT


def test_a_left_operand_written_after_the_fence_is_told() -> None:
    """PTX forbids it, yet compilers do it, and a GPU waits: it makes no result wrong."""
    text = ptx("sm_90")
    again = re.sub(r"wgmma\.mma_async\S+ \{[^}]*\}, \{(%r\d+)[^;]*;", r"mov.b32 \1, \1; \g<0>", text, count=1)
    assert again != text
    assert launch(made("sm_90"), "sm_90", ptx=text).late == []
    (late,) = launch(made("sm_90"), "sm_90", ptx=again).late
    assert "wgmma" in late
    assert error("sm_90", again) < RIGHT
