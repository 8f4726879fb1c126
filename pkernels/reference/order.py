"""LSH hashing and sorting (Kitaev et al. 2020, arXiv:2001.04451, section 2, "LSH attention").

    h(x) = argmax([x R; -x R])          rows in the order of (h, position), stable

Where the number of buckets is a product, each factor has rotations of its own and h is the
mixed-radix number of their hashes, the first the least significant.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..problem import accumulator


def order(x: Tensor, rotations: Tensor, mask: Tensor | None, buckets: list[int], entries: int) -> Tensor:
    """``(B, H, R, entries)`` int32; see :func:`pkernels.lsh_order`."""
    wide = accumulator(x)
    rotated = torch.einsum("bhsd,hdre->bhrse", x.to(wide), rotations.to(wide))
    hashes = torch.zeros(rotated.shape[:-1], dtype=torch.int64, device=x.device)
    first, unit = 0, 1
    for number in buckets:
        part = rotated[..., first : first + number // 2]
        hashes += unit * torch.cat([part, -part], dim=-1).argmax(-1)
        first, unit = first + number // 2, unit * number
    if mask is not None:
        hashes = hashes.masked_fill(~mask[:, None, None], math.prod(buckets))
    found = hashes.argsort(dim=-1, stable=True)
    if mask is not None:
        real = torch.arange(x.shape[2], device=x.device) < mask.sum(1)[:, None]
        found = found.masked_fill(~real[:, None, None], -1)
    return torch.nn.functional.pad(found, (0, entries - x.shape[2]), value=-1).to(torch.int32)
