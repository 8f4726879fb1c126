"""What nvcc made of ``csrc/cuda``: what a kernel takes on each chip, and the extension without a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton", reason="cuobjdump, which reads the binary, comes with Triton")

import pkernels
from pkernels import Blocks, Buckets, Dense, Distance, Relative, causal, cuda, window
from pkernels.cuda import call
from pkernels.problem import Problem

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from tests.gpu import nvcc

# Bytes of shared memory that a CTA may have (CUDA C++ programming guide, technical specifications).
SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
REGISTERS = 65_536  # of a multiprocessor
RESIDENT = {"sm_80": 167_936, "sm_90": 233_472, "sm_100": 233_472}  # bytes of a multiprocessor


WIDTHS = {torch.bfloat16: (64, 128, 256), torch.float16: (64, 128, 256), torch.float32: (64, 128)}


def described(line: str) -> tuple[str, int, int]:
    name, _, threads, shared = line.split()
    return name, int(threads), int(shared)


def launches() -> Iterator[tuple[str, int, int]]:
    """(kernel, threads, bytes of dynamic shared memory) of every kernel that there is."""
    note = torch.zeros(4096, dtype=torch.uint8)
    for dtype, widths in WIDTHS.items():
        for d in widths:
            x, numbers, narrow = torch.zeros(1, 1, 8, d, dtype=dtype), torch.zeros(1, 1, 8), d * dtype.itemsize <= 256
            biases: list[dict[str, Any]] = [{}, {"distance": torch.zeros(1, 15)}, {"dense": x.new_zeros(1, 1, 8, 8)}]
            biases += [{"query": x, "table": x[0]}] if narrow else []
            for bias in biases:
                rest = (*call.arguments(replace(Problem(causal, 1.0, zero=7), **bias)), note)
                one, backward = torch.zeros(1, 1, dtype=torch.int32), (x, x, x, x, numbers, numbers)
                blocks = ("blocks", (one.expand(1, 2), one[0], one[0], 64), (one[None], 64))
                lines = []
                for shape, lists, pairs in (("band", (), ()), blocks):
                    passes = ("forward", "dq", "dkv", "ddense" if "dense" in bias else "diagonals")
                    forward, dq, dkv, last = (getattr(cuda.operators(), f"{shape}_{part}") for part in passes)
                    lines += [
                        forward(x, x, x, x, numbers, *lists, *rest),
                        dq(x, x, x, x, x, None, numbers, numbers, x, None, *lists, *rest),
                        dkv(*backward, x, x, *lists, *rest),
                    ]
                    if bias:
                        lines.append(last(*backward, numbers[None] if "dense" in bias else numbers, *pairs, *rest))
                if not bias:
                    lines.append(cuda.operators().merge_parts(x[None].float(), numbers[None], x, numbers, note))
                    if d <= 128 and dtype != torch.float32 and cuda.operators().has_hopper():
                        lines.append(cuda.operators().hopper_forward(x, x, x, x, numbers, *rest))
                yield from map(described, dict.fromkeys(lines))
            order, rows = torch.zeros(1, 1, 1, 8, dtype=torch.int32), (None, 0, 8, 0, 0, False, None, 1.0, 0.0, note)
            sums = x.float()
            for line in (
                cuda.operators().buckets_forward(x, x, x, sums, numbers, numbers, order, *rows),
                cuda.operators().buckets_dq(x, x, x, x, numbers, numbers, None, sums, order, *rows),
                cuda.operators().buckets_dkv(x, x, x, x, numbers, numbers, None, sums, sums, order, *rows),
            ):
                yield described(line)
    yield described(cuda.operators().lsh_hash(x.half(), torch.zeros(1, 128, 1, 2), None, [4], order, note))
    yield described(cuda.operators().lsh_sort(order, 5, order, order, note))


def test_every_kernel_is_reached() -> None:
    assert sorted({name for name, _, _ in launches()}) == sorted(nvcc.kernels())
    assert len(nvcc.kernels()) == 245 + 4 * cuda.operators().has_hopper()


def test_sm_90_has_kernels_of_its_own() -> None:
    """They are there if the extension is for it, and no other chip has them."""
    assert cuda.operators().has_hopper() == ("90" in cuda.archs())
    assert {chip for chip, name in nvcc.usages() if name.startswith("hopper_")} <= {"sm_90"}
    for name, ptx in nvcc.kernels().items():
        assert (".target sm_90a" in ptx) == name.startswith("hopper_"), name


@pytest.mark.parametrize("chip", SHARED)
def test_kernels_fit_and_spill_nothing(chip: str) -> None:
    if chip.removeprefix("sm_") not in cuda.archs():
        pytest.skip(f"the extension was built for {' '.join(cuda.archs())} alone")
    for name, threads, shared in launches():
        if name.startswith("hopper_") and chip != "sm_90":
            continue
        usage = nvcc.usages()[chip, name]
        taken = shared + usage.shared + 1024  # what the system takes of each CTA
        assert usage.local == 0, f"{name} spills {usage.local} bytes"
        assert taken <= SHARED[chip], f"{name}: {taken} bytes of shared memory"
        # Eight warps at least share a multiprocessor, four in the backward and over Blocks where rows of 256 bytes meet
        # a Relative and in the pass over diagonals, the backward over Buckets and the forward over Blocks where they
        # have 512.
        at_once = min(REGISTERS // (-(-usage.registers // 8) * 8 * threads), RESIDENT[chip] // taken)
        few = r"(d|blocks_).*(_128|f32_64)_relative", r"((blocks_)?diagonals|buckets_d|blocks_forward).*(_256|f32_128)"
        least = 128 if re.match("|".join(few), name) else 256
        assert at_once * threads >= least, f"{name}: {usage}, {shared}"


def test_products_are_the_tensor_cores() -> None:
    for name, mma in (("forward_bf16_64_none", 128), ("forward_f16_128_none", 128), ("dq_bf16_64_none", 96)):
        ptx = nvcc.kernels()[name]
        assert ptx.count("mma.sync.aligned.m16n8k16") >= mma
        assert "ldmatrix" in ptx and ".trans" in ptx and "cp.async" in ptx and "ex2.approx" in ptx


def test_without_a_driver_it_loads_and_says_one_clear_thing() -> None:
    code = """
import torch, pkernels
from pkernels import cuda
x = torch.zeros(1, 1, 8, 64, dtype=torch.bfloat16)
print(cuda.why_missing(), *cuda.archs())
try:
    pkernels.attention(x, x, x, backend="cuda")
except NotImplementedError as error:
    print(error)
try:
    cuda.call.launch("band_forward", x, x, x, x, x[..., 0].float(), *[None] * 8, 0, False, 1.0, 0.0, [0, 0, 0, 0, 1])
except RuntimeError as error:
    print(str(error).splitlines()[0])
"""
    if torch.cuda.is_available():
        pytest.skip("there is a driver")
    code = code.replace("from pkernels import cuda", "from pkernels import cuda\nimport pkernels.cuda.call")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded, named, launched = done.stdout.splitlines()
    assert loaded.startswith("None 8")
    assert named == "backend 'cuda': tensors on cpu: an NVIDIA GPU is needed"
    assert "backend 'cuda': " in launched


def test_why_not_says_what_is_not_there() -> None:
    blocks, buckets = Blocks.of([[0]], 64), Buckets(torch.zeros(1, 1, 1, 64, dtype=torch.int32), 64)
    with FakeTensorMode():
        q, wide = (torch.empty(1, 2, 64, d, dtype=torch.bfloat16, device="cuda") for d in (64, 256))
        relative = Relative(q, q.new_empty(2, 127, 64))
        values = q.new_empty(2, 127).float().requires_grad_()
        for bias in (Distance(values), Dense(q.new_empty(64, 64).float().requires_grad_()), relative):
            assert pkernels.why_not("cuda", q, q, q, causal, bias) is None
        assert pkernels.why_not("cuda", q, q, q, window(3, dilation=2), relative) is None
        for bias in (Distance(values), relative):
            assert pkernels.why_not("cuda", q, q, q, blocks, bias) is None
        exact, far = q.float(), wide.float()
        for x in (exact, wide):
            for shape in (causal, blocks):
                assert pkernels.why_not("cuda", x, x, x, shape, Distance(values)) is None
            table = Relative(wide.to(x.dtype), x.new_empty(2, 127, 256))
            assert "head dimension 256" in str(pkernels.why_not("cuda", x, x, x, causal, table))
        assert pkernels.why_not("cuda", exact, exact, exact.new_empty(1, 2, 64, 128), blocks, Distance(values)) is None
        assert "head dimension 256 in float32" in str(pkernels.why_not("cuda", far, far, far, causal))
        for shape in (blocks, buckets):
            for x in (q, exact, q.new_empty(1, 2, 64, 128), exact.new_empty(1, 2, 64, 128)):
                assert pkernels.why_not("cuda", x, x, x, shape) is None
            assert '"triton" up to 256' in str(pkernels.why_not("cuda", far, far, far, shape))
            assert pkernels.why_not("cuda", wide, wide, wide, shape) is None
