"""The bank conflicts of the table's kernels, as the tests' emulator saw them: a committed file, a kernel a line.

``python -m tests.gpu.banks`` writes it, a test compares it with what the emulator sees now.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).with_name("banks.json")


def load() -> dict[str, dict[str, float]]:
    """By kernel and chip: how many times longer than without conflicts the shared memory takes at that instruction of
    its loops where this is worst, less one; 0 if there are none. Chips whose code the emulator does not run are left
    out."""
    return json.loads(FILE.read_text())


def write(found: dict[str, dict[str, float]]) -> None:
    lines = ",\n".join(f"{json.dumps(kernel)}: {json.dumps(found[kernel])}" for kernel in sorted(found))
    FILE.write_text(f"{{\n{lines}\n}}\n")
