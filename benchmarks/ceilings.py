"""What the machine can do at best, measured beside every case.

Arithmetic: on the CPU a loop of fused multiply-adds on registers, in C++, on all threads;
on CUDA a large matrix product. Memory: a copy of 256 MiB, whose bytes count twice (read and
written).
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from pkernels import native

from .timing import Times

COPY = 256 * 2**20
LOOP = 0.01
"""Seconds of one loop of multiply-adds: long beside the start of threads, short as a turn."""


@dataclass(frozen=True)
class Ceiling:
    """A run that takes its turn, and the work it does, in operations or bytes.

    A run that measures itself returns its rate and has no ``work``.
    """

    name: str
    unit: str
    work: float | None
    run: Callable[[], object]
    rates: list[float] = field(default_factory=list)

    def turn(self) -> None:
        """Run once."""
        result = self.run()
        if isinstance(result, float):
            self.rates.append(result)

    def rate(self, times: Times) -> float:
        """Operations or bytes a second: of the last turns, as many as were timed."""
        if self.work is None:
            return statistics.median(self.rates[-times.samples :])
        return self.work / times.median


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
    return _multiply_adds(dtype)


def _multiply_adds(dtype: torch.dtype) -> Ceiling | str:
    reason = native.why_missing()
    if reason is not None:
        return f"no loop of multiply-adds: {reason}"
    # Other kernels than those for pairs multiply 16-bit types in float32.
    pairs = dtype == torch.bfloat16 and native.instruction_set() == "avx512bf16"
    return Ceiling("fma peak", "GFLOP/s", None, lambda: torch.ops.pkernels_native.peak_rate(LOOP, pairs))
