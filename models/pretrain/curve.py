"""A training's loss by step, drawn beside that of a guess."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from ..parts import files
from .folder import Folder, read_log

SMOOTH = 0.05
"""Part of a training over which its curve is averaged; single lines of the log stay visible behind it."""


def draw(out: str | Path) -> Path:
    """Write ``loss.png`` into a training's directory.

    Raises:
        ValueError: If there is no log.
        ImportError: Without matplotlib.
    """
    from matplotlib.figure import Figure

    log = read_log(out)
    if not log:
        raise ValueError(f"out: a directory with the log of a training is allowed, {out} has none")
    figure = Figure(figsize=(7.2, 4.4), dpi=140, layout="constrained")
    axes = figure.subplots()
    steps = [row["step"] for row in log]
    for name, values in series(log).items():
        [line] = axes.plot(steps, smoothed(values), label=name, linewidth=2)
        axes.plot(steps, values, color=line.get_color(), linewidth=0.6, alpha=0.3)
    guess = files.read_json(Folder(Path(out)).guess)
    axes.axhline(guess["loss"], color="#444444", linestyle=":", label=f"{guess['meaning']} ({guess['loss']:.2f})")
    axes.set(xlabel="step", ylabel="loss, nats per predicted token", title=str(Path(out).name), ylim=(0, None))
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = Path(out) / "loss.png"
    figure.savefig(path)
    return path


def series(log: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The losses but for their sum, which of several has another unit."""
    others = {"step", "loss", "gradient", "rate", "tokens", "tokens_per_second", "right"}
    return {name: [row[name] for row in log] for name in log[0] if name not in others}


def smoothed(values: list[float]) -> list[float]:
    """Means of the last twentieth, fewer at the start.

    Example:
        >>> smoothed([3.0, 1.0])
        [3.0, 1.0]
    """
    width = max(1, round(SMOOTH * len(values)))
    sums, ends = [0.0, *itertools.accumulate(values)], range(1, len(values) + 1)
    return [(sums[end] - sums[max(0, end - width)]) / min(end, width) for end in ends]
