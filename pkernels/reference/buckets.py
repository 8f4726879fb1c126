"""The ``reference`` backend for Buckets."""

from .equations import backward, forward

__all__ = ["backward", "forward"]
