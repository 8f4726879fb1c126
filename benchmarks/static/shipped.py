"""The configurations of the Triton kernels that are shipped, as the launches that the library makes."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import torch

from pkernels import Band, Blocks, Buckets
from pkernels.problem import Problem
from pkernels.triton import band, blocks, buckets, tiles, tune

from .launches import Launch, launches

DTYPES = {2: torch.bfloat16, 4: torch.float32}
PASSES = ("forward", "dq", "dkv")
KERNELS = (*PASSES, "distance", "dense", *(f"{shape}_{name}" for shape in ("blocks", "buckets") for name in PASSES))
ROWS, FAR, CHUNK = 512, 2**30, 64


def rows_of_table(family: str) -> list[tuple[str, int, int]]:
    """(kernel, itemsize, width) of every kernel at every width of the table that it may be given."""
    table = tiles.TABLE | tiles.OVERRIDES[family]
    keys = {(kernel, key) for kernel in KERNELS for key in table if key[0] in tune.names(kernel)}
    return sorted({(kernel, itemsize, width) for kernel, (_, itemsize, width) in keys})


def launched_by(shape: str, family: str, itemsize: int, width: int, **more: Any) -> list[Launch]:
    """The launches of a forward and backward, causal ones of a Band and of Buckets.

    Args:
        shape: "", "blocks" or "buckets".
        more: What the problem has besides.
    """
    module, pattern = _pattern(shape)
    q, k, v, dout = (torch.zeros(2, 4, ROWS, width, dtype=DTYPES[itemsize]) for _ in range(4))
    problem = Problem(pattern, width**-0.5, zero=ROWS - 1, **more)
    with tune.using(family=family), launches() as made:
        module.forward(q, k, v, problem)
        module.backward(dout, None, q, k, v, q, torch.zeros(2, 4, ROWS), problem)
    return made


def _pattern(shape: str) -> tuple[ModuleType, Any]:
    if shape == "blocks":
        return blocks, Blocks.from_mask(torch.eye(ROWS // CHUNK).bool(), CHUNK)
    if shape == "buckets":
        entries = torch.arange(ROWS, dtype=torch.int32).expand(2, 4, 2, ROWS)
        return buckets, Buckets(entries, CHUNK, before=1, causal=True, own=-1e5)
    return band, Band(FAR, 0)


BIASES = {"distance": (4, 2 * ROWS - 1), "dense": (1, 4, ROWS, ROWS)}
"""Shapes of the values of biases."""


@functools.cache
def launched(family: str, kernel: str, itemsize: int, width: int) -> list[Launch]:
    """The launches of a kernel, e.g. "dq": the usual one, and that for rows which hold infinities."""
    shape = kernel.split("_")[0] if "_" in kernel else ""
    bias: dict[str, Any] = {kernel: torch.zeros(BIASES[kernel]), f"{kernel}_grad": True} if kernel in BIASES else {}
    made = launched_by(shape, family, itemsize, width, **bias)
    return [launch for launch in made if launch.name == f"{kernel}_kernel"]
