"""Bank conflicts: what the emulator sees now, against the committed table, in which there are none.

Every kernel of ``csrc/cuda`` runs in the tests of that backend, which allow none either; here are only some.
If a kernel was changed on purpose, ``python -m tests.gpu.banks`` writes the table again.
"""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this platform, and brings the disassembler")
pytest.importorskip("rich", reason="the suite prints with rich")

from benchmarks.static import banks, table
from pkernels import cuda
from tests.gpu import banks as measured
from tests.test_static import ROWS, parts_of, same_compiler

FOUND = banks.load()
TRITON = [
    (kernel, chip)
    for kernel in FOUND
    for chip in measured.CHIPS
    if kernel.startswith("triton ") and (chip == "sm_80" or "_bf16_" in kernel)
]


def test_every_kernel_of_the_table_was_seen_but_those_of_tcgen05() -> None:
    seen = {(kernel, chip) for kernel, chips in FOUND.items() for chip in chips}
    assert seen == {(kernel, chip) for kernel, chip in ROWS if kernel.startswith("cuda ") or chip in measured.CHIPS}


def test_there_are_no_conflicts() -> None:
    assert {kernel: chips for kernel, chips in FOUND.items() if any(chips.values())} == {}


@pytest.mark.parametrize(("kernel", "chip"), TRITON)
def test_triton_kernels_are_those_of_the_table(kernel: str, chip: str) -> None:
    same_compiler("triton")
    assert measured.of_triton(*parts_of(kernel), chip) == FOUND[kernel][chip]


def test_cuda_kernels_are_those_of_the_table() -> None:
    if cuda.why_missing() is not None:
        pytest.skip(str(cuda.why_missing()))
    found = measured.of_cuda(r"_bf16_64_none$|_rows$")
    assert len(found) == 3 * 3 + 1 + 2
    for kernel, worst in found.items():
        assert set(FOUND[f"cuda {kernel}"].values()) == {worst}, kernel
    assert set(table.TARGETS) == set(FOUND["cuda dq_bf16_64_none"])
