"""What the table shall reach: kernels over a Band without a bias, of head dimensions 64 and 128, on sm_80; and on
sm_90 the forward that is for this chip alone, beside FlashAttention-3 (:mod:`.published`).

There is an estimate for each of the others too, but no goal: a bias, lists of blocks and sorted buckets cost
instructions that no published kernel with a known speed has, and wider rows leave one block a multiprocessor.
"""

from __future__ import annotations

import re
from typing import Any

FORWARD = {"bound": 0.85, "estimate": 0.6}
BACKWARD = {"estimate": 0.45}
HOPPER = {"bound": 0.95, "estimate": 0.65}
WINDOW = 0.1
"""What an estimate may lose in a window of 256 keys on either side."""

_PLAIN = re.compile(r"(?:cuda (forward|dq|dkv)_bf16_(?:64|128)_none|triton (forward|dq|dkv)_bf16_\d+)")


def goals(row: dict[str, Any]) -> dict[str, float]:
    """The least that each share of a row shall be; nothing if it has no goal."""
    plain = _PLAIN.fullmatch(row["kernel"])
    if row["kernel"].startswith("cuda hopper_forward"):
        shares = HOPPER
    elif plain is None or row["chip"] != "sm_80":
        return {}
    else:
        shares = FORWARD if "forward" in plain.groups() else BACKWARD
    return {**shares, "window": round(row["estimate"] - WINDOW, 2)}


def missed(row: dict[str, Any]) -> list[str]:
    """The shares that are below their goals."""
    return [share for share, least in goals(row).items() if row[share] < least]
