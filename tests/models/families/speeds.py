"""How much faster a family is than its peer, by the files of ``benchmarks/results``."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from benchmarks.rows import RESULTS, Row, measured, read

FAMILIES = ("encoders", "long text")
"""Of the benchmarks: whole models beside another's."""


@dataclass(frozen=True)
class Speed:
    """How many times as fast, forward and in a training step, and where."""

    forward: float
    both: float
    model: str
    length: int
    machine: str
    date: str


@functools.cache
def machines() -> dict[str, str]:
    """File -> the machine that its newest row of a model names."""
    return {name: _machine(found[-1]) for name, found in _rows().items() if found}


@functools.cache
def _rows() -> dict[str, list[Row]]:
    """By the files' names, those of models that are not the first contender. Runs of one's own, which are named by
    their time and stay out of the repository, change no README."""
    return {
        path.stem: [row for row in measured(read(path)) if row["family"] in FAMILIES and row.get("ratio", 1) != 1]
        for path in sorted(RESULTS.glob("*.jsonl"))
        if not re.search(r"-\d{8}-\d{6}$", path.stem)
    }


def _machine(row: Row) -> str:
    facts = row["machine"]
    chip = facts["gpu"] or f"{facts['cpu']} ({facts['isa']}), {row['threads']} threads"
    versions = ", ".join(f"{name} {row['versions'][name]}" for name in ("torch", "transformers"))
    return f"{chip}, {versions}"


def longest(name: str) -> Speed | None:
    """Of the models whose name begins with ``name``, the one over the longest text, of those the deepest, for
    which both directions were measured; the newest, if it was measured more than once."""
    found: dict[tuple[str, str, int], dict[str, Row]] = {}
    for machine, rows in _rows().items():
        for row in rows:
            if name and row["model"].startswith(name):
                found.setdefault((machine, row["model"], row["x"]), {})[row["direction"]] = row
    speeds = [
        Speed(both["forward"]["ratio"], both["both"]["ratio"], model, length, machine, both["both"]["date"])
        for (machine, model, length), both in found.items()
        if len(both) == 2
    ]
    return max(speeds, key=lambda speed: (speed.length, _layers(speed.model), speed.date), default=None)


def _layers(model: str) -> int:
    return int(model.rsplit(", ", 1)[-1].split()[0])
