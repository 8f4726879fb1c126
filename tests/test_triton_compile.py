"""Every shipped configuration of the Triton kernels, compiled for the GPUs it is shipped for.

The launches are those that the library makes of a causal forward and backward; nothing runs.
Asserted of each binary: shared memory within the chip's limit, tensor-core instructions, no
spill in the main loop, and wgmma and tcgen05 wherever the tile is tall enough for them.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from pkernels import Band
from pkernels.problem import Problem
from pkernels.triton import band, tune
from tests.gpu.compile import TARGETS, Launch, compiled, flaws, launches

DTYPES = {2: torch.bfloat16, 4: torch.float32}
CONFIGS = [(family, *key) for family in tune.FAMILIES for key in tune._TABLE | tune._OVERRIDES[family]]
ROWS, FAR = 512, 2**30


@functools.cache
def launched(family: str, kernel: str, itemsize: int, width: int) -> list[Launch]:
    """The launches of a kernel, e.g. "dq": the usual one, and that for rows which hold infinities."""
    q, k, v, dout = (torch.zeros(2, 4, ROWS, width, dtype=DTYPES[itemsize]) for _ in range(4))
    lse = torch.zeros(2, 4, ROWS)
    values = {"distance": torch.zeros(4, 2 * ROWS - 1), "dense": torch.zeros(1, 4, ROWS, ROWS)}
    bias: dict[str, Any] = {kernel: values[kernel], f"{kernel}_grad": True} if kernel in values else {}
    problem = Problem(Band(FAR, 0), width**-0.5, zero=ROWS - 1, **bias)
    with tune.using(family=family), launches() as made:
        band.forward(q, k, v, problem)
        band.backward(dout, None, q, k, v, q, lse, problem)
    return [launch for launch in made if launch.name == f"{kernel}_kernel"]


@pytest.mark.parametrize(("family", "kernel", "itemsize", "width"), CONFIGS)
def test_main_kernel(family: str, kernel: str, itemsize: int, width: int) -> None:
    launch = launched(family, kernel, itemsize, width)[0]
    binary = compiled(launch, family)
    # NVIDIA's tensor cores have no product of fp32 as it is; AMD's have.
    exact = launch.options["PRECISION"] == "ieee" and family != "gfx942"
    found = flaws(binary, tensor=not exact)
    assert found == [], f"{binary.reading.registers} registers, {binary.shared} bytes of shared memory"
    if family in ("sm_90", "sm_100") and itemsize == 2:
        # Products of wgmma and tcgen05 have 64 rows at least; shorter tiles go through mma.sync.
        newest, tensor = TARGETS[family].products[0], binary.reading.tensor
        assert (newest in tensor) == (launch.options["OWN"] >= 64), tensor


@pytest.mark.parametrize(("family", "kernel", "itemsize", "width"), CONFIGS)
def test_kernel_for_infinities(family: str, kernel: str, itemsize: int, width: int) -> None:
    """It runs only on what the main kernel left in doubt, so it may be slow, but it must fit."""
    for launch in launched(family, kernel, itemsize, width)[1:]:
        assert compiled(launch, family).shared <= TARGETS[family].shared
