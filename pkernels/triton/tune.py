"""Which tile shape a kernel has for its tensors (:mod:`.tiles`), and how it multiplies fp32.

Nothing is tuned at run time, so nothing is timed and results never change between runs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from ..problem import Problem
from .tiles import OVERRIDES, TABLE, Config

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


def choose(kernel: str, q: Tensor, v: Tensor, problem: Problem | None = None) -> Config:
    """The tile shape of a kernel for these tensors, and for a problem that adds a bias or drops."""
    if problem is not None and (problem.distance is not None or problem.dense is not None):
        kernel = f"biased_{kernel}"
    if problem is not None and problem.dropout > 0:
        kernel = f"dropout_{kernel}"
    if _forced[1] is not None:
        return _forced[1]
    width = max(q.shape[3], v.shape[3])
    table = TABLE | OVERRIDES[family(q)]
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
    matter: all but about 2**-26 of a product, at a sixth of the tensor cores' bf16 rate. On NVIDIA's
    GPUs that is done here ("split", see :mod:`.products`) and not by the compiler. Plain "tf32" keeps
    11 bits and "tf32x3" loses about 2**-21, more than fp32 itself does. Wide heads leave no registers
    for the parts: "ieee" multiplies fp32 as it is. So does the interpreter, which knows nothing else.
    """
    if x.dtype != torch.float32:
        return None
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "ieee"
    return "split" if config.exact == "bf16x6" and family(x) != "gfx942" else config.exact
