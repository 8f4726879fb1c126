"""The table in the terminal, beside published kernels."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from . import banks
from .published import PUBLISHED
from .table import WINDOW

COUNTS = ("registers", "spills", "shared", "warps", "blocks", "products", "others", "barriers", "conflicts")
SHARES = ("bound", "limit", "estimate", "masked", "window")


def show(console: Console, table: dict[str, Any], pattern: str) -> None:
    """Rows whose kernels match, a table per chip, then the published ones."""
    made = " and ".join(f"{name} {version}" for name, version in table["versions"].items())
    conflicts = banks.load()
    rows = [row | {"conflicts": conflicts.get(row["kernel"], {}).get(row["chip"])} for row in table["rows"]]
    for chip in dict.fromkeys(row["chip"] for row in rows):
        shown = Table(title=f"{chip}, compiled by {made}", title_justify="left")
        for name in ("kernel", *COUNTS, *SHARES):
            shown.add_column(name, justify="left" if name in ("kernel", "limit") else "right")
        for row in [x for x in rows if x["chip"] == chip and pattern in x["kernel"]]:
            missed = row.get("missed", ())
            cells = [_cell(row.get(name)) + (" (missed)" if name in missed else "") for name in (*COUNTS, *SHARES)]
            shown.add_row(row["kernel"], *cells)
        if shown.rows:
            console.print(shown)
    _show_published(console)
    console.print(
        "spills, barriers, products (of the tensor cores) and others (for each of them): of the main loop. conflicts: "
        "of banks of shared memory in loops, as the tests' emulator saw them (not of tcgen05's code). bound: the "
        "share of the tensor cores' best that instructions allow; estimate: what queueing leaves of it; masked: of a "
        f"tile at an edge; window: with {WINDOW} keys on either side. These four are estimates of a model: nothing "
        "was measured.",
        markup=False,
    )


def _show_published(console: Console) -> None:
    shown = Table(title="published kernels, counted alike", title_justify="left")
    for name in ("kernel", "chip", "bound", "estimate", "known"):
        shown.add_column(name)
    for row in PUBLISHED:
        shown.add_row(*(_cell(row[name]) for name in ("kernel", "chip", "bound", "estimate", "known")))
    console.print(shown)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) and value <= 1 else str(value)
