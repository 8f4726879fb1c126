"""Where randomness comes from: every draw has a name, and is a function of the seed and that name.

So nothing has to be remembered to go on after a stop, and it does not matter which process draws.
"""

from __future__ import annotations

import hashlib

import torch


def number(seed: int, *name: str | int) -> int:
    """A number below 2^56 that belongs to a name.

    Example:
        >>> number(0, "order", 3) == number(0, "order", 3) != number(0, "order", 4)
        True
    """
    digest = hashlib.blake2b(repr((seed, *name)).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def generator(seed: int, *name: str | int) -> torch.Generator:
    """A new generator, on the CPU, that belongs to a name."""
    return torch.Generator().manual_seed(number(seed, *name))
