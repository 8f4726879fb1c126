"""The whole suite, compute-sanitizer and the figures, within ten minutes, and one report of them."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from .. import cases, machine, rows
from ..case import Case
from ..measure import Pace, measure
from ..runner import Runner
from . import commands
from .budget import Stage, spend
from .predictions import estimates, lines

MOST = 6.0
"""Seconds of a case, checks and first calls aside."""


def why_not() -> str | None:
    """Why there can be no such day here, or None."""
    if torch.version.hip is not None:
        return "an NVIDIA GPU is needed, this torch is for AMD's"
    if not torch.cuda.is_available():
        return "an NVIDIA GPU is needed, torch.cuda.is_available() is False"
    capability = torch.cuda.get_device_capability()
    return (
        None
        if capability >= (8, 0)
        else f"an sm_80 or newer is needed, this GPU is an sm_{capability[0]}{capability[1]}"
    )


class Unstoppable(Runner):
    """A kernel of ours that breaks ends its case, and is written down."""

    def run(self, case: Case, seconds: float) -> list[rows.Row]:
        """Rows of a case."""
        try:
            return super().run(case, seconds)
        except Exception as error:
            text = f"wrong: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"
            verdict = {"passed": False, "worst": None, "where": text}
            broken = [self._row_of(case, entry.name, d, text) for entry in case.entries for d in case.directions]
            return [{**row, "checked": verdict} for row in broken]

    def _row_of(self, case: Case, name: str, direction: str, text: str) -> rows.Row:
        return self._bare(case, name, direction, skip=text)


@dataclass
class Day:
    """What is run, where it is written, and what was found.

    Attributes:
        out: A folder: results.jsonl, report.md, and what each command printed.
        device: "cuda"; tests of this class say "cpu".
        chosen: The cases that are measured.
    """

    out: Path
    console: Console
    device: str = "cuda"
    chosen: Sequence[Case] = field(default_factory=cases.gpu)
    found: list[rows.Row] = field(default_factory=list)

    def stages(self) -> list[Stage]:
        """In the order of what they are worth if the machine goes away. The CUDA kernels, which no GPU may have
        seen yet, are tested by themselves: after an illegal access a process has no GPU any more."""
        cuda = "tests/test_cuda_on_gpu.py"
        return [
            Stage("operators on the GPU", 0.2, self._tests("-m", "on_gpu", f"--ignore={cuda}", "tests")),
            Stage("CUDA kernels on the GPU", 0.08, self._tests(cuda)),
            Stage("compute-sanitizer", 0.12, self._sanitizer),
            Stage("figures", 0.4, self._figures),
            Stage("all other tests", 0.2, self._tests("-m", "not on_gpu", f"--ignore={cuda}", "tests")),
        ]

    def run(self, minutes: float) -> int:
        """Spend the minutes; returns the exit status."""
        self.out.mkdir(parents=True, exist_ok=True)
        facts = machine.facts(self.device)
        self.console.print(machine.line(facts))
        announced = [Stage(s.name, s.share, functools.partial(self._announce, s)) for s in self.stages()]
        said = spend(announced, 60 * minutes, time.perf_counter)
        report = self.out / "report.md"
        report.write_text("\n".join(self.report(machine.line(facts), said)) + "\n")
        self.console.print(f"{len(rows.measured(self.found))} measurements and the report are in {self.out}")
        return int(any(text.startswith("failed") for text in said.values()))

    def _announce(self, stage: Stage, seconds: float) -> str:
        self.console.print(f"{stage.name}: {seconds:.0f} s at most", markup=False)
        text = stage.run(seconds)
        self.console.print(f"{stage.name}: {text}", markup=False)
        return text

    def _tests(self, *arguments: str) -> Callable[[float], str]:
        workers = min(8, os.cpu_count() or 1)  # each has a context of its own on the GPU
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(workers), *arguments]

        def run(seconds: float) -> str:
            log = self._log("-".join(word for word in arguments if not word.startswith("-")))
            status = commands.run(command, seconds, log, {"OMP_NUM_THREADS": "1"})
            return commands.tests_said(status, log.read_text(errors="replace"), seconds)

        return run

    def _sanitizer(self, seconds: float) -> str:
        tool = commands.sanitizer(os.environ)
        if tool is None:
            return "skipped: compute-sanitizer was not found (PATH, CUDA_HOME, /usr/local/cuda*)"
        log = self._log(commands.SANITIZER)
        command = [
            str(tool),
            "--tool",
            "memcheck",
            "--error-exitcode",
            str(commands.WRONG),
            "--target-processes",
            "all",
        ]
        command += [sys.executable, "-m", "benchmarks.gpu.small"]
        # Without torch's cache every tensor ends where its memory does.
        status = commands.run(command, seconds, log, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        return commands.sanitizer_said(status, log.read_text(errors="replace"), seconds)

    def _figures(self, seconds: float) -> str:
        runner = Unstoppable(self.device, machine.facts(self.device))
        pace = Pace(most=MOST, end=time.perf_counter() + seconds)
        self.found += measure(self.chosen, runner, pace, self.out / "results.jsonl", self.console)
        done = {(row["family"], row["case"]) for row in rows.measured(self.found)}
        red = {(row["family"], row["case"]) for row in self.found if not row.get("checked", {"passed": True})["passed"]}
        text = f"{len(done)} of {len(self.chosen)} cases were measured, {len(red)} are wrong"
        return f"{'failed' if red or not done else 'passed'}: {text}"

    def _log(self, name: str) -> Path:
        return self.out / f"{name.replace('/', '-').replace(' ', '-')}.log"

    def report(self, line: str, said: dict[str, str]) -> list[str]:
        """In Markdown: how each stage went, what others take, and what was expected."""
        text = ["# A day on a GPU", "", line, "", *(f"- {name}: {outcome}" for name, outcome in said.items())]
        others = [
            f"| {row['family']}: {row['case']} | {row['direction']} | {row['contender']} | {row['ratio']:.2f} |"
            for row in rows.measured(self.found)
            if row.get("ratio") not in (None, 1)
        ]
        if others:
            text += [
                "",
                "## Time of others over pkernels'",
                "",
                "| case | direction | who | times |",
                "|---|---|---|---|",
            ]
        chip = "sm_{}{}".format(*torch.cuda.get_device_capability()) if self.device == "cuda" else "cpu"
        text += others
        if expected := lines(self.found, estimates(chip)):
            text += [
                "",
                "## Expected and measured",
                "",
                "Shares of the tensor cores' best, where the measured ones are of",
            ]
            text += ["a matrix product's rate; the expected ones know no launch and no memory.", "", *expected]
        reasons = dict.fromkeys(f"{row['contender']}: {row['skip']}" for row in self.found if row.get("skip"))
        return [*text, "", "## Not run", "", *(f"- {reason}" for reason in reasons)] if reasons else text
