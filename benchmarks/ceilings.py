"""What the machine can do at best, measured beside every case.

Arithmetic: on the CPU a loop of fused multiply-adds on registers, in C++; on CUDA a large
matrix product. Memory: a copy of 256 MiB, whose bytes count twice (read and written).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pkernels import native

COPY = 256 * 2**20


@dataclass(frozen=True)
class Ceiling:
    """A run and the work it does, in operations or bytes."""

    name: str
    unit: str
    work: float
    run: Callable[[], object]


@functools.cache
def ceiling(unit: str, dtype: torch.dtype, device: str) -> Ceiling | str:
    """The ceiling for a unit ("GFLOP/s" or "GB/s"), or why there is none."""
    if unit == "GB/s":
        source = torch.zeros(COPY, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        return Ceiling("copy", unit, 2 * COPY, lambda: target.copy_(source))
    if device == "cuda":
        a = torch.randn(8192, 8192, device=device).to(dtype)
        return Ceiling("matmul", unit, 2 * 8192**3, lambda: a @ a)
    return _fma(str(dtype).removeprefix("torch."))


def _fma(dtype: str) -> Ceiling | str:
    reason = native.why_missing()
    if reason is not None:
        return f"no FMA loop: {reason}"
    loop = getattr(torch.ops.pkernels_native, "fma_peak", None)
    if loop is None:
        return "no FMA loop: this build has no torch.ops.pkernels_native.fma_peak"
    rounds = 1000
    while True:
        start = time.perf_counter()
        work = loop(dtype, rounds)
        # Long enough to drown the start of the threads, short enough to take turns.
        if time.perf_counter() - start > 0.01:
            return Ceiling("fma peak", "GFLOP/s", float(work), functools.partial(loop, dtype, rounds))
        rounds *= 4
