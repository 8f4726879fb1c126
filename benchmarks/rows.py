"""Results as JSON lines: one row per case, contender and direction.

A row that was measured has ``seconds`` (median, q20, q80, samples), ``ratio`` (its time per
useful pair over the first contender's), ``rate`` in ``unit``, ``share`` of the ceiling,
``memory`` in bytes (peak on top of the inputs, results included) and ``checked``; models have
``memory_ratio``, over the first contender's, and trainings the ``losses`` and ``step_seconds``;
students moreover ``correlations`` with their teacher, and the last as ``spearman``.
One that was not has ``skip``, the reason. All carry machine, versions, commit and date.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

Row = dict
RESULTS = Path(__file__).parent / "results"
_KEY = ("family", "case", "contender", "direction", "device")


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a file, which is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps(row, separators=(",", ":")) + "\n")


def read(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        ValueError: If there is no such file, or a line is no row.
    """
    if not path.is_file():
        raise ValueError(f"results: a file of JSON lines is allowed, {path} is none")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({**row, **{name: row[name] for name in _KEY}})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"results: {path}, line {number} is not a row ({error!r})") from None
    return rows


def key(row: Row) -> tuple:
    """What rows of two files must share to be compared."""
    return tuple(row[name] for name in _KEY)


def measured(rows: Iterable[Row]) -> list[Row]:
    """Rows with a time."""
    return [row for row in rows if row.get("seconds")]


def newest(folder: Path = RESULTS) -> Path:
    """The file of a folder that was written last.

    Raises:
        ValueError: If there is none.
    """
    files = sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise ValueError(f"results: none in {folder}; 'python -m benchmarks run' makes some")
    return files[-1]
