"""The kernels of ``csrc/cuda`` as the built extension holds them: their PTX, and what they take.

:func:`emulated` runs calls of the ``cuda`` backend on CPU tensors: C++ says what it would launch, and
the emulator runs the PTX of that kernel.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks.static.extension import binary
from benchmarks.static.listing import tool
from pkernels import cuda
from pkernels.cuda import call
from pkernels.ops import backends

from .ptx import Report, run
from .ptx.launch import Record


@functools.cache
def kernels() -> dict[str, str]:
    """The PTX of each kernel, by name, each a module of its own."""
    found = {}
    for module in tool("cuobjdump", "-ptx", binary()).split(".version ")[1:]:
        head, *entries = re.split(r"^(?=\.visible \.entry )", module, flags=re.M)
        for entry in entries:
            found[entry.split("(")[0].split()[-1]] = f".version {head}{entry}"
    return found


@dataclass(frozen=True)
class Usage:
    """What a kernel takes on a chip: registers of a thread, bytes of local memory (spills) and of
    static shared memory."""

    registers: int
    local: int
    shared: int


@functools.cache
def usages() -> dict[tuple[str, str], Usage]:
    """By chip ("sm_80") and kernel."""
    found, chip = {}, ""
    for line in tool("cuobjdump", "-res-usage", binary()).splitlines():
        if line.startswith("arch = "):
            chip = line.split()[-1].rstrip("a")
        elif m := re.match(r"\s*Function (\w+):", line):
            name = m[1]
        elif m := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            found[chip, name] = Usage(int(m[1]), int(m[2]) + int(m[4]), int(m[3]))
    return found


@dataclass(frozen=True)
class Launch:
    """What C++ says that it would launch."""

    kernel: str
    ctas: int
    warps: int
    shared: int
    record: Record

    def run(self, ctas: int | None = None, seed: int | None = None, mutants: Mapping[str, str] | None = None) -> Report:
        """All of it, or the first ``ctas``."""
        ptx = (kernels() | dict(mutants or {}))[self.kernel]
        return run(ptx, (ctas or self.ctas,), [self.record], self.shared, self.warps, seed=seed)


def launched(name: str, *arguments: Any) -> Launch:
    """Of an operator that is given these arguments."""
    note = torch.zeros(4096, dtype=torch.uint8)
    kernel, ctas, threads, shared = getattr(cuda.operators(), name)(*arguments, note).split()
    record = Record(note, [x for x in arguments if isinstance(x, torch.Tensor)])
    return Launch(kernel, int(ctas), int(threads) // 32, int(shared), record)


@contextmanager
def emulated(seed: int | None = None, mutants: Mapping[str, str] | None = None) -> Iterator[list[Report]]:
    """Inside, the ``cuda`` backend takes CPU tensors, and every launch runs on the emulator at once.

    Args:
        seed: See :func:`tests.gpu.ptx.run`.
        mutants: PTX in place of that of kernels, by name.

    Yields:
        The reports of the launches, growing.
    """
    reports: list[Report] = []

    def start(name: str, *arguments: Any) -> None:
        launch = launched(name, *arguments)
        if launch.ctas:
            reports.append(launch.run(seed=seed, mutants=mutants))

    with mock.patch.object(call, "launch", start), mock.patch.object(backends, "_why_not_nvidia", return_value=None):
        try:
            yield reports
        except pytest.skip.Exception as reason:  # a kernel that is refused would be one that nothing executes
            raise AssertionError(f"the emulator is given what the kernels do, not: {reason}") from reason
