"""The kernels of ``csrc/cuda`` as the built extension holds them: their machine code, and how each is launched.

Nothing here lists them: their names are those in the binary, and C++ itself says how it would launch one, in
answer to calls of every dtype, head dimension, pattern and bias that the backend takes. Only ``TABLED`` ones
have rows, in bf16 and f32: those of f16 differ from those of bf16 by their opcodes.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pkernels import Band, Blocks, Buckets, Dense, Distance, Relative, attention, cuda
from pkernels.bias import Bias
from pkernels.cuda import call, hopper, order
from pkernels.ops import backends

from .listing import Code, Usage, sass, tool, usage

ROWS, CHUNK = 768, 64  # a multiple of every tile
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
TABLED = r"_(?:bf16|f32)(?:_|$)|_rows$"
"""Names of the kernels of which the table has rows."""


@dataclass(frozen=True)
class Shape:
    """What a kernel is launched with: warps and dynamic shared memory of a block, rows of the tile it owns."""

    warps: int
    shared: int
    own: int


def binary() -> Path:
    """The path of the extension."""
    return Path(str(importlib.import_module("pkernels._C_cuda").__file__))


def compiler() -> str:
    """The compiler's version, as it notes it in what it makes."""
    noted = (re.search(rb"Cuda compilation tools, release [\d.]+, V([\d.]+)", x) for x in _cubins(chips()[0]))
    return next((m[1].decode() for m in noted if m), "unknown")


def chips() -> list[str]:
    """The chips that it was compiled for: "sm_80", ..."""
    return sorted({f"sm_{arch}" for arch in cuda.archs()}, key=lambda chip: int(chip[3:]))


@functools.cache
def usages(chip: str) -> dict[str, Usage]:
    """What every kernel for a chip takes, by name."""
    return {name: taken for cubin in _cubins(chip) for name, taken in usage(cubin).items()}


def tabled(chip: str) -> list[str]:
    """Names of the kernels for a chip of which the table has rows."""
    return sorted(name for name in usages(chip) if re.search(TABLED, name))


@functools.cache
def codes(chip: str, wanted: str = TABLED) -> dict[str, Code]:
    """The machine code for a chip of the kernels in whose names ``wanted`` is found, by name."""
    return {name: code for cubin in _cubins(chip) for name, code in sass(cubin, wanted).items()}


@functools.cache
def shapes() -> dict[str, Shape]:
    """How each kernel is launched, by name.

    Raises:
        LookupError: If no call here reaches a kernel that is there.
    """
    found: dict[str, Shape] = {}

    def note(name: str, *arguments: Any) -> None:
        said = getattr(cuda.operators(), name)(*arguments, torch.zeros(4096, dtype=torch.uint8))
        kernel, blocks, threads, shared = said.split()
        found[kernel] = Shape(int(threads) // 32, int(shared), -(-ROWS // int(blocks)))

    reach(note, ROWS)
    missing = {name for chip in chips() for name in usages(chip)} - set(found)
    if missing:
        raise LookupError(f"no call here reaches {', '.join(sorted(missing))}: add one to {__file__}")
    return found


def reach(note: Callable[..., None], rows: int) -> None:
    """Call the backend so that it launches each of its kernels; instead ``note(operator, *arguments)`` is called.

    ``rows`` of a sequence: a multiple of every tile.
    """
    with mock.patch.object(call, "launch", note), mock.patch.object(backends, "_why_not_nvidia", return_value=None):
        for x, pattern, bias in _calls(rows):
            try:
                out, _ = attention(x, x, x, pattern, bias, return_lse=True, backend="cuda")
            except NotImplementedError:
                continue
            out.backward(torch.ones_like(out))
        for dtype in DTYPES:
            parts, merged = torch.zeros(2, 1, 1, rows, 64), torch.zeros(1, 1, rows, 64, dtype=dtype)
            call.launch("merge_parts", parts, parts[..., 0].clone(), merged, torch.zeros(1, 1, rows))
        order.order(torch.zeros(1, 1, rows, 64), torch.zeros(1, 64, 1, 2), None, [4], rows)
        with mock.patch.object(hopper, "capability", return_value=(9, 0)):
            for dtype, width in itertools.product((torch.bfloat16, torch.float16), (64, 128)):
                x = torch.zeros(1, 1, rows, width, dtype=dtype)
                attention(x, x, x, backend="cuda")


def _calls(rows: int) -> Iterator[tuple[torch.Tensor, Any, Bias | None]]:
    """One head of one sequence each, so that a block is a tile."""
    entries = torch.arange(rows, dtype=torch.int32).expand(1, 1, 1, rows)
    near = torch.eye(rows // CHUNK).bool()
    patterns = (Band(right=0), Blocks.from_mask(near, CHUNK), Buckets(entries, CHUNK, before=1, causal=True))
    for dtype in DTYPES:
        for width in (64, 128, 256):
            x = torch.zeros(1, 1, rows, width, dtype=dtype, requires_grad=True)
            distance, dense = torch.zeros(1, 2 * rows - 1), torch.zeros(1, 1, rows, rows, dtype=dtype)
            table = torch.zeros(1, 2 * rows - 1, width, dtype=dtype)
            for pattern in patterns:
                yield x, pattern, None
                for learned in () if isinstance(pattern, Buckets) else (False, True):
                    yield x, pattern, Distance(distance.clone().requires_grad_(learned))
                    yield x, pattern, Dense(dense.clone().requires_grad_(learned))
                    yield x, pattern, Relative(x, table.clone().requires_grad_(learned))


def _cubins(chip: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        for code in (chip, *(["sm_90a"] if chip == "sm_90" else [])):  # what runs on no other chip
            tool("cuobjdump", "-xelf", f"{code}.cubin", binary(), cwd=Path(folder))
        return [file.read_bytes() for file in sorted(Path(folder).glob("*.cubin"))]
