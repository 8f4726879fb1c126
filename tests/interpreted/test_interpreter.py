"""The interpreter's checks: each catches a kernel made to break it, and passes one that does not."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

from tests.gpu import sample
from tests.gpu.interpreter import (
    DuplicateStoreError,
    KernelAssertionError,
    NondeterminismError,
    OutOfBoundsError,
    RaceError,
    Run,
    UninitialisedError,
    checked,
    unwritten,
)


@triton.jit
def copy(X, Y, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(Y + i, tl.load(X + i, mask=i < n), mask=i < n)


@triton.jit
def copy_past_end(X, Y, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(Y + i, tl.load(X + i), mask=i < n)


@triton.jit
def write_past_end(X, Y, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(Y + i, tl.load(X + i, mask=i < n))


@triton.jit
def sum_masked(X, Y, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(Y, tl.sum(tl.load(X + i, mask=i < n)))


@triton.jit
def accumulate(X, Y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(Y + i, tl.load(Y + i) + tl.load(X + tl.program_id(0) * B + i))


@triton.jit
def accumulate_atomically(X, Y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.atomic_add(Y + i, tl.load(X + tl.program_id(0) * B + i))


@triton.jit
def shift(X, B: tl.constexpr):
    """Each program reads what its neighbour writes."""
    i = tl.program_id(0) * B + tl.arange(0, B)
    x = tl.load(X + i + B)
    tl.store(X + i, x)


@triton.jit
def fold(X, Y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(Y + i // 2, tl.load(X + i))


@triton.jit
def demand(X, n, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.device_assert(i < n, "i is less than n")


@triton.jit
def address(Y, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(Y + i, (i * n) // n)


@triton.jit
def order(Y):
    """Y[0] counts the programs that ran; Y[1 + p] is how many ran before p."""
    p = tl.program_id(0)
    before = tl.atomic_add(Y, 1)
    tl.store(Y + 1 + p, before)


@triton.jit
def _double(x):
    return x + x


@triton.jit
def doubled(X, Y, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(Y + i, _double(tl.load(X + i)))


@triton.jit
def multiply(A, B, C, N: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    c = tl.dot(tl.load(A + at), tl.load(B + at), input_precision=PRECISION)
    tl.store(C + at, c.to(C.dtype.element_ty))


@triton.jit
def larger(X, Y, Z, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(Z + i, tl.maximum(tl.load(X + i), tl.load(Y + i)))


def test_copy_passes(run: Run) -> None:
    x, y = torch.randn(200), torch.empty(200)
    copy[(2,)](x, y, 200, B=128)
    assert torch.equal(x, y)
    assert run.launches == [("copy", (2, 1, 1))]


def test_load_past_the_end() -> None:
    with pytest.raises(OutOfBoundsError, match=r"kernel copy_past_end, program \(1, 0, 0\), test_interpreter.py:\d+: "
                       r"load of 56 of 128 lanes outside X .* the first at element 200 of 200"):  # fmt: skip
        copy_past_end[(2,)](torch.randn(200), torch.empty(200), 200, B=128)


def test_store_past_the_end() -> None:
    with pytest.raises(OutOfBoundsError, match="store of 56 of 128 lanes outside Y"):
        write_past_end[(2,)](torch.randn(200), torch.empty(200), 200, B=128)


def test_another_tensor_is_out_of_bounds() -> None:
    """Also where the neighbouring memory is an argument of the kernel."""
    both = torch.randn(400)
    with pytest.raises(OutOfBoundsError, match="outside X"):
        copy_past_end[(2,)](both[:200], both[200:], 200, B=128)


def test_gap_of_a_view_is_out_of_bounds() -> None:
    x = torch.randn(4, 64)[:, :48]
    with pytest.raises(OutOfBoundsError, match=r"16 of 64 lanes in a gap between the rows of X .* element 48 of 240"):
        copy[(1,)](x, torch.empty(64), 64, B=64)


def test_overlapping_and_broadcast_views_pass() -> None:
    for x in (torch.randn(40).as_strided((8, 8), (4, 1)), torch.randn(36).expand(5, 36)):
        y = torch.empty(36)
        copy[(1,)](x, y, 36, B=64)
        assert torch.equal(y, x.as_strided((36,), (1,)))


def test_masked_lanes_are_undefined() -> None:
    y = torch.zeros(1)
    sum_masked[(1,)](torch.ones(100), y, 100, B=128)
    assert y.isnan()


def test_uninitialised_memory() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.int64):
        x, y = torch.empty(64, dtype=dtype), torch.empty(64, dtype=dtype)
        x[:60] = 1
        with pytest.raises(UninitialisedError, match="load of 4 elements of X"):
            copy[(1,)](x, y, 64, B=64)
        copy[(1,)](x, y, 60, B=64)
        assert unwritten(x) == unwritten(y) == 4


def test_two_lanes_at_one_address() -> None:
    with pytest.raises(DuplicateStoreError, match="33 of 64 lanes of one store to Y"):
        fold[(1,)](torch.randn(64), torch.zeros(64), B=64)


def test_races() -> None:
    with pytest.raises(RaceError, match=r"load of Y .*, element 0, which program number . of this launch writes"):
        accumulate[(2,)](torch.randn(128), torch.zeros(64), B=64)
    for seed in range(3):
        with checked(shuffle=seed), pytest.raises(RaceError):
            shift[(4,)](torch.randn(320), B=64)
    accumulate[(1,)](torch.randn(64), torch.zeros(64), B=64)


def test_atomic_sums_have_no_order() -> None:
    with pytest.raises(NondeterminismError, match="64 elements of Y"):
        accumulate_atomically[(2,)](torch.randn(128), torch.zeros(64), B=64)
    x, y = torch.arange(128, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    accumulate_atomically[(2,)](x, y, B=64)
    assert torch.equal(y, x.view(2, 64).sum(0))


def test_program_order() -> None:
    ranks = []
    for seed in (None, 0, 1):
        y = torch.zeros(9, dtype=torch.int32)
        with checked(shuffle=seed):
            order[(8,)](y)
        ranks.append(y[1:].tolist())
    assert ranks[0] == list(range(8))
    assert ranks[1] != ranks[2]
    assert sorted(ranks[1]) == sorted(ranks[2]) == ranks[0]


def test_assertions_hold() -> None:
    demand[(1,)](torch.zeros(1), 64, B=64)
    with pytest.raises(KernelAssertionError, match="i is less than n"):
        demand[(1,)](torch.zeros(1), 63, B=64)


def test_overflow_if_asked() -> None:
    y = torch.zeros(64, dtype=torch.int32)
    with checked(overflow=True):
        address[(1,)](y, 2**24, B=64)
        with pytest.raises(KernelAssertionError, match="int32 overflow"):
            address[(1,)](y, 2**26, B=64)


def test_grid_limits() -> None:
    with pytest.raises(KernelAssertionError, match="axis 1 allows 65535"):
        copy[(1, 65_536)](torch.zeros(8), torch.zeros(8), 8, B=8)


def test_device_functions() -> None:
    x, y = torch.randn(64), torch.empty(64)
    doubled[(1,)](x, y, B=64)
    assert torch.equal(y, 2 * x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_round_as_torch(dtype: torch.dtype) -> None:
    a, b = torch.randn(32, 32, dtype=dtype), torch.randn(32, 32, dtype=dtype)
    c, precise = torch.empty_like(a), a.double() @ b.double()
    multiply[(1,)](a, b, c, N=32, PRECISION="ieee")
    assert (c.double() - precise).abs().max() <= 1.01 * ((a @ b).double() - precise).abs().max() + 1e-6


@pytest.mark.parametrize(("precision", "least", "most"), [("tf32", 1e-3, 5e-2), ("tf32x3", 0, 2e-5)])
def test_tf32_loses_bits(precision: str, least: float, most: float) -> None:
    a, b = torch.randn(32, 32), torch.randn(32, 32)
    c, precise = torch.empty_like(a), a.double() @ b.double()
    multiply[(1,)](a, b, c, N=32, PRECISION=precision)
    assert least < (c.double() - precise).abs().max() < most


def test_bf16_rounds_to_nearest_even() -> None:
    x = torch.cat([torch.randn(4000), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1 + 2**-8, 1 + 3 * 2**-8])])
    x = torch.nn.functional.pad(x, (0, 4096 - len(x)))
    y = torch.empty(4096, dtype=torch.bfloat16)
    copy[(1,)](x, y, 4096, B=4096)
    assert torch.equal(y, x.bfloat16())
    back = torch.empty(4096)
    copy[(1,)](y, back, 4096, B=4096)
    assert torch.equal(back, y.float())
    doubled[(1,)](y[:64].clone(), twice := torch.empty(64, dtype=torch.bfloat16), B=64)
    assert torch.equal(twice, y[:64] + y[:64])


def test_maximum_drops_nan() -> None:
    x, y, z = torch.tensor([torch.nan, 1.0]), torch.tensor([2.0, torch.nan]), torch.empty(2)
    larger[(1,)](x, y, z, B=2)
    assert z.tolist() == [2, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_flash_attention_passes(dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(2, 70, 32, dtype=dtype) for _ in range(3))
    out, lse = sample.attention(q, k, v)
    precise = _causal(*(x.double() for x in (q, k, v)))
    plain = _causal(q, k, v)
    assert (out - precise).abs().max() <= 2 * (plain - precise).abs().max() + 1e-6
    assert unwritten(out) == unwritten(lse) == 0


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
