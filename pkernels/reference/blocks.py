"""The ``reference`` backend for Blocks."""

from .equations import backward, forward

__all__ = ["backward", "forward"]
