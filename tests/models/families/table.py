"""The README's section of families: made of what running them came to."""

from __future__ import annotations

import math
import re
from pathlib import Path

from .compare import worst
from .family import Family, Found
from .speeds import longest, machines

README = Path(__file__).resolve().parents[3] / "README.md"
_SECTION = re.compile(r"(<!-- families -->\n)(.*?)(<!-- /families -->)", re.DOTALL)

HEAD = (
    "| family | architecture and attention | pre-training | files; real weights | peer | error | times as fast | |",
    "|---|---|---|---|---|---|---|---|",
)


def below(error: float) -> str:
    """The next power of ten, from 1e-5 on: what lies under it depends on the machine."""
    if not math.isfinite(error):
        return str(error)
    return f"< 1e{max(-5, math.floor(math.log10(error)) + 1) if error > 0 else -5}"


def speed(family: Family) -> str:
    """Forward, and a training step."""
    found = longest(family.measured)
    if found is None:
        return "not measured"
    where = f"{found.model}, S={found.length:,}; {found.machine}"
    return f"{found.forward:.1f}x, {found.both:.1f}x ({where})"


def row(family: Family, found: Found) -> str:
    """A line of the table."""
    files = "; ".join([", ".join(family.files), *family.real])
    error = below(worst(vars(found.agreement).values()))
    outcome = "red: " + "; ".join(found.wrong) if found.wrong else "green"
    cells = (family.name, family.made_of, family.objective, files, family.peer, error, speed(family), outcome)
    return "| " + " | ".join(cells) + " |"


def legend() -> list[str]:
    """The machines."""
    return [f"{name} is {machine}." for name, machine in machines().items()]


def section() -> list[str]:
    """The lines of the README's section."""
    found = _SECTION.search(README.read_text(encoding="utf-8"))
    assert found, "README.md has no section between <!-- families --> and <!-- /families -->"
    return found[2].splitlines()


def write(rows: list[str]) -> None:
    """Put a table in its place."""
    text = README.read_text(encoding="utf-8")
    lines = "\n".join([*HEAD, *rows, "", " ".join(legend())])
    README.write_text(_SECTION.sub(lambda found: f"{found[1]}{lines}\n{found[3]}", text), encoding="utf-8")
