"""Every shipped configuration of the Triton kernels, compiled for the GPUs it is shipped for; of those with a bias
or dropout and of the passes for infinities, for some of these GPUs.

The launches are those that the library makes of a forward and backward, causal ones of a Band
and of Buckets; nothing runs.
Asserted of each binary: shared memory within the chip's limit, tensor-core instructions, no
spill in the main loop, and wgmma and tcgen05 wherever the tile is tall enough for them.
"""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from benchmarks.static.launches import TARGETS, Launch, compiled, flaws, launches
from benchmarks.static.shipped import BIASES, DTYPES, PASSES, ROWS, launched, launched_by, rows_of_table
from pkernels.recurrence import Recurrence
from pkernels.triton import lstm, order, tiles

CONFIGS = [(family, *row) for family in tiles.FAMILIES for row in rows_of_table(family)]


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


# The chip with the least shared memory, and what takes most of it; test_ptx runs them for others.
@pytest.mark.parametrize(
    ("family", "kernel", "itemsize", "width"), [c for c in CONFIGS if c[0] == "gfx942" and c[2] == 4]
)
def test_kernel_for_infinities(family: str, kernel: str, itemsize: int, width: int) -> None:
    """It runs only on what the main kernel left in doubt, so it may be slow, but it must fit."""
    for launch in launched(family, kernel, itemsize, width)[1:]:
        assert compiled(launch, family).shared <= TARGETS[family].shared


def assert_fit(made: list[Launch], family: str, shape: str = "", *others: str) -> None:
    """All that multiply, but those for infinities: the passes over a shape and the others that are named."""
    made = [launch for launch in made if "PRECISION" in launch.options and not launch.options.get("CAREFUL")]
    passes = [f"{shape}_{name}" if shape else name for name in PASSES]
    assert {launch.name for launch in made} == {f"{name}_kernel" for name in (*passes, *others)}
    for launch in made:
        exact = launch.options["PRECISION"] == "ieee" and family != "gfx942"
        assert flaws(compiled(launch, family), tensor=not exact) == [], launch.name


@pytest.mark.parametrize(
    ("shape", "bias", "itemsize", "family"),
    [
        *itertools.product([""], BIASES, [2], tiles.FAMILIES),
        ("", "distance", 4, "sm_80"),
        *itertools.product(["blocks"], BIASES, [2], ["sm_80"]),
    ],
)
@pytest.mark.parametrize("width", [64, 128])
def test_with_a_bias(shape: str, bias: str, itemsize: int, width: int, family: str) -> None:
    """What adds it; the kernels of its gradient are among the main ones."""
    assert_fit(launched_by(shape, family, itemsize, width, **{bias: torch.zeros(BIASES[bias])}), family, shape)


@pytest.mark.parametrize(
    ("shape", "itemsize", "family"),
    [*itertools.product([""], [2], tiles.FAMILIES), ("", 4, "sm_80"), ("buckets", 2, "sm_80")],
)
@pytest.mark.parametrize("width", [64, 128])
def test_with_dropout(shape: str, itemsize: int, width: int, family: str) -> None:
    seed = torch.zeros(1, dtype=torch.int64)
    assert_fit(launched_by(shape, family, itemsize, width, dropout=0.1, seed=seed), family, shape)


@pytest.mark.parametrize(
    ("shape", "family"),
    [("", "sm_80"), ("", "sm_90"), ("", "gfx942"), ("blocks", "sm_80")],
)
@pytest.mark.parametrize(("itemsize", "width"), [key[1:] for key in tiles.TABLE if key[0] == "relative"])
def test_relative(family: str, shape: str, itemsize: int, width: int) -> None:
    query = torch.zeros(2, 4, ROWS, width, dtype=DTYPES[itemsize])
    table = torch.zeros(4, 2 * ROWS - 1, width, dtype=DTYPES[itemsize])
    made = launched_by(shape, family, itemsize, width, query=query, table=table, query_grad=True, table_grad=True)
    assert_fit(made, family, shape, "query", "table")


@pytest.mark.parametrize("family", tiles.FAMILIES)
@pytest.mark.parametrize("width", [64, 128])
def test_hashing(family: str, width: int) -> None:
    x, rotations = torch.zeros(2, 4, ROWS, width), torch.zeros(4, width, 2, 32)
    with launches() as made:
        order.order(x, rotations, None, [64], ROWS)
    binary = compiled(made[0], family)
    # Its products are of fp32 as it is, on the tensor cores of AMD's chips alone.
    assert flaws(binary, tensor=family == "gfx942") == [], binary.reading
    assert not binary.reading.spills


@pytest.mark.parametrize("family", tiles.FAMILIES)
def test_the_lstms_cells(family: str) -> None:
    """No products there, so neither tensor cores nor loops: what is left is that all fits."""
    batch, steps, width, cells = 3, 2, 64, 512
    x, recurrent = torch.zeros(batch, steps, 4 * cells), torch.zeros(4 * cells, width)
    h, c, projection = torch.zeros(batch, width), torch.zeros(batch, cells), torch.zeros(width, cells)
    call = Recurrence(None, 3.0, None, True)
    with launches() as made:
        out, *_, gates, memory = lstm.forward(x, recurrent, projection, h, c, call, True)
        lstm.backward(out, h, c, recurrent, projection, c, out, gates, memory, call)
    names = ["cell_kernel", "state_kernel"] * steps + ["dstate_kernel", "dcell_kernel"] * steps
    assert [launch.name for launch in made] == names
    for launch in (made[0], made[-1]):
        binary = compiled(launch, family)
        assert not binary.reading.spills and binary.shared <= TARGETS[family].shared
        assert 0 < binary.reading.registers <= 64
