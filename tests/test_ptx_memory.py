"""The emulator's memories and barriers, and what it refuses of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.gpu.ptx import (
    DeadlockError,
    DivergenceError,
    InFlightError,
    MisalignedError,
    OutOfBoundsError,
    RaceError,
    UninitialisedError,
    UnsupportedError,
    run,
)
from tests.gpu.ptx.probe import probe

DRAW = np.random.default_rng(0)
LANE = np.arange(32)
SHARED = ".shared .align 16 .b8 room[1024];"


def words(count: int = 32) -> np.ndarray:
    return DRAW.integers(0, 2**32, count, dtype=np.uint32)


PLACE = "mov.u32 %x0, room; mad.lo.u32 %x0, %t, 4, %x0;"
OTHER = "xor.b32 %x1, %t, 32; mov.u32 %x2, room; mad.lo.u32 %x2, %x1, 4, %x2;"


def test_local_memory() -> None:
    body = "mov.u64 %w0, stack; cvta.local.u64 %w1, %w0; st.local.b32 [%w0+4], %a0; ld.b32 %d0, [%w1+4];"
    x = words()
    assert (probe(body, x, declare=".local .align 4 .b8 stack[8];") == x).all()
    with pytest.raises(OutOfBoundsError, match="local"):
        probe(body.replace("+4", "+8"), x, declare=".local .align 4 .b8 stack[8];")


def test_atomics() -> None:
    body = "ld.param.u64 %w0, [out]; ld.param.u64 %w1, [in0]; atom.global.add.u32 %d0, [%w1], 3;"
    x = np.full(32, 100, np.uint32)
    assert (np.sort(probe(body, x)) == 100 + 3 * LANE).all()
    assert x[0] == 100 + 3 * 32


def test_packed_atomic() -> None:
    x = np.full(32, 0x3F803F80, np.uint32)
    probe("mov.b32 %d0, 0; ld.param.u64 %w1, [in0]; red.global.add.noftz.bf16x2 [%w1], 0x40003F80;", x)
    assert x[0] == 0x42824204  # 1 + 32 * 2 and 1 + 32 in bf16


def test_barrier_orders_warps() -> None:
    x = words(64)
    body = f"{PLACE} {OTHER} st.shared.b32 [%x0], %a0; bar.sync 0; ld.shared.b32 %d0, [%x2];"
    for seed in (None, 1):
        assert (probe(body, x, declare=SHARED, warps=2, seed=seed) == np.roll(x, 32)).all()


REFUSED = {
    "no barrier": (f"{PLACE} {OTHER} st.shared.b32 [%x0], %t; ld.shared.b32 %d0, [%x2];", RaceError),
    "no barrier before an atomic": (
        f"{PLACE} {OTHER} st.shared.b32 [%x0], %t; atom.shared.add.u32 %d0, [%x2], 1;",
        RaceError,
    ),
    "a warp is no barrier for the other": (
        f"{PLACE} {OTHER} st.shared.b32 [%x0], %t; bar.warp.sync -1; ld.shared.b32 %d0, [%x2];",
        RaceError,
    ),
    "a barrier of half the CTA": (
        f"{PLACE} {OTHER} st.shared.b32 [%x0], %t; shr.u32 %x3, %t, 5; bar.sync %x3, 32; ld.shared.b32 %d0, [%x2];",
        RaceError,
    ),
    "who only arrives has not waited": (
        f"{PLACE} {OTHER} setp.lt.u32 %q0, %t, 32; @%q0 bra WAITS; st.shared.b32 [%x0], %t; bar.arrive 1, 64; "
        "ld.shared.b32 %d0, [%x2]; bra END; "
        "WAITS: st.shared.b32 [%x0], %t; bar.sync 1, 64; ld.shared.b32 %d0, [%x2]; END:",
        RaceError,
    ),
    "write after read": (
        f"{PLACE} {OTHER} st.shared.b32 [%x0], %t; bar.sync 0; ld.shared.b32 %d0, [%x2]; st.shared.b32 [%x0], 0;",
        RaceError,
    ),
    "lanes without a warp barrier": (
        "mov.u32 %x0, room; mad.lo.u32 %x1, %t, 4, %x0; st.shared.b32 [%x1], %t; ld.shared.b32 %d0, [%x0];",
        RaceError,
    ),
    "nothing there": (f"{PLACE} ld.shared.b32 %d0, [%x0];", UninitialisedError),
    "beyond the end": (f"{PLACE} st.shared.b32 [%x0+1000], %t; mov.b32 %d0, 0;", OutOfBoundsError),
    "an odd address": (f"{PLACE} st.shared.b32 [%x0+2], %t; mov.b32 %d0, 0;", MisalignedError),
    "an unset register": ("add.u32 %d0, %x7, 1;", UninitialisedError),
    "a stray pointer": ("mov.b64 %w0, 64; ld.global.b32 %d0, [%w0];", OutOfBoundsError),
    "one lane shuffles": (
        "mov.b32 %d0, 0; setp.eq.u32 %q0, %t, 0; @%q0 shfl.sync.bfly.b32 %d0, %t, 1, 31, -1;",
        DivergenceError,
    ),
    "a warp waits for ever": (
        "mov.b32 %d0, 0; setp.lt.u32 %q0, %t, 32; @%q0 bar.sync 1, 64; bar.sync 0, 64;",
        DeadlockError,
    ),
    "an instruction that is none": ("frobnicate.b32 %d0, %t;", UnsupportedError),
}


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, seed: int | None) -> None:
    body, verdict = REFUSED[name]
    # If the reader comes first, there is nothing to read.
    verdicts = (verdict, UninitialisedError) if verdict is RaceError else verdict
    with pytest.raises(verdicts, match="line 5"):
        probe(body, declare=SHARED, warps=2, seed=seed)


COPY = """ld.param.u64 %w0, [in0]; mad.wide.u32 %w0, %t, 16, %w0; mov.u32 %x0, room; mad.lo.u32 %x0, %t, 16, %x0;
    cp.async.cg.shared.global [%x0], [%w0], 16, %a1; cp.async.commit_group; WAIT ld.shared.b32 %d0, [%x0];"""


def test_asynchronous_copy() -> None:
    """The copy lands when it is waited for, and not before; a shorter source is filled with zeros."""
    x, size = words(128), np.where(LANE % 2, 16, 0).astype(np.uint32)
    got = probe(COPY.replace("WAIT", "cp.async.wait_group 0;"), x, size, declare=SHARED)
    assert (got == np.where(LANE % 2, x[::4], 0)).all()
    for wait in ("", "cp.async.wait_group 1;"):
        with pytest.raises(InFlightError, match="being copied"):
            probe(COPY.replace("WAIT", wait), x, size, declare=SHARED)


def test_gaps_between_elements_are_guarded() -> None:
    """A view of every other column may be read there and nowhere else."""
    text = """.visible .entry f(.param .u64 x, .param .u32 at) .reqntid 32 {
        .reg .b64 %p, %o; .reg .b32 %v, %t;
        ld.param.u64 %p, [x]; ld.param.u32 %t, [at]; cvt.s64.s32 %o, %t; add.s64 %p, %p, %o;
        ld.global.f32 %v, [%p]; ret; }"""
    view = torch.zeros(4, 8)[:, 1::2]
    for at in (0, 8, 24, 32 * 3 + 24):
        run(text, (1,), [view, at])
    for at in (-4, 4, 32 * 3 + 28):
        with pytest.raises(OutOfBoundsError, match=r"tensor 0 \(4, 4\)|below all tensors"):
            run(text, (1,), [view, at])


def test_programs_that_meet() -> None:
    text = """.visible .entry f(.param .u64 x) .reqntid 32 {
        .reg .b64 %p; .reg .b32 %v, %t; ld.param.u64 %p, [x]; mov.u32 %v, %ctaid.x; INSTRUCTION ret; }"""
    store = text.replace("INSTRUCTION", "st.global.b32 [%p], 7;")
    run(store, (1,), [np.zeros(4, np.int32)])
    with pytest.raises(RaceError, match="CTA 0"):
        run(store, (2,), [np.zeros(4, np.int32)])
    total = np.zeros(4, np.int32)
    run(text.replace("INSTRUCTION", "red.global.add.u32 [%p], 1;"), (5, 2), [total], seed=1)
    assert total[0] == 320


def test_bank_conflicts_are_counted() -> None:
    text = """.visible .entry f() .reqntid 32 { .shared .align 16 .b8 room[8192];
        .reg .b32 %x, %t; mov.u32 %t, %tid.x; mov.u32 %x, room; mad.lo.u32 %x, %t, STRIDE, %x;
        st.shared.b32 [%x], %t; ret; }"""
    for stride, factor in ((4, 1), (8, 2), (128, 32), (132, 1)):
        assert sum(run(text.replace("STRIDE", str(stride)), (1,), []).conflicts.values()) == (
            factor if factor > 1 else 0
        )


def test_conflicts_in_loops_are_told_from_others() -> None:
    text = """.visible .entry f() .reqntid 32 { .shared .align 16 .b8 room[8192];
        .reg .b32 %x, %t, %n; .reg .pred %p; mov.u32 %t, %tid.x; mov.u32 %x, room; mad.lo.u32 %x, %t, 128, %x;
        st.shared.b32 [%x], %t; mov.u32 %n, 0;
        again: add.u32 %n, %n, 1; ld.shared.b32 %t, [%x]; setp.lt.u32 %p, %n, 3; @%p bra again; ret; }"""
    report = run(text, (1,), [])
    assert [at.split("`")[1].split()[0] for at in report.conflicts] == ["st.shared.b32", "ld.shared.b32"]
    assert list(report.conflicts_in_loops.values()) == [32]


def test_arguments_are_checked() -> None:
    text = ".visible .entry f(.param .u64 x, .param .u32 n, .param .f32 y) { ret; }"
    run(text, (1,), [torch.zeros(3), 3, 0.5], num_warps=1)
    for args in ([torch.zeros(3), 0.5, 0.5], [torch.zeros(3), torch.zeros(3)], [0, 0, 0, 0], ["x"]):
        with pytest.raises(ValueError, match=r"^args"):
            run(text, (1,), args, num_warps=1)
    with pytest.raises(ValueError, match="num_warps"):
        run(text, (1,), [])
