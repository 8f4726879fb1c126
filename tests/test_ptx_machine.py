"""The emulator's warps, fragments and memories, and what it refuses, on a few instructions each."""

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


# Warps ----------------------------------------------------------------------------------


def test_shuffles() -> None:
    x = words()
    assert (probe("shfl.sync.bfly.b32 %d0, %a0, 5, 31, -1;", x) == x[LANE ^ 5]).all()
    assert (probe("shfl.sync.idx.b32 %d0, %a0, 7, 31, -1;", x) == x[7]).all()
    assert (probe("shfl.sync.up.b32 %d0, %a0, 3, 0, -1;", x) == x[np.where(LANE >= 3, LANE - 3, LANE)]).all()
    body = "shfl.sync.down.b32 %d0|%q0, %a0, 3, 31, -1; selp.b32 %d1, 1, 0, %q0;"
    got, inside = probe(body, x, count=2)
    assert (got == x[np.where(LANE <= 28, LANE + 3, LANE)]).all()
    assert (inside == (LANE <= 28)).all()
    # Segments of eight lanes: c = clamp 31 and mask 24.
    assert (probe("shfl.sync.idx.b32 %d0, %a0, 2, 0x181f, -1;", x) == x[LANE // 8 * 8 + 2]).all()


def test_votes_and_reductions() -> None:
    x = words(64)
    body = "setp.lt.s32 %q0, %a0, 0; vote.sync.ballot.b32 %d0, %q0, -1;"
    ballot = probe(body, x, warps=2)
    for warp in range(2):
        bits = sum(1 << n for n in range(32) if x[32 * warp + n] >> 31)
        assert (ballot[32 * warp : 32 * warp + 32] == bits).all()
    assert (probe("redux.sync.max.u32 %d0, %a0, -1;", x, warps=2) == x.reshape(2, 32).max(1).repeat(32)).all()


def test_branches_reconverge() -> None:
    """A loop whose count differs by thread; then the warp is whole again."""
    body = """
        mov.u32 %d0, 0; mov.u32 %x0, 0;
        TOP: setp.ge.u32 %q0, %x0, %t; @%q0 bra DONE;
        add.u32 %d0, %d0, %x0; add.u32 %x0, %x0, 1; bra TOP;
        DONE: shfl.sync.bfly.b32 %d0, %d0, 1, 31, -1;"""
    assert (probe(body) == (LANE ^ 1) * ((LANE ^ 1) - 1) // 2).all()


# Fragments: positions straight from the tables of the PTX ISA ----------------------------


def fragments(matrix: np.ndarray, row, column) -> np.ndarray:
    """Elements of a matrix as the PTX ISA deals them out: ``row(i)`` and ``column(i)`` of element i, by lane."""
    return np.stack([matrix[row(i), column(i)] for i in range(matrix.size // 32)], 1)


G, T = LANE // 4, LANE % 4


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_mma_of_16_bits(name: str) -> None:
    a, b, c = DRAW.standard_normal((16, 16)), DRAW.standard_normal((16, 8)), DRAW.standard_normal((16, 8))
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[name]
    a, b = (torch.from_numpy(x).to(dtype) for x in (a, b))
    bits = [x.view(torch.int16).numpy() for x in (a, b)]
    fa = fragments(bits[0], lambda i: G + 8 * (i // 2 % 2), lambda i: 2 * T + i % 2 + 8 * (i // 4))
    fb = fragments(bits[1], lambda i: 2 * T + i % 2 + 8 * (i // 2), lambda i: G)
    fc = fragments(c.astype(np.float32), lambda i: G + 8 * (i // 2), lambda i: 2 * T + i % 2)
    registers = [*fa.copy().view(np.uint32).T, *fb.copy().view(np.uint32).T, *fc.view(np.uint32).T]
    body = (
        f"mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32 {{%d0,%d1,%d2,%d3}}, {{%a0,%a1,%a2,%a3}}, "
        "{%a4,%a5}, {%a6,%a7,%a8,%a9};"
    )
    got = probe(body, *map(np.ascontiguousarray, registers), count=4).view(np.float32).T
    want = fragments(a.double().numpy() @ b.double().numpy() + c, lambda i: G + 8 * (i // 2), lambda i: 2 * T + i % 2)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_mma_of_tf32() -> None:
    a, b = DRAW.integers(-8, 8, (16, 8)).astype(np.float32), DRAW.integers(-8, 8, (8, 8)).astype(np.float32)
    fa = fragments(a, lambda i: G + 8 * (i % 2), lambda i: T + 4 * (i // 2))
    fb = fragments(b, lambda i: T + 4 * i, lambda i: G)
    body = (
        "mov.b32 %x0, 0; mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%d0,%d1,%d2,%d3}, "
        "{%a0,%a1,%a2,%a3}, {%a4,%a5}, {%x0,%x0,%x0,%x0};"
    )
    got = probe(body, *(np.ascontiguousarray(x) for x in (*fa.T, *fb.T)), count=4).view(np.float32).T
    np.testing.assert_array_equal(got, fragments(a @ b, lambda i: G + 8 * (i // 2), lambda i: 2 * T + i % 2))


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed: bool) -> None:
    """Four 8 x 8 matrices, of which lane 8n + r stored row r of matrix n."""
    rows = DRAW.integers(0, 2**16, (32, 8), dtype=np.uint16)
    columns = [np.ascontiguousarray(x) for x in rows.view(np.uint32).T]
    body = f"""
        mov.u32 %x0, room; mad.lo.u32 %x0, %t, 16, %x0; st.shared.v4.b32 [%x0], {{%a0,%a1,%a2,%a3}};
        bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x4{".trans" if transposed else ""}.shared.b16 {{%d0,%d1,%d2,%d3}}, [%x0];"""
    got = probe(body, *columns, declare=SHARED, count=4)
    for n, register in enumerate(got):
        m = rows[8 * n : 8 * n + 8]
        m = m.T if transposed else m
        assert (register & 0xFFFF == m[G, 2 * T]).all()
        assert (register >> 16 == m[G, 2 * T + 1]).all()


def test_stmatrix_is_the_inverse() -> None:
    x = [words() for _ in range(4)]
    body = """
        mov.u32 %x0, room; mad.lo.u32 %x0, %t, 16, %x0;
        stmatrix.sync.aligned.m8n8.x4.shared.b16 [%x0], {%a0,%a1,%a2,%a3}; bar.warp.sync -1;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%d0,%d1,%d2,%d3}, [%x0];"""
    assert (probe(body, *x, declare=SHARED, count=4) == np.stack(x)).all()


# Memories -------------------------------------------------------------------------------

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
    "a warp is no barrier for the other": (
        f"{PLACE} {OTHER} st.shared.b32 [%x0], %t; bar.warp.sync -1; ld.shared.b32 %d0, [%x2];",
        RaceError,
    ),
    "a barrier of half the CTA": (
        f"{PLACE} {OTHER} st.shared.b32 [%x0], %t; shr.u32 %x3, %t, 5; bar.sync %x3, 32; ld.shared.b32 %d0, [%x2];",
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


def test_arguments_are_checked() -> None:
    text = ".visible .entry f(.param .u64 x, .param .u32 n, .param .f32 y) { ret; }"
    run(text, (1,), [torch.zeros(3), 3, 0.5], num_warps=1)
    for args in ([torch.zeros(3), 0.5, 0.5], [torch.zeros(3), torch.zeros(3)], [0, 0, 0, 0], ["x"]):
        with pytest.raises(ValueError, match=r"^args"):
            run(text, (1,), args, num_warps=1)
    with pytest.raises(ValueError, match="num_warps"):
        run(text, (1,), [])
