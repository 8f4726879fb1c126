"""The ``cuda`` backend of LSH hashing and sorting."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import call


def order(x: Tensor, rotations: Tensor, mask: Tensor | None, buckets: list[int], entries: int) -> Tensor:
    """``(B, H, R, entries)`` int32; see :func:`pkernels.lsh_order`."""
    shape = (*x.shape[:2], rotations.shape[2])
    hashes, spare = (torch.empty(*shape, x.shape[2], dtype=torch.int32, device=x.device) for _ in range(2))
    found = torch.empty(*shape, entries, dtype=torch.int32, device=x.device)
    if found.numel():
        mask = None if mask is None else mask.contiguous()
        call.launch("lsh_hash", call.rows(x), rotations.float().contiguous(), mask, buckets, hashes)
        call.launch("lsh_sort", hashes, math.prod(buckets) + 1, found, spare)
    return found
