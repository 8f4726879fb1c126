"""Bank conflicts of each kernel of the static table, seen in its first CTA: ``python -m tests.gpu.banks`` writes
what ``benchmarks.static.banks`` reads."""

from __future__ import annotations

import itertools
import re
from typing import Any

from benchmarks.static import banks, extension, shipped, table

from . import nvcc
from .ptx import Report
from .ptx.triton import launch as emulate

CHIPS = ("sm_80", "sm_90")
"""Whose code the emulator runs: not tcgen05."""
ROWS = 192


def conflicts(report: Report) -> float:
    """Of the worst instruction; see :func:`benchmarks.static.banks.load`."""
    return round(max(report.conflicts_in_loops.values(), default=1) - 1, 2)


def of_triton(name: str, dtype: str, width: int, chip: str) -> float:
    """Of a Triton kernel, such as "blocks_dq", "bf16" or "f32", at a head dimension: of the launch that the table
    counts."""
    report = emulate(shipped.launched(chip, name, table.BYTES[dtype], width)[0], chip, grid=(1,))
    assert any(re.match("mma|wgmma", opcode) for opcode in report.executed), "it met no tile"
    return conflicts(report)


def of_cuda(wanted: str = extension.TABLED) -> dict[str, float]:
    """Of the kernels of ``csrc/cuda`` in whose names ``wanted`` is found, the worst of the launches of each. All chips
    take their code from the PTX that is run."""
    found: dict[str, float] = {}

    def note(operator: str, *arguments: Any) -> None:
        launch = nvcc.launched(operator, *arguments)
        if re.search(wanted, launch.kernel) and launch.ctas:
            found[launch.kernel] = max(found.get(launch.kernel, 0), conflicts(launch.run(ctas=1)))

    extension.reach(note, ROWS)
    return found


def main() -> None:
    found: dict[str, dict[str, float]] = {}
    for name, worst in of_cuda().items():
        found[f"cuda {name}"] = {chip: worst for chip in table.TARGETS if name in extension.tabled(chip)}
    for chip in CHIPS:
        for name in table.TRITON:
            for dtype, width in itertools.product(table.BYTES, table.WIDTHS):
                found.setdefault(f"triton {name}_{dtype}_{width}", {})[chip] = of_triton(name, dtype, width, chip)
    banks.write(found)


if __name__ == "__main__":
    main()
