"""Results in the terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .cases import FAMILIES
from .rows import Row

CEILINGS = ("fma peak", "matmul", "copy", "peak")


def show(console: Console, rows: list[Row]) -> None:
    """One table per family, in the order of the rows."""
    for family in dict.fromkeys(row["family"] for row in rows if _shown(row)):
        console.print(_table(family, [row for row in rows if row["family"] == family and _shown(row)]))


def show_skipped(console: Console, rows: list[Row]) -> None:
    """What was not run, by reason."""
    skips: dict[str, list[str]] = {}
    for row in rows:
        if row.get("skip") and not _shown(row):
            skips.setdefault(row["skip"], []).append(f"{row['contender']} ({row['family']})")
    for reason, who in skips.items():
        names = list(dict.fromkeys(who))
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        console.print(Text(f"not run: {', '.join(names[:6])}{more}: {reason}", style="dim"))


def _shown(row: Row) -> bool:
    return bool(row.get("seconds")) or str(row.get("skip", "")).startswith("wrong")


def _table(family: str, rows: list[Row]) -> Table:
    title = FAMILIES[family].title if family in FAMILIES else family
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    for name in ("case", "direction", "contender"):
        table.add_column(name, overflow="fold")
    for name in ("time (20 - 80 %)", "x pkernels", "rate", "of peak", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for row in rows:
        place = (row["case"], row["direction"])
        table.add_row(*_cells(row, repeat=place == before), end_section=False)
        before = place
    return table


def _cells(row: Row, repeat: bool) -> Iterable[Text | str]:
    place = ("", "") if repeat else (row["case"], row["direction"])
    if row.get("skip"):
        return (*place, Text(row["contender"], style="bold red"), Text(row["skip"], style="bold red"))
    t = row["seconds"]
    ceiling = row["contender"] in CEILINGS
    return (
        *place,
        Text(row["contender"], style="dim" if ceiling else "bold" if row.get("ratio") == 1 else ""),
        f"{duration(t['median'])} ({duration(t['q20'])} - {duration(t['q80'])})",
        f"{row['ratio']:.2f}" if row.get("ratio") else "",
        f"{row['rate']:.{0 if row['rate'] >= 10 else 1}f} {row['unit']}" if row.get("rate") is not None else "",
        f"{100 * row['share']:.0f} %" if row.get("share") else "",
        _memory(row),
    )


def _memory(row: Row) -> str:
    if row.get("memory") is None:
        return ""
    ratio = f" ({row['memory_ratio']:.1f}x)" if row.get("memory_ratio") not in (None, 1) else ""
    return f"{row['memory'] / 2**20:.1f} MiB{ratio}"


def duration(seconds: float) -> str:
    """A time with a fitting unit.

    Example:
        >>> duration(0.0123), duration(2.5)
        ('12.3 ms', '2.50 s')
    """
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            value = seconds * factor
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{seconds * 1e6:.1f} us"
