"""FlashAttention 2 (Dao 2023, "FlashAttention-2"), as its package ``flash_attn`` offers it."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from pkernels import INF

from ..workload import Inputs, Workload
from .base import Forward

WIDEST = 256


class Flash:
    """``flash_attn_func``, or ``flash_attn_varlen_func`` for packed sequences.

    Both align queries and keys at the bottom right, as pkernels does, since version 2.1.
    """

    name = "flash-attn"

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """What the library cannot do."""
        if device != "cuda":
            return "flash_attn is for GPUs"
        if importlib.util.find_spec("flash_attn") is None:
            return "flash_attn is not installed"
        if workload.dtype not in (torch.float16, torch.bfloat16) or max(workload.dim, workload.dv) > WIDEST:
            return f"flash_attn is for 16-bit types and head dimensions up to {WIDEST}"
        if workload.dim != workload.dv or workload.bias or workload.positions or not _is_window(workload):
            return "flash_attn has windows, and neither biases nor global rows"
        if workload.lengths and not workload.packed:
            return "flash_attn wants ragged batches packed"
        return None

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """Transposed views go in: a user of the library keeps tensors as (B, S, H, D) from the start."""
        import flash_attn

        options = {"causal": False, "window_size": window_of(workload), "dropout_p": workload.dropout}
        if x.offsets is not None:
            longest = max(workload.lengths or (0,))

            def packed() -> Tensor:
                q, k, v = (y[0].transpose(0, 1) for y in (x.q, x.k, x.v))
                out = flash_attn.flash_attn_varlen_func(q, k, v, x.offsets, x.offsets, longest, longest, **options)
                return out.transpose(0, 1)[None]

            return packed

        def forward() -> Tensor:
            q, k, v = (y.transpose(1, 2) for y in (x.q, x.k, x.v))
            return flash_attn.flash_attn_func(q, k, v, **options).transpose(1, 2)

        return forward


def window_of(workload: Workload) -> tuple[int, int]:
    """Reach to either side, as flash_attn writes it: -1 is without end.

    Example:
        >>> from pkernels import causal, window
        >>> window_of(Workload(pattern=causal)), window_of(Workload(pattern=window(8)))
        ((-1, 0), (8, 8))
    """
    pattern = workload.pattern
    left, right = (-1 if reach == INF else int(reach) for reach in (pattern.left, pattern.right))
    return left, right


def _is_window(workload: Workload) -> bool:
    pattern = workload.pattern
    plain = isinstance(pattern.columns, int) and pattern.columns == 0 and not pattern.rows
    # A reach below 0 keeps a row from its own key; -1 would be taken for no limit.
    return plain and pattern.dilation == 1 and min(pattern.left, pattern.right) >= 0
