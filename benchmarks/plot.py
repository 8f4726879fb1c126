"""One figure per family: time and ratio against size, or bars where there is no size."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

from .cases import FAMILIES
from .curves import curves, students
from .rows import Row, measured
from .table import CEILINGS

COLOURS = {"pkernels": "#0b5fa5", "sdpa": "#d1495b", "flex": "#2a9d5c", "masked": "#8d8d8d",
           "HF longformer": "#e08e0b", "sdpa each": "#8e5ea2", "transformers": "#d1495b"}  # fmt: skip
STYLES = {"float32": "-", "bfloat16": "--", "float16": ":"}
MARKERS = {"float32": "o", "bfloat16": "s", "float16": "^"}
OF_MODELS = "osD^vPX"
LEARNT = {"training": curves, "distillation": students}
DIRECTIONS = {"forward": "forward", "backward": "backward", "both": "forward + backward"}


def plot(rows: list[Row], folder: Path) -> list[Path]:
    """Draw every family of the rows into ``folder``; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for family in dict.fromkeys(row["family"] for row in rows):
        chosen = [row for row in measured(rows) if row["family"] == family and row["contender"] not in CEILINGS]
        if not chosen:
            continue
        if family in LEARNT:
            figure = LEARNT[family](chosen)
        else:
            figure = _bars(chosen) if all(row["x"] is None for row in chosen) else _lines(chosen, family)
        title = FAMILIES[family].title if family in FAMILIES else family
        figure.suptitle(f"{title}\n{_where(chosen[0])}", fontsize=11)
        files.append(folder / f"{family.replace(' ', '-')}.png")
        figure.savefig(files[-1])
    return files


def _where(row: Row) -> str:
    machine, versions = row["machine"], row["versions"]
    on = machine["gpu"] if row["device"] == "cuda" else f"{machine['cpu']}, {row['threads']} threads"
    if row["device"] != "cuda" and machine.get("isa"):
        on += f", {machine['isa']}"
    return f"{on}; torch {versions['torch']}; pkernels {versions['pkernels']} at {str(row['commit'])[:9]}"


def _lines(rows: list[Row], family: str):
    from matplotlib.figure import Figure

    directions = [d for d in DIRECTIONS if any(row["direction"] == d for row in rows)]
    models = dict(zip(dict.fromkeys(row["model"] for row in rows if "model" in row), cycle(OF_MODELS), strict=False))
    figure = Figure(figsize=(1.2 + 3.9 * len(directions), 6.6), dpi=140, layout="constrained")
    axes = figure.subplots(2, len(directions), sharex="col", sharey="row", squeeze=False)
    for column, direction in enumerate(directions):
        top, bottom = axes[0][column], axes[1][column]
        for name, points in _series([row for row in rows if row["direction"] == direction]):
            _draw(top, bottom, name, points, models)
        top.set(xscale="log", yscale="log", title=DIRECTIONS[direction])
        bottom.set(xscale="log", yscale="log", xlabel=FAMILIES[family].axis if family in FAMILIES else "size")
        bottom.axhline(1, color=COLOURS["pkernels"], linewidth=1)
        _ticks(bottom, sorted({row["x"] for row in rows if row["x"] is not None}))
        for ax in (top, bottom):
            ax.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes[0][0].set_ylabel("milliseconds per head" if "shape" in rows[0] else "milliseconds")
    axes[1][0].set_ylabel("time over pkernels'")
    handles, labels = {}, None
    for ax in axes[0]:
        handles.update(dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)))
    labels = list(handles)
    figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    return figure


def _series(rows: list[Row]) -> Iterable[tuple[tuple[str, str, str], list[Row]]]:
    """Points of one contender and dtype; cases that share an x (padded, packed, models) stay apart."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        ragged = next((kind for kind in ("packed", "padded") if kind in row["case"]), "")
        kind = row.get("model", ragged)
        groups.setdefault((row["contender"], row.get("dtype", ""), kind), []).append(row)
    return [(name, _one_each(points)) for name, points in groups.items()]


def _one_each(points: list[Row]) -> list[Row]:
    """One row per x: of several (as S = 2,048 with 4 and with 12 heads), the one with most heads."""
    best: dict[int, Row] = {}
    for row in sorted(points, key=_heads):
        best[row["x"]] = row
    return [best[x] for x in sorted(best)]


def _heads(row: Row) -> int:
    return row["shape"]["B"] * row["shape"]["H"] if "shape" in row else 1


def _draw(top, bottom, name: tuple[str, str, str], points: list[Row], models: dict[str, str]) -> None:
    contender, dtype, kind = name
    colour, style = COLOURS.get(contender, "#444444"), STYLES.get(dtype, "-")
    x = [row["x"] for row in points]
    label = " ".join(filter(None, (contender, kind, {"float32": "fp32", "bfloat16": "bf16"}.get(dtype, dtype))))
    marker = "D" if kind == "packed" else models.get(kind) or MARKERS.get(dtype, "o")
    look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "linewidth": 1.5}

    def scaled(quantile: str) -> list[float]:
        return [1e3 * row["seconds"][quantile] / _heads(row) for row in points]

    top.plot(x, scaled("median"), label=label, **look)
    top.fill_between(x, scaled("q20"), scaled("q80"), color=colour, alpha=0.15, linewidth=0)
    if contender != "pkernels":
        bottom.plot(x, [row["ratio"] for row in points], **look)


def _ticks(ax, sizes: list[int]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    ax.set_xticks(sizes, [f"{size // 1024}k" if size >= 1024 and size % 1024 == 0 else str(size) for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if len(sizes) == 1:
        ax.set_xlim(sizes[0] / 2, sizes[0] * 2)


def _bars(rows: list[Row]):
    """Ratios to the first contender of each case, one panel per direction."""
    from matplotlib.figure import Figure

    directions = list(dict.fromkeys(row["direction"] for row in rows))
    labels = list(dict.fromkeys((row["case"], row["contender"]) for row in rows))
    figure = Figure(figsize=(3.2 + 3.6 * len(directions), 1.6 + 0.32 * len(labels)), dpi=140, layout="constrained")
    axes = figure.subplots(1, len(directions), sharey=True, squeeze=False)[0]
    for ax, direction in zip(axes, directions, strict=True):
        for row in (row for row in rows if row["direction"] == direction and row.get("ratio")):
            place = len(labels) - 1 - labels.index((row["case"], row["contender"]))
            first = row["ratio"] == 1
            ax.barh(place, row["ratio"], color=COLOURS["pkernels"] if first else "#9fbdd6", height=0.7)
            rate = f", {row['rate']:.0f} {row['unit']}" if row.get("rate") is not None else ""
            ax.text(row["ratio"], place, f" {row['ratio']:.2f}{rate}", va="center", fontsize=8)
        ax.axvline(1, color="#444444", linewidth=0.8)
        ax.set(title=DIRECTIONS.get(direction, direction), xlabel="time over the first's, per useful pair")
        if direction not in DIRECTIONS:
            ax.set_xlabel("time over pkernels'")
        ax.margins(x=0.55)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(labels)), [f"{case}: {contender}" for case, contender in reversed(labels)], fontsize=8)
    return figure
