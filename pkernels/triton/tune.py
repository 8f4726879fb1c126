"""Tile shapes: one table, looked up by GPU family, dtype, head dimension and kernel.

Nothing is tuned at run time, so nothing is timed and results never change between runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

FAMILIES = ("sm_80", "sm_90", "sm_100", "gfx942")


@dataclass(frozen=True)
class Config:
    """A program owns ``own`` rows and visits tiles of ``other`` rows; ``exact``: how fp32 is multiplied."""

    own: int
    other: int
    warps: int
    stages: int
    exact: str = "bf16x6"


# (kernel, bytes of an element, largest head dimension): shape. A kernel of Blocks or Buckets
# without a row of its own takes that of the same pass over a Band, and a "biased" one, with a
# Distance or Dense, that of the same without.
_TABLE = {
    ("forward", 2, 64): Config(128, 64, 4, 3),
    ("forward", 2, 128): Config(128, 64, 8, 3),
    ("forward", 2, 256): Config(64, 32, 4, 2),
    ("forward", 4, 64): Config(64, 32, 4, 2),
    ("forward", 4, 128): Config(64, 16, 4, 1),
    ("forward", 4, 256): Config(32, 32, 8, 1, "ieee"),
    ("buckets_forward", 2, 64): Config(64, 64, 4, 2),
    ("buckets_forward", 2, 128): Config(64, 64, 8, 2),
    ("buckets_forward", 2, 256): Config(32, 32, 4, 1),
    ("buckets_forward", 4, 64): Config(32, 32, 4, 2),
    ("buckets_forward", 4, 128): Config(32, 16, 4, 1),
    ("buckets_forward", 4, 256): Config(32, 16, 8, 1, "ieee"),
    ("dq", 2, 64): Config(64, 64, 4, 2),
    ("dq", 2, 128): Config(64, 64, 8, 2),
    ("dq", 2, 256): Config(32, 32, 4, 1),
    ("dq", 4, 64): Config(32, 32, 4, 2),
    ("dq", 4, 128): Config(16, 16, 8, 2),
    ("dq", 4, 256): Config(32, 16, 8, 1, "ieee"),
    ("dkv", 2, 64): Config(64, 32, 4, 2),
    ("dkv", 2, 128): Config(64, 64, 8, 2),
    ("dkv", 2, 256): Config(32, 32, 8, 1),
    ("dkv", 4, 64): Config(32, 32, 4, 1),
    ("dkv", 4, 128): Config(16, 16, 8, 2),
    ("dkv", 4, 256): Config(32, 16, 8, 1, "ieee"),
    ("distance", 2, 64): Config(32, 32, 4, 1),
    ("distance", 2, 256): Config(16, 16, 4, 1),
    ("distance", 4, 64): Config(32, 32, 4, 1),
    ("distance", 4, 256): Config(16, 16, 4, 1, "ieee"),
    ("relative", 2, 64): Config(64, 32, 4, 1),
    ("relative", 2, 256): Config(32, 16, 4, 1),
    ("relative", 4, 64): Config(32, 16, 4, 1),
    ("relative", 4, 256): Config(16, 16, 4, 1, "ieee"),
    ("query", 2, 64): Config(64, 32, 4, 1),
    ("query", 2, 256): Config(32, 16, 4, 1),
    ("query", 4, 64): Config(32, 16, 4, 1),
    ("query", 4, 256): Config(16, 16, 8, 1, "ieee"),
    ("dense", 2, 64): Config(64, 64, 4, 1),
    ("dense", 2, 256): Config(32, 16, 4, 1),
    ("dense", 4, 256): Config(16, 16, 4, 1, "ieee"),
}
# Where another shape suits a family better: bigger tiles for wgmma and tcgen05, four warps of 64
# lanes on gfx942, and whatever keeps registers from spilling.
_OVERRIDES = {
    "sm_80": {
        ("forward", 2, 128): Config(128, 32, 4, 2),
        ("blocks_forward", 2, 128): Config(128, 64, 8, 3),
        ("buckets_forward", 2, 128): Config(64, 64, 4, 2),
        ("biased_forward", 2, 64): Config(64, 64, 4, 3),
        ("biased_forward", 2, 128): Config(128, 32, 8, 2),
        ("biased_dq", 2, 128): Config(64, 32, 4, 2),
        ("dq", 2, 128): Config(64, 64, 4, 2),
        ("dkv", 2, 128): Config(64, 32, 4, 2),
        ("blocks_forward", 4, 64): Config(32, 32, 4, 2),
        ("blocks_forward", 4, 128): Config(32, 32, 4, 2),
        ("blocks_dkv", 4, 64): Config(32, 32, 4, 2),
    },
    "sm_90": {
        ("biased_forward", 2, 64): Config(128, 64, 8, 2),
        ("forward", 2, 128): Config(128, 128, 8, 2),
        ("blocks_forward", 2, 128): Config(128, 64, 8, 3),
        ("forward", 2, 256): Config(64, 64, 8, 2),
        ("dq", 2, 128): Config(128, 64, 8, 2),
        ("dq", 2, 256): Config(64, 32, 8, 1),
        ("dq", 4, 128): Config(64, 16, 4, 1),
        ("dkv", 2, 64): Config(128, 64, 8, 2),
        ("dkv", 2, 256): Config(64, 32, 8, 1),
        ("blocks_dq", 2, 256): Config(32, 32, 8, 1),
        ("blocks_dkv", 2, 256): Config(32, 32, 8, 1),
        ("buckets_forward", 4, 128): Config(32, 32, 4, 2),
        ("buckets_dq", 2, 128): Config(64, 64, 8, 2),
        ("buckets_dq", 2, 256): Config(32, 32, 8, 1),
        ("buckets_dkv", 2, 64): Config(64, 64, 8, 2),
        ("buckets_dkv", 2, 128): Config(64, 32, 8, 2),
        ("buckets_dkv", 2, 256): Config(32, 32, 8, 1),
    },
    "sm_100": {
        ("biased_dkv", 2, 64): Config(64, 64, 8, 2),
        ("forward", 2, 64): Config(128, 64, 8, 3),
        ("forward", 4, 128): Config(32, 16, 8, 2),
        ("dq", 2, 128): Config(128, 64, 8, 2),
        ("dq", 2, 256): Config(64, 32, 8, 1),
        ("dq", 4, 64): Config(32, 16, 4, 1),
        ("dkv", 2, 64): Config(128, 64, 8, 2),
        ("distance", 4, 64): Config(32, 32, 4, 1, "ieee"),
        ("blocks_dq", 4, 128): Config(16, 16, 8, 1),
        ("blocks_dkv", 4, 128): Config(32, 32, 8, 1, "ieee"),
        ("buckets_forward", 4, 128): Config(32, 32, 4, 2),
        ("buckets_dq", 4, 128): Config(16, 32, 8, 1),
        ("buckets_dkv", 4, 128): Config(16, 16, 4, 2),
    },
    "gfx942": {
        ("biased_forward", 2, 128): Config(64, 64, 4, 2),
        ("biased_dkv", 2, 128): Config(64, 32, 4, 1),
        ("forward", 2, 128): Config(128, 64, 8, 2),
        ("forward", 4, 256): Config(32, 32, 4, 1, "ieee"),
        ("dq", 2, 128): Config(64, 32, 4, 2),
        ("dq", 4, 256): Config(32, 16, 4, 1, "ieee"),
        ("dkv", 2, 128): Config(64, 64, 4, 1),
        ("dkv", 2, 256): Config(32, 32, 4, 1),
        ("dkv", 4, 256): Config(32, 16, 4, 1, "ieee"),
        ("query", 4, 256): Config(16, 16, 4, 1, "ieee"),
        ("blocks_dkv", 4, 128): Config(32, 32, 4, 2),
        ("buckets_dkv", 4, 128): Config(16, 16, 4, 1),
    },
}

_forced: tuple[str | None, Config | None] = (None, None)


@contextlib.contextmanager
def using(family: str | None = None, config: Config | None = None) -> Iterator[None]:
    """Choose as on a GPU family, or one configuration for every kernel: for tests."""
    global _forced
    previous, _forced = _forced, (family or _forced[0], config or _forced[1])
    try:
        yield
    finally:
        _forced = previous


def names(kernel: str) -> list[str]:
    """Under which a kernel's shape may stand, its own first: "blocks_dq" and "dq"."""
    words = kernel.split("_")
    return ["_".join(words[i:]) for i in range(len(words))]


def choose(kernel: str, q: Tensor, v: Tensor) -> Config:
    """The tile shape of a kernel for these tensors."""
    if _forced[1] is not None:
        return _forced[1]
    width = max(q.shape[3], v.shape[3])
    table = _TABLE | _OVERRIDES[family(q)]
    known = names(kernel)
    fits = [key for key in table if key[0] in known and key[1] == q.element_size() and key[2] >= width]
    return table[min(fits, key=lambda key: (key[2], known.index(key[0])))]


def family(x: Tensor) -> str:
    """The column of the table for x's device."""
    if _forced[0] is not None:
        return _forced[0]
    if not x.is_cuda:
        return "sm_80"
    if torch.version.hip is not None:
        return "gfx942"
    major = torch.cuda.get_device_capability(x.device)[0]
    return "sm_80" if major < 9 or major > 10 else "sm_90" if major == 9 else "sm_100"


def precision(x: Tensor, config: Config) -> str | None:
    """How products of fp32 are taken; None for 16-bit inputs.

    "bf16x6" splits each operand into three bf16 parts of 8 bits and adds the six products that
    matter: all but about 2**-26 of a product, at a sixth of the tensor cores' bf16 rate. Plain
    "tf32" keeps 11 bits and "tf32x3" loses about 2**-21, more than fp32 itself does. Wide
    heads leave no registers for the parts: "ieee" multiplies fp32 as it is. So does the
    interpreter, which knows nothing else.
    """
    if x.dtype != torch.float32:
        return None
    return "ieee" if os.environ.get("TRITON_INTERPRET") == "1" else config.exact
