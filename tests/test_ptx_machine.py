"""The emulator's warps and the fragments of its tensor cores."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.gpu.ptx import DeadlockError, DivergenceError, OutOfBoundsError, run
from tests.gpu.ptx.launch import Record
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


def test_barriers_that_reduce() -> None:
    body = """
        setp.eq.u32 %q0, %t, 40; bar.red.or.pred %q1, 0, %q0; selp.b32 %d0, 1, 0, %q1;
        bar.red.and.pred %q1, 0, %q0; selp.b32 %d1, 1, 0, %q1; bar.red.popc.u32 %d2, 0, %q0;"""
    some, every, count = probe(body, warps=2, count=3)
    assert (some == 1).all() and (every == 0).all() and (count == 1).all()
    with pytest.raises(DeadlockError, match="wait at a barrier"):
        probe(f"setp.lt.u32 %q2, %t, 32; @%q2 bra ON; HERE: bra HERE2; HERE2: bar.sync 1; ON: {body}", warps=2, count=3)


def test_a_barrier_that_reduces_from_two_places() -> None:
    body = """
        mov.u32 %d0, 7; setp.eq.u32 %q0, %t, 40; setp.lt.u32 %q2, %t, 32; @%q2 bra FIRST;
        bar.red.or.pred %q1, 0, %q0; selp.b32 %d0, 1, 0, %q1; bra END;
        FIRST: bar.red.or.pred %q3, 0, %q0; selp.b32 %d0, 2, 0, %q3; END:"""
    for seed in (None, 1, 2):
        assert (probe(body, warps=2, seed=seed) == np.repeat([2, 1], 32)).all()


def test_registers_are_given_back_by_four_warps() -> None:
    body = "mov.u32 %d0, %t; setp.lt.u32 %q0, %t, LIMIT; @%q0 setmaxnreg.dec.sync.aligned.u32 24;"
    declare = "wgmma.commit_group.sync.aligned;"  # four warps are a group where there are such products
    assert (probe(body.replace("LIMIT", "128"), warps=8, declare=declare) == np.arange(256)).all()
    with pytest.raises(DivergenceError, match="part of a warpgroup"):
        probe(body.replace("LIMIT", "96"), warps=8, declare=declare)


# Structs and shared memory, as nvcc has them ---------------------------------------------


STRUCT = """
.extern .shared .align 16 .b8 more[];
.visible .entry kernel(.param .align 8 .b8 given[24])
{
    .reg .b64 %p<4>; .reg .b32 %x<8>; .reg .pred %q;
    .shared .align 4 .b32 own[8];
    mov.b64 %p0, given; add.s64 %p0, %p0, 8;
    ld.param.u64 %p1, [%p0]; ld.param.u32 %x0, [given+16];
    mov.u32 %x1, %tid.x; mov.u32 %x2, more; mov.u32 %x3, own;
    st.shared.u32 [%x2], %x0; bar.sync 0; ld.shared.u32 %x4, [%x2];
    sub.u32 %x5, %x2, %x3; st.global.v2.u32 [%p1], {%x4, %x5};
    ret;
}"""


def test_structs_are_passed_by_value() -> None:
    """Their pointers lead into tensors; and what a launch adds to shared memory lies behind the kernel's own."""
    out = torch.zeros(10, dtype=torch.int32)
    content = torch.tensor([0, out[4:].data_ptr(), 77], dtype=torch.int64).view(torch.uint8)
    run(STRUCT, (1,), [Record(content, [out])], 16, 1)
    assert out.tolist() == [0, 0, 0, 0, 77, 32, 0, 0, 0, 0]
    with pytest.raises(OutOfBoundsError):
        run(STRUCT, (1,), [Record(content, [out])], 0, 1)
    with pytest.raises(OutOfBoundsError):
        run(STRUCT, (1,), [Record(content, [])], 16, 1)


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
