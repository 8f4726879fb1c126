"""Long sequences, and tensors whose last element lies beyond 2**31."""

from __future__ import annotations

import contextlib
import mmap
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, causal, native, window

pytestmark = [
    pytest.mark.skipif(native.why_missing() is not None, reason=str(native.why_missing())),
    pytest.mark.skipif(sys.platform != "linux", reason="memory on demand and its peak are asked of Linux"),
]


FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE, which Python does not name


@contextlib.contextmanager
def sparse_memory(elements: int) -> Iterator[Tensor]:
    """A float32 tensor in memory that the system hands out page by page, on first use."""
    with mmap.mmap(-1, 4 * elements, flags=FLAGS) as pages:
        yield torch.frombuffer(pages, dtype=torch.float32)


def spread(x: Tensor, memory: Tensor, strides: tuple[int, ...]) -> Tensor:
    """x, written where the strides say."""
    view = memory.as_strided(x.shape, strides)
    view.copy_(x)
    return view


FAR = 2**31 + 64  # elements between neighbours of one dimension
# strides of (B, H, S, D) = (2, 2, 3, 8), with one dimension far apart
STRIDES = {
    "batch rows": (FAR, 64, 8, 1),
    "heads": (64, FAR, 8, 1),
    "rows": (16, 8, FAR // 2 + 32, 1),
}


@pytest.mark.parametrize("far", STRIDES)
@pytest.mark.parametrize("tensor", range(4), ids=["q", "k", "v", "dout"])
def test_offsets_beyond_31_bits(far: str, tensor: int) -> None:
    draw = torch.Generator().manual_seed(0)
    near = [torch.randn(2, 2, 3, 8, generator=draw) for _ in range(4)]
    needed = 1 + sum((n - 1) * stride for n, stride in zip((2, 2, 3, 8), STRIDES[far], strict=True))
    with sparse_memory(needed) as memory:
        given = list(near)
        given[tensor] = spread(near[tensor], memory, STRIDES[far])
        assert given[tensor].storage_offset() + needed > 2**31
        for a, b in zip(outputs(*given), outputs(*near), strict=True):
            assert torch.equal(a, b)
        del given


def outputs(q: Tensor, k: Tensor, v: Tensor, dout: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out, lse = pkernels.attention(*leaves, causal, return_lse=True, backend="cpu")
    # Copies, so that nothing is left of memory that is given back.
    return [x.detach().clone() for x in (out, lse, *torch.autograd.grad(out, leaves, dout))]


@pytest.mark.parametrize("far", STRIDES)
def test_results_beyond_31_bits(far: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    near = [torch.randn(2, 2, 3, 8, generator=draw) for _ in range(4)]
    wanted = outputs(*near)
    with contextlib.ExitStack() as open_memories:

        def rows_like(x: Tensor, width: int) -> Tensor:
            memory = open_memories.enter_context(sparse_memory(3 * FAR))
            return memory.as_strided((*x.shape[:3], width), STRIDES[far])

        monkeypatch.setattr("pkernels.native.call.rows_like", rows_like)
        for a, b in zip(outputs(*near), wanted, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("bias", ["distance", "dense"])
def test_biases_beyond_31_bits(bias: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    near = torch.randn(2, 5) if bias == "distance" else torch.randn(1, 2, 3, 3)
    strides = (FAR, 1) if bias == "distance" else (1, FAR, 3, 1)
    kind = pkernels.Distance if bias == "distance" else pkernels.Dense
    with sparse_memory(FAR + 64) as memory:
        far = spread(near, memory, strides)
        wanted = pkernels.attention(q, k, v, causal, kind(near), backend="cpu")
        assert torch.equal(pkernels.attention(q, k, v, causal, kind(far), backend="cpu"), wanted)
        del far


def test_rows_that_overlap_in_memory() -> None:
    """Row i of q, k and v is the 64 numbers from i on."""
    numbers = torch.randn(40_000, generator=torch.Generator().manual_seed(0))
    q = numbers.as_strided((1, 1, 30_000, 64), (0, 0, 1, 1))
    out = pkernels.attention(q, q, q, window(3, 0), backend="cpu")
    rows = slice(17_000, 17_010)
    copy = q[:, :, 16_997:17_010].contiguous()
    assert torch.allclose(out[:, :, rows], pkernels.attention(copy, copy, copy, window(3, 0))[:, :, 3:], atol=1e-6)


# Long sequences --------------------------------------------------------------------------

LONG = """
import resource, time, torch, pkernels
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
q, k, v = torch.randn(3, 1, 1, {size}, 32).unbind()
leaves = [x.requires_grad_() for x in (q, k, v)]
warm = pkernels.attention(*(x[:, :, :256] for x in leaves), pkernels.{pattern}, backend="cpu")
warm.sum().backward()
before = peak()
out = pkernels.attention(*leaves, pkernels.{pattern}, {bias}backend="cpu")
out.sum().backward()
print(peak() - before)
"""


def growth(size: int, pattern: str, bias: str = "") -> float:
    """Mebibytes that a forward and backward of a length adds to a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", LONG.format(size=size, pattern=pattern, bias=bias)],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


DISTANCE = "pkernels.Distance(torch.zeros(1, 2 * {size} - 1).requires_grad_()), "
RELATIVE = "pkernels.Relative(leaves[0], torch.zeros(1, 2 * {size} - 1, 32).requires_grad_()), "


@pytest.mark.parametrize(("bias", "most"), [("", 200), (DISTANCE, 200), (RELATIVE, 300)])
def test_memory_grows_with_the_length_alone(bias: str, most: int) -> None:
    # q, k, v, out and their gradients take 64 MiB, a table and its gradient 32, of each part of the
    # keys 16 more; S x S numbers would take 16 GiB.
    assert growth(65_536, "window(64)", bias.format(size=65_536)) < most


def test_dense_attention_takes_no_square_either() -> None:
    # S x S numbers would take 256 MiB.
    assert growth(8192, "causal") < 40


def test_a_window_of_65536_is_right_at_both_ends_and_inside() -> None:
    size, draw = 65_536, torch.Generator().manual_seed(0)
    q, k, v, dout = (torch.randn(1, 1, size, 32, generator=draw) for _ in range(4))
    pattern = window(64, 32)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = pkernels.attention(*leaves, pattern, backend="cpu")
    grads = torch.autograd.grad(out, leaves, dout)
    for first, last in ((0, 400), (32_700, 33_100), (size - 400, size)):
        piece = [x.detach()[:, :, first:last].double().requires_grad_() for x in leaves]
        part = pkernels.attention(*piece, pattern, backend="reference")
        exact = torch.autograd.grad(part, piece, dout[:, :, first:last].double())
        # Away from where the piece was cut off.
        inner = slice(0 if first == 0 else 200, 400 if last == size else 200)
        for mine, truth in zip((out, *grads), (part, *exact), strict=True):
            assert torch.allclose(mine[:, :, first:last][:, :, inner].double(), truth[:, :, inner], atol=2e-5)


def test_more_heads_and_batch_rows_than_16_bits() -> None:
    q = torch.randn(70_000, 1, 2, 4, generator=torch.Generator().manual_seed(0))
    out = pkernels.attention(q, q, q, Band(right=0), backend="cpu")
    assert torch.equal(out[-3:], pkernels.attention(q[-3:], q[-3:], q[-3:], Band(right=0), backend="cpu"))
