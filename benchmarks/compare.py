"""Two result files side by side: what became faster, what slower.

Every row carries the outcome of the check that preceded its timing; a file in which one
failed is refused, because the speed of a wrong kernel means nothing. That flag travels with
the figures, which may come from another machine or commit than the tree at hand.
"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .rows import Row, key, measured
from .table import CEILINGS, duration


def refuse_red(name: str, rows: list[Row]) -> None:
    """Raise unless every row passed its check.

    Raises:
        ValueError: Naming what failed, or what was never checked.
    """
    for row in rows:
        where = f"{name}: {row['family']}: {row['case']}, {row['contender']}, {row['direction']}"
        if "checked" in row and not row["checked"]["passed"]:
            raise ValueError(f"{where}: its check failed ({row.get('skip')}); nothing is compared")
        if row.get("seconds") and row["contender"] not in CEILINGS and "checked" not in row:
            raise ValueError(f"{where}: was never checked; nothing is compared")


def compare(old: list[Row], new: list[Row], console: Console) -> list[tuple[Row, Row]]:
    """Print the ratios new / old of matching rows, and return those rows.

    Raises:
        ValueError: If a check failed in either, or no rows match.
    """
    refuse_red("old", old)
    refuse_red("new", new)
    _print_difference(old, new, console)
    before = {key(row): row for row in measured(old)}
    pairs = [(before[key(row)], row) for row in measured(new) if key(row) in before]
    if not pairs:
        raise ValueError("results: the two files share no measured row")
    table = Table(title="new over old (below 1: faster)", title_justify="left")
    for name in ("case", "contender", "direction"):
        table.add_column(name, overflow="fold")
    for name in ("old", "new", "time", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for a, b in pairs:
        table.add_row(
            f"{b['family']}: {b['case']}", b["contender"], b["direction"], duration(a["seconds"]["median"]),
            duration(b["seconds"]["median"]), _ratio(a, b), _memory(a, b),
        )  # fmt: skip
    console.print(table)
    lost = len(before) - len({key(b) for _, b in pairs})
    console.print(f"{len(pairs)} rows match; {lost} only in old, {len(measured(new)) - len(pairs)} only in new")
    return pairs


def _ratio(a: Row, b: Row) -> Text:
    """Coloured only if the two ranges of 20 to 80 % do not touch."""
    ratio = b["seconds"]["median"] / a["seconds"]["median"]
    faster = b["seconds"]["q80"] < a["seconds"]["q20"]
    slower = b["seconds"]["q20"] > a["seconds"]["q80"]
    return Text(f"{ratio:.3f}", style="green" if faster else "red" if slower else "dim")


def _memory(a: Row, b: Row) -> str:
    if not a.get("memory") or not b.get("memory"):
        return ""
    return f"{b['memory'] / a['memory']:.2f}"


def _print_difference(old: list[Row], new: list[Row], console: Console) -> None:
    """Say so if more than the commit differs."""
    for name in ("machine", "versions", "threads"):
        if old and new and old[0].get(name) != new[0].get(name):
            console.print(f"note: {name} differ: {old[0].get(name)} and {new[0].get(name)}", style="yellow")
