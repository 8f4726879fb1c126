"""The ``reference`` backend for Band."""

from .equations import backward, forward

__all__ = ["backward", "forward"]
