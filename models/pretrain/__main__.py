"""The command line: ``python -m pkernels.models.pretrain FAMILY --text FILES --out DIR``, and
``python -m pkernels.models.pretrain check FOLDER FAMILY``."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..parts import files
from ..parts.config import BaseConfig
from . import curve, pictures
from .check import CHECKED, check_folder
from .loop import Report
from .recipes import RECIPES, recipe
from .run import Outcome, pretrain
from .settings import Settings, Sizes, meanings


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["check"]:
            of = _checker().parse_args(given[1:])
            print(f"{of.folder}: {check_folder(of.folder, of.family)}")
        else:
            _train(_parser().parse_args(given))
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"pretrain: {error}", file=sys.stderr)
        return 2
    return 0


def _checker() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pkernels.models.pretrain check", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Read a folder of pictures from end to end, and name the first thing that is wrong.",
        epilog=pictures.__doc__,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("family", metavar="FAMILY", help=", ".join(CHECKED))
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pkernels.models.pretrain", description="Train a model of a family on text or pictures.",
        epilog="A directory that holds a stopped training of the same kind is where it goes on. "
        "What a folder of pictures holds: python -m pkernels.models.pretrain check --help",
    )  # fmt: skip
    parser.add_argument("family", metavar="FAMILY", help=", ".join(RECIPES))
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--text", nargs="+", metavar="FILE", help="a sentence a line, UTF-8")
    data.add_argument("--images", dest="text", metavar="FOLDER", help=f"of {', '.join(CHECKED)}: pictures")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="new, empty or to go on with")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json or vocab.txt")
    parser.add_argument("--config", type=Path, metavar="FILE", help="config.json, instead of the sizes below")
    parser.add_argument("--teacher", type=Path, metavar="DIR", help="of families that can learn from one")
    parser.add_argument("--stop", type=int, metavar="N", help="stop after this step, to go on another time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp", help="of torchrun's processes")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no curve")
    for title, of in (("how it learns", Settings), ("sizes of a small model", Sizes)):
        group = parser.add_argument_group(title)
        for name, (default, kind, meaning) in meanings(of).items():
            read: dict[str, Any] = {"type": kind, "metavar": "N" if kind is int else "X"}
            read = {"action": "store_true"} if kind is bool else read
            usual = "the family's" if default is None else default
            group.add_argument(f"--{name}", default=default, help=f"{meaning} (default: {usual})", **read)
    return parser


def _train(options: argparse.Namespace) -> None:
    first = os.environ.get("RANK", "0") == "0"
    if not options.quiet:
        _check_tools()
    model = Sizes(**_fields(options, Sizes)) if options.config is None else _config(options.family, options.config)
    settings = Settings(**_fields(options, Settings))
    with _progress(settings.steps if first and not options.quiet else 0) as report:
        outcome = pretrain(
            options.family, options.text, options.out, model=model, settings=settings, tokenizer=options.tokenizer,
            teacher=options.teacher, stop=options.stop, device=options.device, parallel=options.parallel, report=report,
        )  # fmt: skip
    if first:
        print(summary(outcome))
        if not options.quiet:
            print(curve.draw(options.out))


def _fields(options: argparse.Namespace, of: type) -> dict[str, Any]:
    return {name: getattr(options, name) for name in meanings(of)}


def _check_tools() -> None:
    for name in ("rich", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"{name} is missing: pip install 'pkernels[train]', or --quiet for no bar and no curve")


def _config(name: str, path: Path) -> BaseConfig:
    """A config.json, of the family's own class of configs."""
    if not path.is_file():
        raise FileNotFoundError(f"config: {path}: a config.json is allowed; there is none")
    kind, values = recipe(name).kind, files.read_json(path)
    if values.get("model_type") != kind.model_type:
        allowed, got = kind.model_type, values.get("model_type")
        raise ValueError(f"config: {path}: model_type: {allowed!r} is allowed, got {got!r}")
    return kind.from_dict(values, f"config: {path}")


@contextmanager
def _progress(steps: int) -> Iterator[Report | None]:
    """A bar, of 0 steps none."""
    if not steps:
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task("", total=steps)
        yield lambda row: bar.update(task, completed=row["step"], description=described(row))


def described(row: dict[str, Any]) -> str:
    return f"loss {row['loss']:.3f}  {row['tokens_per_second']:,.0f} tokens/s  rate {row['rate']:.1e}"


def summary(outcome: Outcome) -> str:
    """The last tenth of the log, beside a guess without context."""
    last = outcome.log[-max(1, len(outcome.log) // 10) :]
    name = outcome.measure
    loss = sum(row[name] for row in last) / len(last)
    guess = "unigrams" if name == "words" else "a guess"
    return f"step {outcome.step}: {name} {loss:.3f}, {guess} {outcome.unigram:.3f} nats; in {outcome.out}"


if __name__ == "__main__":
    sys.exit(main())
