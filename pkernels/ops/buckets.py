"""``pkernels::buckets_fwd`` and ``pkernels::buckets_bwd``."""

from __future__ import annotations

from ..buckets import Buckets
from .shape import Shape

buckets = Shape(
    "buckets",
    ("Tensor order",),
    ("SymInt chunk", "bool causal", "SymInt before", "SymInt after", "float? own"),
    Buckets,
).operator()
