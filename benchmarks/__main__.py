"""The command line: ``python -m benchmarks run | gpu | train | distill | digits | static | plot | compare``."""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from . import (
    cases,
    compare,
    decoding,
    digits,
    distill,
    lessons,
    long,
    machine,
    memory,
    plot,
    rows,
    table,
    text,
    training,
)
from .gpu import day as gpu_day
from .measure import Pace, measure, progress
from .models import LEARNERS
from .runner import Runner

QUICK_SECONDS = 150.0
"""A slow or busy machine leaves out what it does not reach in this time, and says so."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = "run | gpu | train | distill | digits | static | plot | compare"
    verbs = parser.add_subparsers(required=True, metavar=names)
    run = verbs.add_parser("run", help="check, measure, write JSON lines and print tables")
    run.add_argument("--full", action="store_true", help="all sizes, S from 128 to 65,536 (an hour or more)")
    run.add_argument("--only", default="*", metavar="PATTERN", help='cases such as "window*" or "*bfloat16*S=2048"')
    run.set_defaults(run=_run)
    day = verbs.add_parser("gpu", help="on an NVIDIA GPU: tests, compute-sanitizer and figures, in ten minutes")
    day.add_argument("--minutes", type=float, default=10.0, metavar="N", help="default: %(default)g")
    day.add_argument("--out", type=Path, metavar="FOLDER", help="results, a report, and what was printed")
    day.set_defaults(run=_gpu)
    train = verbs.add_parser("train", help="train a small model on real text, beside transformers' own")
    train.add_argument("model", nargs="?", choices=LEARNERS, default=next(iter(LEARNERS)), help="default: %(default)s")
    train.add_argument("--steps", type=int, default=500, metavar="N", help="default: %(default)s, about two minutes")
    train.set_defaults(run=_train)
    students = verbs.add_parser("distill", help="teach students of 3 layers what all-MiniLM-L6-v2 knows, on real text")
    students.add_argument("--steps", type=int, default=160, metavar="N", help="default: %(default)s, about ten minutes")
    students.set_defaults(run=_distill)
    images = verbs.add_parser("digits", help="train a small model of images on handwritten digits")
    images.add_argument("model", nargs="?", choices=digits.LEARNERS, default="vit", help="default: %(default)s")
    images.add_argument("--steps", type=int, default=1500, metavar="N", help="default: %(default)s, about a minute")
    images.set_defaults(run=_digits, device="cpu")
    for verb in (run, train, students):
        verb.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    for verb in (run, train, students, images):
        verb.add_argument("--out", type=Path, metavar="FILE", help="rows are appended here")
        verb.add_argument("--threads", type=int, metavar="N", help="torch's threads (default: as torch has it)")
    code = verbs.add_parser("static", help="what the machine code of the GPU kernels shows, without a GPU")
    code.add_argument("--only", default="", metavar="TEXT", help='part of their names, such as "triton dq"')
    code.add_argument("--update", action="store_true", help="compile all again and write the table (minutes)")
    code.set_defaults(run=_static)
    draw = verbs.add_parser("plot", help="draw one figure per family")
    draw.add_argument("results", type=Path, nargs="*", help="result files (default: the newest)")
    draw.add_argument("--out", type=Path, metavar="FOLDER", help="folder of the figures (default: beside the results)")
    draw.set_defaults(run=_plot)
    both = verbs.add_parser("compare", help="ratios of two result files")
    both.add_argument("old", type=Path)
    both.add_argument("new", type=Path)
    both.set_defaults(run=_compare)
    return parser


def _run(options: argparse.Namespace) -> int:
    console, facts = _begin(options)
    chosen = [case for case in cases.cases(options.full) if _wanted(case.title, options.only)]
    lengthy = [case for case in long.cases(options.full) if _wanted(case.title, options.only)]
    authors = [case for case in decoding.cases(options.full) if _wanted(case.title, options.only)]
    with_text = _wanted("text: all-MiniLM-L6-v2", options.only)
    if not (chosen or lengthy or authors or with_text):
        raise ValueError(f"only: a pattern of case titles is allowed, {options.only!r} matches none")
    clock, out = time.perf_counter(), _out(options, "run")
    found = text_rows(options, facts, out, console) if with_text else []
    pace = Pace(most=9.0) if options.full else Pace(most=2.0, end=clock + QUICK_SECONDS)
    found += measure(lengthy, long.Runner(options.device, facts), pace, out, console)
    found += measure(authors, decoding.Runner(options.device, facts), pace, out, console)
    found += measure(chosen, Runner(options.device, facts), pace, out, console)
    table.show_skipped(console, found)
    console.print(f"{len(rows.measured(found))} measurements in {out}")
    return _verdict(found, console)


def _gpu(options: argparse.Namespace) -> int:
    if options.minutes <= 0:
        raise ValueError(f"minutes: more than 0 is allowed, got {options.minutes:g}")
    if reason := gpu_day.why_not():
        raise ValueError(f"gpu: {reason}")
    out = options.out or rows.RESULTS / f"run-{datetime.datetime.now():%Y%m%d-%H%M%S}-gpu"
    return gpu_day.Day(out, Console(width=None if sys.stdout.isatty() else 140)).run(options.minutes)


def _begin(options: argparse.Namespace) -> tuple[Console, dict]:
    """Threads, the terminal, and what is said about the machine."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda is allowed where torch.cuda.is_available(), here it is False")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    console = Console(width=None if sys.stdout.isatty() else 140)
    facts = {**machine.facts(options.device), "keeps_freed_memory": memory.keep_freed()}
    console.print(machine.line(facts))
    return console, facts


def _out(options: argparse.Namespace, verb: str) -> Path:
    return options.out or rows.RESULTS / f"{verb}-{datetime.datetime.now():%Y%m%d-%H%M%S}.jsonl"


def _wanted(title: str, pattern: str) -> bool:
    return fnmatch.fnmatch(title, pattern) or fnmatch.fnmatch(title, f"*{pattern}*")


def text_rows(options: argparse.Namespace, facts: dict, out: Path, console: Console) -> list[rows.Row]:
    """The real-text case."""
    with console.status("text: all-MiniLM-L6-v2 over the Python documentation"):
        new = text.run(options.device, facts, 1024 if options.full else 96)
    rows.append(out, new)
    table.show(console, new)
    return new


def _train(options: argparse.Namespace) -> int:
    learner = LEARNERS[options.model]

    def learn(facts: dict, report: Callable[[str], object]) -> list[rows.Row]:
        return training.train(
            learner, options.steps, options.device, facts, lambda said: report(f"{learner.architecture}: {said}")
        )

    return _learn(options, f"train-{options.model}", training, options.steps, learn)


def _distill(options: argparse.Namespace) -> int:
    def learn(facts: dict, report: Callable[[str], object]) -> list[rows.Row]:
        return distill.distill(options.steps, distill.School.of(options.device), facts, report, lessons.COURSES)

    return _learn(options, "distill", distill, options.steps * len(lessons.COURSES), learn)


class Learning(Protocol):
    """A module of the suite in which something learns."""

    def missing(self) -> str | None:
        """What it lacks."""

    def summary(self, rows: list[rows.Row]) -> list[str]:
        """Its rows in words."""


def _learn(options: argparse.Namespace, name: str, module: Learning, total: int, learn: Callable) -> int:
    """Let ``learn`` make rows out of the facts and a report of each of ``total`` steps; show them."""
    if options.steps < 2:
        raise ValueError(f"steps: at least 2 is allowed, got {options.steps}")
    reason = module.missing()
    if reason is not None:
        raise ValueError(reason)
    console, facts = _begin(options)
    out = _out(options, name)
    with progress(console) as bar:
        task = bar.add_task(name, total=total)
        found = learn(facts, lambda said: bar.update(task, advance=1, description=said))
    rows.append(out, found)
    table.show(console, found)
    for line in (*module.summary(found), *map(str, [out, *plot.plot(found, out.with_suffix(""))])):
        console.print(line, markup=False)
    return _verdict(found, console)


def _digits(options: argparse.Namespace) -> int:
    if options.steps < 1:
        raise ValueError(f"steps: at least 1 is allowed, got {options.steps}")
    reason = digits.missing()
    if reason is not None:
        raise ValueError(reason)
    console, facts = _begin(options)
    out, data = _out(options, f"digits-{options.model}"), digits.load()
    torch.manual_seed(0)
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), transient=True) as bar:
        task = bar.add_task(options.model, total=options.steps)
        learned = digits.LEARNERS[options.model](
            data, options.steps, lambda loss: bar.update(task, advance=1, description=f"{options.model}: {loss}")
        )
    rows.append(out, [digits.row(learned, facts)])
    figure = digits.draw(learned, data, out.with_suffix("") / "rollout.png")
    for line in (digits.summary(learned), str(out), str(figure)):
        console.print(line, markup=False)
    return 0


def _verdict(found: list[rows.Row], console: Console) -> int:
    red = [row for row in found if "checked" in row and not row["checked"]["passed"]]
    for line in dict.fromkeys(f"{row['family']}: {row['case']}: {row.get('skip')}" for row in red):
        console.print(line, style="bold red", markup=False)
    return 1 if red else 0


def _static(options: argparse.Namespace) -> int:
    from .static import show, table  # they need Triton, and its tools

    console = Console(width=None if sys.stdout.isatty() else 200)
    if options.update:
        kernels = table.kernels()
        with progress(console) as bar:
            task = bar.add_task("", total=len(kernels))
            table.update(kernels, lambda said: bar.update(task, advance=1, description=said))
    show.show(console, table.load(), options.only)
    return 0


def _plot(options: argparse.Namespace) -> int:
    files = options.results or [rows.newest()]
    found = [row for file in files for row in rows.read(file)]
    for figure in plot.plot(found, options.out or files[0].with_suffix("")):
        print(figure)
    return 0


def _compare(options: argparse.Namespace) -> int:
    compare.compare(rows.read(options.old), rows.read(options.new), Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
