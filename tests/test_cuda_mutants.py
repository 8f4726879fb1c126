"""The emulator's eyes on nvcc's code: a CUDA kernel with one fault put into its PTX must not pass."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import attention, causal, cuda

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


# (what is replaced, by what, which of its occurrences, what must be seen)
FAULTS: dict[str, tuple[str, str, int, type[PtxError]]] = {
    "no barrier before the scores": (r"(cp\.async\.wait_group 2;[\s\S]*?)bar\.sync\s+0;", r"\1", 0, RaceError),
    "no barrier before the values": (r"(cp\.async\.wait_group 2;[\s\S]*?)bar\.sync\s+0;", r"\1", 1, RaceError),
    "a shorter wait for keys": (r"cp\.async\.wait_group 2;", "cp.async.wait_group 3;", 0, InFlightError),
    "a shorter wait for values": (r"cp\.async\.wait_group 2;", "cp.async.wait_group 3;", 1, InFlightError),
    "nobody waits for the plan": (r"bar\.sync\s+0;", "", 0, UninitialisedError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_caught(name: str) -> None:
    pattern, by, which, verdict = FAULTS[name]
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
