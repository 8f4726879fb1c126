"""What each backend supports, asked of :func:`pkernels.why_not`: ``python -m pkernels support``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .bias import Dense, Distance, Relative
from .blocks import Blocks
from .buckets import Buckets
from .ops import BACKENDS, why_not, why_not_built
from .patterns import causal, dense, prefix_lm, window
from .problem import Pattern

# Where each backend is at home; tensors are fake, so no GPU is needed to ask.
_DEVICES = {"reference": "cpu", "cpu": "cpu", "triton": "cuda", "cuda": "cuda"}


@dataclass(frozen=True)
class Row:
    """One line of the table: a call that either works or has a reason not to. Without a dtype: in
    float32, in bfloat16 for a backend that is made for tensor cores."""

    name: str
    pattern: Pattern = dense
    dtype: torch.dtype | None = None
    head_dim: int = 64
    kv_heads: int = 4
    bias: str | None = None


_BLOCKS = Blocks.from_mask(torch.eye(16).bool(), 64)
_BUCKETS = Buckets(torch.arange(1024, dtype=torch.int32).expand(2, 4, 1, 1024), 64, before=1)

_ROWS = (
    Row("dense"),
    Row("causal, strictly causal, right to left", causal),
    Row("sliding window, one- or two-sided", window(256)),
    Row("dilated window", window(256, dilation=4)),
    Row("leading globals (columns and rows)", window(256, globals=8)),
    Row("prefix-LM, one length or one per row", prefix_lm(64)),
    Row("`Blocks`: block-sparse, BigBird", _BLOCKS),
    Row("`Blocks` with a bias and its gradient", _BLOCKS, bias="dense"),
    Row("`Blocks` with a `Relative` bias", _BLOCKS, bias="relative"),
    Row("`Blocks`, head dimension 256", _BLOCKS, head_dim=256),
    Row("`Buckets`: LSH, chunks", _BUCKETS),
    Row("`Buckets`, head dimension 256", _BUCKETS, head_dim=256),
    Row("`Distance` bias and its gradient", bias="distance"),
    Row("`Relative` bias and its gradients", bias="relative"),
    Row("`Dense` bias and its gradient", bias="dense"),
    Row("grouped and single key heads", kv_heads=1),
    Row("float32", dtype=torch.float32),
    Row("bfloat16", dtype=torch.bfloat16),
    Row("float16", dtype=torch.float16),
    Row("float64", dtype=torch.float64),
    Row("head dimension 1", head_dim=1),
    Row("head dimension 41", head_dim=41),
    Row("head dimension 256", head_dim=256),
    Row("head dimension 512", head_dim=512),
)


def table() -> str:
    """The table in Markdown.

    Example:
        >>> print(table().splitlines()[0])
        | | reference | cpu | triton | cuda |
    """
    lines = ["| | " + " | ".join(BACKENDS) + " |", "|---|" + "---|" * len(BACKENDS)]
    for row in _ROWS:
        lines.append(f"| {row.name} | " + " | ".join(_cell(row, backend) for backend in BACKENDS) + " |")
    return "\n".join(lines)


def _cell(row: Row, backend: str) -> str:
    with FakeTensorMode():

        def make(heads: int, *shape: int) -> Tensor:
            dtype = row.dtype or (torch.bfloat16 if backend == "cuda" else torch.float32)
            return torch.empty(2, heads, *shape, dtype=dtype, device=_DEVICES[backend])

        q, k = make(4, 1024, row.head_dim), make(row.kv_heads, 1024, row.head_dim)
        bias = {
            None: lambda: None,
            "distance": lambda: Distance(q.new_empty(4, 2047, dtype=torch.float32).requires_grad_()),
            "dense": lambda: Dense(q.new_empty(2, 1, 1, 1024).requires_grad_()),
            "relative": lambda: Relative(q, q.new_empty(4, 2047, row.head_dim)),
        }[row.bias]()
        reason = why_not(backend, q, k, k, row.pattern, bias)
    # What was left out of this installation is asked as if it were there.
    return "yes" if reason is None or reason == why_not_built(backend) else f"no: {reason.partition(':')[0]}"
