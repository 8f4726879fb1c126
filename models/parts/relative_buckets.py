"""Position biases by buckets of distances, near ones alone and far ones together (T5: Raffel et al.
2019, arXiv:1910.10683, section 2.1; UniLM v2 and others have kept the buckets)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...bias import Distance


def buckets(distance: Tensor, count: int = 32, farthest: int = 128, *, sides: int = 2) -> Tensor:
    """The bucket of each distance ``k - q``.

    Half of a side's buckets hold one distance each; the others grow by the same factor up to
    ``farthest``, and all from there on share the last one.

    Args:
        distance: Integers of any shape.
        count: Buckets, for both sides together; a multiple of ``2 * sides``.
        farthest: More than the distances that have a bucket of their own.
        sides: 2 for buckets of their own before and behind the query, 1 where it sees none of
            the later keys: they get bucket 0.

    Returns:
        int64, from 0 to ``count - 1``: a query itself is in bucket 0, those behind it are in the
        second half.

    Example:
        >>> buckets(torch.tensor([-200, -20, -3, 0, 3, 20])).tolist()
        [15, 10, 3, 0, 19, 26]
        >>> buckets(torch.tensor([-200, -20, -3, 0, 3]), sides=1).tolist()
        [31, 17, 3, 0, 0]
    """
    check_buckets(count, farthest, sides)
    size = count // sides
    alone = size // 2
    steps = distance.abs() if sides == 2 else (-distance).clamp(min=0)
    # In float32, as the published weights were trained: the edges are where its rounding puts them.
    grown = torch.log(steps.clamp(min=alone).float() / alone) / math.log(farthest / alone) * (size - alone)
    shared = (alone + grown.long()).clamp(max=size - 1)
    bucket = torch.where(steps < alone, steps, shared)
    return bucket + size * (distance > 0) if sides == 2 else bucket


def check_buckets(count: int, farthest: int, sides: int = 2) -> None:
    """Refuse numbers of which no buckets can be made, by the names that config.json files use."""
    if sides not in (1, 2):
        raise ValueError(f"sides: 1 or 2 is allowed, got {sides}")
    if count < 2 * sides or count % (2 * sides):
        raise ValueError(f"relative_attention_num_buckets: a multiple of {2 * sides} is allowed, got {count}")
    if farthest <= count // sides // 2:
        raise ValueError(f"relative_attention_max_distance: more than {count // sides // 2} is allowed, got {farthest}")


class BucketBias(nn.Module):
    """A learned bias for each head and bucket, as the op takes it: one value for each distance, so
    nothing here, nor the gradient, is of size S².

    Args:
        heads: Of the attention.
        count, farthest, sides: As for :func:`buckets`.

    Example:
        >>> BucketBias(4)(5).values.shape
        torch.Size([4, 9])
    """

    def __init__(self, heads: int, count: int = 32, farthest: int = 128, *, sides: int = 2) -> None:
        super().__init__()
        check_buckets(count, farthest, sides)
        self.count, self.farthest, self.sides = count, farthest, sides
        self.table = nn.Embedding(count, heads)

    def forward(self, queries: int, keys: int | None = None) -> Distance:
        """Of as many queries, the last of which stands beside the last of the keys."""
        keys = queries if keys is None else keys
        distance = torch.arange(1 - keys, queries, device=self.table.weight.device)
        return Distance(self.table(buckets(distance, self.count, self.farthest, sides=self.sides)).T)
