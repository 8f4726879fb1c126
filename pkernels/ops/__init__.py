"""The torch operators: schema, shape inference and autograd, once, for all backends."""

from .backends import BACKENDS, choose, why_not
from .band import band

__all__ = ["BACKENDS", "band", "choose", "why_not"]
