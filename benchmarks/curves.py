"""Figures of learning: of trainings, both losses by step and by time, and what a guess without
context loses; of students, their losses and how near they come to their teacher."""

from __future__ import annotations

import itertools

from .rows import Row

LOOK = {
    "pkernels": {"color": "#0b5fa5", "linestyle": "-", "linewidth": 2.4},
    "transformers": {"color": "#d1495b", "linestyle": "--", "linewidth": 1.4},
}
SMOOTH = 0.05
"""Part of a run over which its curve is averaged; single steps stay visible behind it."""


def smooth(losses: list[float], width: int) -> list[float]:
    """Means of the last ``width`` values, fewer at the start.

    Example:
        >>> smooth([3.0, 1.0, 2.0], 2)
        [3.0, 2.0, 1.5]
    """
    sums, ends = [0.0, *itertools.accumulate(losses)], range(1, len(losses) + 1)
    return [(sums[end] - sums[max(0, end - width)]) / min(end, width) for end in ends]


def curves(rows: list[Row]):
    """A matplotlib figure: two panels for each case of a training's rows."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = Figure(figsize=(10.5, 0.6 + 4 * len(cases)), dpi=140, layout="constrained")
    for (by_step, by_time), case in zip(
        figure.subplots(len(cases), 2, squeeze=False, sharey="row"), cases, strict=True
    ):
        _draw(by_step, by_time, [row for row in rows if row["case"] == case])
        by_step.set(xlabel="step", ylabel="loss, nats per byte", title=case)
        by_time.set(xlabel="seconds")
        by_step.legend(frameon=False)
    return figure


def _draw(by_step, by_time, rows: list[Row]) -> None:
    for row in rows:
        losses, look = row["losses"], LOOK.get(row["contender"], {})
        curve = smooth(losses, max(1, round(SMOOTH * len(losses))))
        for ax, x in (
            (by_step, range(1, len(losses) + 1)),
            (by_time, list(itertools.accumulate(row["step_seconds"]))),
        ):
            ax.plot(x, losses, color=look.get("color"), linewidth=0.6, alpha=0.25)
            ax.plot(x, curve, label=row["contender"], **look)
    for ax in (by_step, by_time):
        ax.axhline(rows[0]["unigram"], color="#444444", linestyle=":", label="unigrams: no context")
        ax.grid(True, color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)


def students(rows: list[Row]):
    """A matplotlib figure of a distillation's rows; every lesson has losses of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.8), dpi=140, layout="constrained")
    losses, correlations = figure.subplots(1, 2)
    for number, row in enumerate(rows):
        colour, ends = f"C{number}", [*row["stages"][1:], len(row["losses"])]
        for first, end in zip(row["stages"], ends, strict=True):
            values, steps = row["losses"][first:end], range(first + 1, end + 1)
            losses.plot(steps, values, color=colour, linewidth=0.6, alpha=0.25)
            losses.plot(steps, smooth(values, max(1, round(SMOOTH * len(row["losses"])))), color=colour)
        label = f"{row['contender']}: {row['spearman']:.3f}"
        correlations.plot(*zip(*row["correlations"], strict=True), color=colour, marker="o", markersize=3, label=label)
    losses.set(xlabel="step", ylabel="loss of the lesson", yscale="log")
    correlations.set(xlabel="step", ylabel="Spearman's correlation with the teacher", title="held-out sentences")
    figure.legend(*correlations.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    for ax in (losses, correlations):
        ax.grid(True, color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return figure
