"""A learned bias of attention that depends on how far the key stands from the query, in buckets that
widen with the distance (Raffel et al. 2019, arXiv:1910.10683, section 2.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...bias import Distance
from .linear import Linear


def bucket(steps: Tensor, *, bins: int, longest: int, sides: int = 2) -> Tensor:
    """The bucket of each distance, key's place less query's.

    Half of the ``bins`` are for keys behind the query and for its own place, half for those ahead. Of
    each half the first half holds one distance each, the rest ranges that grow as powers up to
    ``longest``; what is further falls into the last.

    Args:
        steps: Integers of any shape.
        bins: A multiple of 4, or of 2 for one side.
        longest: More than the distances that have a bucket of their own.
        sides: 1 where no query sees keys ahead: all bins are for those behind, and 0 for the others.

    Example:
        >>> bucket(torch.tensor([-200, -9, -1, 0, 1, 9, 200]), bins=32, longest=128)
        tensor([15,  8,  1,  0, 17, 24, 31])
        >>> bucket(torch.tensor([-200, -9, -1, 0, 1]), bins=32, longest=128, sides=1)
        tensor([31,  9,  1,  0,  0])
    """
    side, exact = bins // sides, bins // sides // 2
    far = steps.abs() if sides == 2 else (-steps).clamp(min=0)
    # In float32 and in this order: edges of buckets are where the published models had them.
    power = torch.log(far.clamp(min=1).float() / exact) / math.log(longest / exact) * (side - exact)
    wide = (exact + power.long()).clamp(max=side - 1)
    near = torch.where(far < exact, far, wide)
    return near if sides == 1 else near + side * (steps > 0)


class RelativeBias(nn.Module):
    """One number for each head and bucket, added to the scores of all pairs at that distance. As the op
    takes it, it is one for each distance: neither it nor its gradient is ever of the size of all pairs.

    Args:
        bins, longest, sides: As :func:`bucket` has them.

    Attributes:
        table: Its weight is ``(heads, bins)``.

    Example:
        >>> RelativeBias(3, bins=32, longest=128)(5).values.shape
        torch.Size([3, 9])
    """

    def __init__(self, heads: int, *, bins: int, longest: int, sides: int = 2) -> None:
        super().__init__()
        self.bins, self.longest, self.sides = bins, longest, sides
        self.table = Linear(bins, heads, bias=False)

    def forward(self, queries: int, keys: int | None = None) -> Distance:
        """For self-attention of so many tokens, or of packed sequences up to that size; or of ``queries``
        of which the last stands beside the last of ``keys``."""
        keys = queries if keys is None else keys
        return Distance(self.of(torch.arange(1 - keys, queries, device=self.table.weight.device)))

    def of(self, steps: Tensor) -> Tensor:
        """``steps (...)`` -> ``(heads, ...)``."""
        return self.table.weight[:, bucket(steps, bins=self.bins, longest=self.longest, sides=self.sides)]
