"""What was measured beside what the machine code promised (``python -m benchmarks static``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..rows import Row

TABLE = Path(__file__).resolve().parents[1] / "static" / "table.json"
_DTYPES = {"bfloat16": "bf16", "float16": "f16"}
_COLUMNS = {"dense": "estimate", "causal": "estimate", "head dim": "estimate", "window": "window"}

# Products of a tile of pairs: two forward; in the backward pass five are counted as useful, and the two kernels
# compute three (Q Kt, dO Vt, dS K) and four (the first two again, Pt dO and dSt Q).
_USEFUL, _DQ, _DKV = 5, 3, 4

Estimates = Mapping[str, Mapping[str, float]]


def estimates(chip: str, path: Path = TABLE) -> Estimates:
    """Rows of the table for a chip ("sm_90"), by kernel; empty if there is none."""
    if not path.exists():
        return {}
    return {row["kernel"]: row for row in json.loads(path.read_text())["rows"] if row["chip"] == chip}


def predicted(row: Row, known: Estimates) -> float | None:
    """The share of the tensor cores' best that a measured row was expected to reach, None if nothing is known.

    The two kernels of the backward pass run one after another, so their times add up.
    """
    column, dtype = _COLUMNS.get(row["family"]), _DTYPES.get(row.get("dtype", ""))
    if column is None or dtype is None or row.get("backend") not in ("triton", "cuda"):
        return None

    def share(kernel: str) -> float | None:
        name = f"{row['backend']} {kernel}_{dtype}_{row['shape']['D']}{'_none' if row['backend'] == 'cuda' else ''}"
        return known[name].get(column) if name in known else None

    if row["direction"] == "forward":
        return share("hopper_forward") or share("forward")
    dq, dkv = share("dq"), share("dkv")
    if row["direction"] != "backward" or not dq or not dkv:
        return None
    return _USEFUL / (_DQ / dq + _DKV / dkv)


def lines(found: Iterable[Row], known: Estimates) -> list[str]:
    """A table in Markdown: a row for each measurement that was predicted."""
    body = []
    for row in found:
        expected = predicted(row, known)
        if expected is not None and row.get("share"):
            name = f"{row['family']}: {row['case']}"
            body.append(
                f"| {name} | {row['direction']} | {row['backend']} | {expected:.0%} | {row['share']:.0%}"
                f" | {row['share'] / expected:.2f} |"
            )
    head = ["| case | direction | kernels | expected | measured | ratio |", "|---|---|---|---|---|---|"]
    return [*head, *body] if body else []
