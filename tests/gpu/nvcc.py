"""The kernels of ``csrc/cuda`` as the built extension holds them: their PTX, and their machine code.

:func:`emulated` runs calls of the ``cuda`` backend on CPU tensors: C++ says what it would launch, and
the emulator runs the PTX of that kernel.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from pkernels import cuda
from pkernels.cuda import call
from pkernels.ops import backends

from .ptx import Report, run
from .ptx.launch import Record
from .static import TOOLS


def binary() -> str:
    """The path of the extension."""
    from pkernels import _C_cuda

    return _C_cuda.__file__


def tool(name: str, *arguments: str) -> str:
    """What a tool of Triton's wheel prints."""
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


@functools.cache
def kernels() -> dict[str, str]:
    """The PTX of each kernel, by name, each a module of its own."""
    found = {}
    for module in tool("cuobjdump", "-ptx", binary()).split(".version ")[1:]:
        head, *entries = re.split(r"^(?=\.visible \.entry )", module, flags=re.M)
        for entry in entries:
            found[re.search(r"\.entry (\w+)", entry)[1]] = f".version {head}{entry}"  # type: ignore[index]
    return found


@contextmanager
def emulated(seed: int | None = None, **changes: Any) -> Iterator[list[Report]]:
    """Inside, the ``cuda`` backend takes CPU tensors, and every launch runs on the emulator at once.

    Args:
        seed: See :func:`tests.gpu.ptx.run`.
        changes: Kernels by name: other PTX in place of theirs, for mutants.

    Yields:
        The reports of the launches, growing.
    """
    reports: list[Report] = []

    def start(name: str, *arguments: Any) -> None:
        note = torch.zeros(4096, dtype=torch.uint8)
        kernel, grid, threads, shared = getattr(cuda.operators(), name)(*arguments, note).split()
        tensors = [x for x in arguments if isinstance(x, torch.Tensor)]
        ptx = changes.get(kernel) or kernels()[kernel]
        if int(grid):
            reports.append(run(ptx, (int(grid),), [Record(note, tensors)], int(shared), int(threads) // 32, seed=seed))

    with mock.patch.object(call, "launch", start), mock.patch.object(backends, "_why_not_here", lambda q: None):
        yield reports
