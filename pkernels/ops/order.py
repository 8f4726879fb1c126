"""``pkernels::lsh_order``: hashing and sorting; ``pkernels::lsh_rotations``: what hashes. No derivatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .backends import backend as load
from .registration import LIBRARY, REGISTERED


def _compute(
    x: Tensor, rotations: Tensor, mask: Tensor | None, buckets: list[int], entries: int, backend: str
) -> Tensor:
    heads, dim, half = x.shape[1], x.shape[3], sum(n // 2 for n in buckets)
    if rotations.dim() != 4 or (*rotations.shape[:2], rotations.shape[3]) != (heads, dim, half):
        raise ValueError(f"rotations: shape ({heads}, {dim}, R, {half}) is allowed, got {tuple(rotations.shape)}")
    if not buckets or any(n < 2 or n % 2 for n in buckets) or math.prod(buckets) >= 2**31 - 1:
        raise ValueError(f"buckets: even numbers of at least 2, product below 2**31, are allowed, got {list(buckets)}")
    if entries < x.shape[2]:
        raise ValueError(f"entries: at least {x.shape[2]}, one for each row, are allowed, got {entries}")
    if mask is not None and (mask.shape != (x.shape[0], x.shape[2]) or mask.dtype != torch.bool):
        want = (x.shape[0], x.shape[2])
        raise ValueError(f"mask: booleans of shape {want} are allowed, got {mask.dtype} {tuple(mask.shape)}")
    return load(backend, "order").order(x, rotations, mask, list(buckets), entries)


def _fake(x: Tensor, rotations: Tensor, mask: Tensor | None, buckets: list[int], entries: int, backend: str) -> Tensor:
    return x.new_empty((*x.shape[:2], rotations.shape[2], entries), dtype=torch.int32)


LIBRARY.define(
    "lsh_order(Tensor x, Tensor rotations, Tensor? mask, SymInt[] buckets, SymInt entries, str backend) -> Tensor"
)
LIBRARY.impl("lsh_order", _compute, "CompositeExplicitAutograd")
torch.library.register_fake(f"{LIBRARY.ns}::lsh_order", _fake, lib=LIBRARY)
lsh_order = REGISTERED.lsh_order.default


# An operator, because a generator cannot be made within a compiled function.
LIBRARY.define("lsh_rotations(SymInt seed, SymInt[] shape) -> Tensor")
LIBRARY.impl(
    "lsh_rotations",
    lambda seed, shape: torch.randn(shape, generator=torch.Generator().manual_seed(seed)),
    "CompositeExplicitAutograd",
)
torch.library.register_fake(f"{LIBRARY.ns}::lsh_rotations", lambda seed, shape: torch.empty(shape), lib=LIBRARY)
lsh_rotations = REGISTERED.lsh_rotations.default
