"""TMA and mbarriers on the emulator: a product by tensor descriptors, as Triton 3.7.1 compiles it for sm_90."""

from __future__ import annotations

import functools
import re

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from benchmarks.static.launches import Launch, compiled
from tests.gpu.ptx import DeadlockError, InFlightError, PtxError, RaceError, UninitialisedError
from tests.gpu.ptx.triton import launch

M, N, K = 100, 72, 200
BM, BN, BK = 64, 64, 32


@triton.jit
def multiply(A, B, C, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """C = A Bᵀ; what lies outside the tensors reads as zero and is not written."""
    m, n = tl.program_id(0) * BM, tl.program_id(1) * BN
    acc = tl.zeros([BM, BN], tl.float32)
    for k in range(0, K, BK):
        acc = tl.dot(A.load([m, k]), B.load([n, k]).T, acc)
    C.store([m, n], acc.to(tl.bfloat16))


@functools.cache
def made() -> Launch:
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows, K, generator=draw).bfloat16() for rows in (M, N))
    c = torch.empty(M, N, dtype=torch.bfloat16)
    blocks = zip((a, b, c), ([BM, BK], [BN, BK], [BM, BN]), strict=True)
    args = [TensorDescriptor.from_tensor(x, block) for x, block in blocks]
    grid = (triton.cdiv(M, BM), triton.cdiv(N, BN))
    return Launch(multiply, (*args, K), {"BM": BM, "BN": BN, "BK": BK, "num_warps": 4, "num_stages": 3}, grid)


@functools.cache
def ptx() -> str:
    return compiled(made(), "sm_90").assembly


def error(text: str, seed: int | None = None) -> float:
    a, b, c = (x.base for x in made().args[:3])
    c.fill_(torch.nan)
    launch(made(), "sm_90", seed, ptx=text)
    return (c - a.double() @ b.double().mT).abs().nan_to_num(torch.inf).max().item()


@pytest.mark.parametrize("seed", [None, 1])
def test_product(seed: int | None) -> None:
    assert "cp.async.bulk.tensor.2d.global" in ptx()
    assert "wgmma" in ptx()
    assert error(ptx(), seed) < 0.15  # bf16 of numbers up to 50


def test_without_tma() -> None:
    """On sm_80 the same descriptors are pointers."""
    a, b, c = (x.base for x in made().args[:3])
    c.fill_(torch.nan)
    launch(made(), "sm_80")
    assert (c - a.double() @ b.double().mT).abs().max() < 0.15


FAULTS = {
    "no barrier": (r"bar\.sync[^;]*;", "", (RaceError, UninitialisedError)),
    "no initialisation": (r"@%p\d+ mbarrier\.init[^;]*;", "", UninitialisedError),
    "nothing expected": (r"@%p\d+ mbarrier\.arrive[^;]*;", "", PtxError),
    "fewer bytes expected": (r"(mbarrier\.arrive\.expect_tx\S* _, \[%r\d+\]), \d+", r"\1, 4096", PtxError),
    "more bytes expected": (r"(mbarrier\.arrive\.expect_tx\S* _, \[%r\d+\]), \d+", r"\1, 65536", DeadlockError),
    "no wait": (r"mbarrier\.try_wait[^;]*;\s*@!complete[^;]*;", "", InFlightError),
    "no load": (r"@%p\d+ cp\.async\.bulk\.tensor\.2d\.shared[^;]*;", "", DeadlockError),
    "no wait for the store": (r"cp\.async\.bulk\.wait_group[^;]*;", "", InFlightError),
    "no fence": (r"fence\.proxy[^;]*;", "", RaceError),
    "two arrivals wanted": (r"(mbarrier\.init\S* \[%r\d+\]), 1", r"\1, 2", DeadlockError),
}


@pytest.mark.parametrize("name", FAULTS)
def test_caught(name: str) -> None:
    pattern, by, verdict = FAULTS[name]
    text, times = re.subn(pattern, by, ptx())
    assert times > 0
    with pytest.raises(verdict):
        error(text)
