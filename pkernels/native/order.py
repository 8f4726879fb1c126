"""The ``cpu`` backend of LSH hashing and sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from . import operators


def order(x: Tensor, rotations: Tensor, mask: Tensor | None, buckets: list[int], entries: int) -> Tensor:
    """``(B, H, R, entries)`` int32; see :func:`pkernels.lsh_order`."""
    found = torch.empty((*x.shape[:2], rotations.shape[2], entries), dtype=torch.int32)
    x = x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
    mask = None if mask is None else mask.contiguous()
    operators().lsh_order(x, rotations.float().contiguous(), mask, buckets, found)
    return found
