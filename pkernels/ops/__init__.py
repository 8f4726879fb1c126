"""The torch operators: schema, shape inference and autograd, once, for all backends."""

from .backends import BACKENDS, choose, why_not, why_not_built
from .band import band
from .blocks import blocks
from .buckets import buckets
from .order import lsh_order, lsh_rotations
from .plain import plain

__all__ = [
    "BACKENDS",
    "band",
    "blocks",
    "buckets",
    "choose",
    "lsh_order",
    "lsh_rotations",
    "plain",
    "why_not",
    "why_not_built",
]
