"""Cases one after another: how long each may take, progress, rows into a file, a table after each family."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import rows, table
from .case import Case
from .decoding import Decoding
from .sides import Long


class Measurer(Protocol):
    """Makes rows of cases."""

    def run(self, case: Any, seconds: float) -> list[rows.Row]:
        """Of one, spending about ``seconds``."""

    def late(self, case: Any) -> list[rows.Row]:
        """Of one for which no time was left."""


@dataclass(frozen=True)
class Pace:
    """No case starts after ``end`` (of ``time.perf_counter``), and none takes more than ``most`` seconds."""

    most: float
    end: float = math.inf

    def share(self, cases: int, now: float) -> float:
        """Seconds for the next of so many cases; 0 if it comes too late. Half of the time goes to
        checks and first calls.

        Example:
            >>> pace = Pace(most=2.0, end=100.0)
            >>> pace.share(5, now=0.0), pace.share(40, now=60.0), pace.share(3, now=101.0)
            (2.0, 0.5, 0.0)
        """
        return max(0.0, min(self.most, (self.end - now) / cases / 2))


def progress(console: Console) -> Progress:
    """How far a run is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def measure(
    chosen: Sequence[Case | Long | Decoding], runner: Measurer, pace: Pace, out: Path, console: Console
) -> list[rows.Row]:
    """Run cases, append their rows to a file and show them."""
    found: list[rows.Row] = []
    with progress(console) as bar:
        task = bar.add_task("", total=len(chosen))
        for index, case in enumerate(chosen):
            bar.update(task, description=case.title)
            if not console.is_terminal:
                console.print(f"[{index + 1}/{len(chosen)}] {case.title}", markup=False)
            seconds = pace.share(len(chosen) - index, time.perf_counter())
            new = runner.run(case, seconds) if seconds else runner.late(case)
            rows.append(out, new)
            found += new
            bar.advance(task)
            if index + 1 == len(chosen) or chosen[index + 1].family != case.family:
                table.show(bar.console, [row for row in found if row["family"] == case.family])
    return found
