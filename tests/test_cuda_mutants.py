"""The emulator's eyes on nvcc's code: a CUDA kernel with one fault put into its PTX must not pass."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import Blocks, Buckets, attention, causal, cuda, lsh_order
from tests.shapes import sorted_rows

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from tests.gpu.nvcc import emulated, kernels
from tests.gpu.ptx import InFlightError, PtxError, RaceError, UninitialisedError

KERNEL = "forward_bf16_64_none"
RIGHT = 0.02


def error(ptx: str) -> float:
    """How far the output is from the truth."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 64, generator=draw).bfloat16() for n in (20, 270, 270))
    with emulated(mutants={KERNEL: ptx}):
        out = attention(q, k, v, causal, backend="cuda")
    truth = attention(q.double(), k.double(), v.double(), causal)
    return (out - truth).abs().nan_to_num(torch.inf).max().item()


# (what is replaced, by what)
NO_BARRIER = (r"(cp\.async\.wait_group \d;[\s\S]*?)bar\.sync\s+0;", r"\1")
NO_WAIT = (r"cp\.async\.wait_group 0;([^;]*bar\.sync\s+0;)", r"cp.async.wait_group 1;\1")
BARRIER = (r"bar\.sync\s+0;", "")
# (that, which of its occurrences, what must be seen)
FAULTS: dict[str, tuple[tuple[str, str], int, type[PtxError]]] = {
    "no barrier before the products": (NO_BARRIER, 0, RaceError),
    "a shorter wait for keys and values": (NO_WAIT, 0, InFlightError),
    "nobody waits for the plan": (BARRIER, 0, UninitialisedError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_caught(name: str) -> None:
    (pattern, by), which, verdict = FAULTS[name]
    found = list(re.finditer(pattern, kernels()[KERNEL]))
    assert len(found) > which
    match = found[which]
    mutant = kernels()[KERNEL][: match.start()] + match.expand(by) + kernels()[KERNEL][match.end() :]
    with pytest.raises(verdict):
        error(mutant)


WRONG = {
    "another lane": (r"(shfl\.sync\.bfly\.b32 \s*%r\d+\|%p\d+, %r\d+), %r\d+,", r"\1, 4,"),
    "not transposed": (r"ldmatrix(\S+)\.trans", r"ldmatrix\1"),
    "halves of B swapped": (r"(mma\.sync\S+ .*\}, \{)(%r\d+),(%r\d+)(\}, \{[^}]*\};)", r"\1\3,\2\4"),
}


def test_the_kernel_is_right() -> None:
    assert error(kernels()[KERNEL]) < RIGHT


@pytest.mark.parametrize("name", WRONG)
def test_wrong_numbers(name: str) -> None:
    mutant, times = re.subn(*WRONG[name], kernels()[KERNEL])
    assert times > 0
    assert error(mutant) > 5 * RIGHT


# The other shapes, and the sort ----------------------------------------------------------


def rows(n: int, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    q, k, v = torch.randn(3, 1, 1, n, 64, generator=draw).bfloat16()
    return [q, k, v + 1]


def of_pattern(pattern: Blocks | Buckets, n: int, backward: bool) -> float:
    """How far the output, or the gradient of keys, is from the truth."""
    found = []
    for wide, backend in ((False, "cuda"), (True, "reference")):
        q, k, v = (x.double() if wide else x for x in rows(n))
        k.requires_grad_(backward)
        out = attention(q, k, v, pattern, backend=backend)
        found.append(torch.autograd.grad(out.square().sum(), k)[0] if backward else out)
    return (found[0] - found[1]).abs().nan_to_num(torch.inf).max().item()


def of_order(sizes: dict) -> float:
    """How many places of an order are wrong."""
    x = torch.randn(1, 1, 70, 16, generator=torch.Generator().manual_seed(0)).half()
    one, other = (lsh_order(x, rounds=1, chunk=8, seed=1, backend=name, **sizes) for name in ("cuda", "cpu"))
    return float((one != other).sum())


LISTED = Blocks.of([[0, 1, 1, 2]] * 3, 64)
CHUNKS = Buckets(sorted_rows(90, 45), 45, True, before=3, own=-1e5)
PROBES: dict[str, Callable[[], float]] = {
    "blocks_forward_bf16_64_none": lambda: of_pattern(LISTED, 150, False),
    "blocks_dkv_bf16_64_none": lambda: of_pattern(LISTED, 150, True),
    "buckets_forward_bf16_64_none": lambda: of_pattern(CHUNKS, 90, False),
    "buckets_dkv_bf16_64_none": lambda: of_pattern(CHUNKS, 90, True),
    "hash_rows": lambda: of_order({"buckets": (4, 6)}),
    "sort_rows": lambda: of_order({"buckets": (4, 6)}),
}
WRONG_NUMBERS = AssertionError
# Kernel: [(what, (what is replaced, by what), which of its occurrences or None for all, what must be seen)]
SHAPES: dict[str, list[tuple[str, tuple[str, str], int | None, type[Exception]]]] = {
    "blocks_forward_bf16_64_none": [
        ("no barrier", NO_BARRIER, 0, RaceError),
        ("counted once", (r"lg2\.approx\.ftz\.f32 (%f\d+), %f\d+;", r"mov.f32 \1, 0f00000000;"), 0, WRONG_NUMBERS),
        ("no tail", (r"selp\.f32 (%f\d+), \1, 0fFF800000, %p\d+;", ""), None, WRONG_NUMBERS),
    ],
    "blocks_dkv_bf16_64_none": [("a shorter wait", NO_WAIT, 0, InFlightError)],
    "buckets_forward_bf16_64_none": [
        ("no barrier", NO_BARRIER, 0, RaceError),
        ("a shorter wait", NO_WAIT, 0, InFlightError),
        ("nobody waits for the lists", BARRIER, 1, RaceError),
        ("later rows are seen", (r"selp\.f32 (%f\d+), 0fFF800000, (%f\d+), %p\d+;", r"mov.f32 \1, \2;"), None,
         WRONG_NUMBERS),
    ],
    "buckets_dkv_bf16_64_none": [("no barrier", NO_BARRIER, 0, RaceError)],
    "hash_rows": [
        ("nobody waits for the tiles", BARRIER, 1, RaceError),
        ("no negative half", (r"neg\.f32 (%f\d+), (%f\d+);", r"mov.f32 \1, \2;"), None, WRONG_NUMBERS),
    ],
    "sort_rows": [
        ("nobody waits for the counts", BARRIER, 0, RaceError),
        ("nobody waits for the sums", BARRIER, 1, RaceError),
        ("nobody waits for the places", BARRIER, 2, RaceError),
        ("lanes in another order", (r"not\.b32 (%r\d+), (%r\d+);", r"shl.b32 \1, \2, 1;"), None, RaceError),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kernel", PROBES)
def test_the_kernels_of_shapes_are_right(kernel: str) -> None:
    with emulated():
        assert PROBES[kernel]() <= (0 if kernel.endswith("rows") else 5 * RIGHT)


@pytest.mark.parametrize(
    ("kernel", "fault"), [(kernel, fault) for kernel, faults in SHAPES.items() for fault in faults],
    ids=lambda x: x if isinstance(x, str) else x[0],
)  # fmt: skip
def test_faults_of_shapes_are_caught(kernel: str, fault: tuple) -> None:
    _, (pattern, by), which, verdict = fault
    ptx = kernels()[kernel]
    found = list(re.finditer(pattern, ptx))
    for match in reversed(found if which is None else [found[which]]):
        ptx = ptx[: match.start()] + match.expand(by) + ptx[match.end() :]
    assert ptx != kernels()[kernel]
    with pytest.raises(verdict), emulated(mutants={kernel: ptx}):
        assert PROBES[kernel]() <= (0 if kernel.endswith("rows") else 5 * RIGHT)
