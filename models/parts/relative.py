"""A learned bias of attention that depends on how far the key stands from the query, in buckets that
widen with the distance (Raffel et al. 2019, arXiv:1910.10683, section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...bias import Distance


def bucket(steps: Tensor, *, bins: int, longest: int) -> Tensor:
    """The bucket of each distance, key's place less query's.

    Half of the ``bins`` are for keys behind the query and for its own place, half for those ahead. Of
    each half the first half holds one distance each, the rest ranges that grow as powers up to
    ``longest``; what is further falls into the last.

    Args:
        steps: Integers of any shape.
        bins: A multiple of 4.

    Example:
        >>> bucket(torch.tensor([-200, -9, -1, 0, 1, 9, 200]), bins=32, longest=128)
        tensor([15,  8,  1,  0, 17, 24, 31])
    """
    half, exact = bins // 2, bins // 4
    far = steps.abs()
    # In float32 and in this order: edges of buckets are where the published models had them.
    power = torch.log(far.clamp(min=1).float() / exact) / math.log(longest / exact) * (half - exact)
    wide = (exact + power.long()).clamp(max=half - 1)
    return torch.where(far < exact, far, wide) + half * (steps > 0)


class RelativeBias(nn.Module):
    """One number for each head and bucket, added to the scores of all pairs at that distance.

    Args:
        bins, longest: As :func:`bucket` has them.

    Attributes:
        table: Its weight is ``(heads, bins)``.

    Example:
        >>> RelativeBias(3, bins=32, longest=128)(5).values.shape
        torch.Size([3, 9])
    """

    def __init__(self, heads: int, *, bins: int, longest: int) -> None:
        super().__init__()
        self.bins, self.longest = bins, longest
        self.table = nn.Linear(bins, heads, bias=False)

    def forward(self, size: int) -> Distance:
        """For self-attention of ``size`` tokens, or of packed sequences up to that size."""
        return Distance(self.of(torch.arange(1 - size, size, device=self.table.weight.device)))

    def of(self, steps: Tensor) -> Tensor:
        """``steps (...)`` -> ``(heads, ...)``."""
        return self.table.weight[:, bucket(steps, bins=self.bins, longest=self.longest)]
