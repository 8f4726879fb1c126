"""A bit pattern for memory nobody has written: NaN for floats, absurd for integers.

It is a signalling NaN with a payload no computation yields, so finding it later proves that
the very bits of uninitialised memory were read or left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# By numpy kind ("f" float, "i" integer) and bytes; bfloat16 has a pattern of its own.
PATTERNS = {
    ("f", 2): 0x7DA5, ("f", 4): 0x7FA5A5A5, ("f", 8): 0x7FF5A5A5A5A5A5A5,
    ("i", 1): 0xA5, ("i", 2): 0xA5A5, ("i", 4): 0xA5A5A5A5, ("i", 8): 0xA5A5A5A5A5A5A5A5,
}  # fmt: skip
BF16 = 0x7FA5
UNTOUCHED = (torch.bool, torch.complex64, torch.complex128)
LARGEST = 1 << 28  # bytes; beyond, the memory is left as it comes, which costs nothing until it is used
ALLOCATORS = ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (torch, "empty_permuted"),
              (torch.Tensor, "new_empty"), (torch.Tensor, "new_empty_strided"))  # fmt: skip


def pattern(kind: str, itemsize: int) -> np.ndarray:
    """The poison of an element, as an unsigned integer of its size. ``kind``: "f", "b" (bfloat16) or "i"."""
    bits = BF16 if kind == "b" else PATTERNS[kind, itemsize]
    return np.array(bits, f"u{itemsize}")


def telling(kind: str, itemsize: int) -> bool:
    """Whether finding the pattern proves anything: short integers take every value."""
    return kind != "i" or itemsize >= 4


def _kind(dtype: torch.dtype) -> str:
    return "b" if dtype == torch.bfloat16 else "f" if dtype.is_floating_point and dtype.itemsize > 1 else "i"


def _pattern_of(dtype: torch.dtype) -> np.ndarray:
    return pattern(_kind(dtype), dtype.itemsize)


def _bytes(x: torch.Tensor) -> np.ndarray:
    """The storage of x, as its elements' bits."""
    storage = x.untyped_storage()
    raw = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,))
    return raw.numpy()[: storage.nbytes() // x.element_size() * x.element_size()].view(f"u{x.element_size()}")


def unwritten(x: torch.Tensor) -> int:
    """How many elements of x still hold the poison of ``torch.empty``."""
    if not telling(_kind(x.dtype), x.element_size()):
        raise ValueError(f"x: an element of {x.dtype} is too short to tell poison from data")
    bits = x.detach().contiguous().view(getattr(torch, f"int{8 * x.element_size()}")).numpy()
    return int((bits.view(f"u{x.element_size()}") == _pattern_of(x.dtype)).sum())


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside, every kind of ``torch.empty`` on the CPU gives poison."""
    originals = [(owner, name, getattr(owner, name)) for owner, name in ALLOCATORS]
    for owner, name, original in originals:
        setattr(owner, name, _poisoning(original))
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _poisoning(allocate: Callable) -> Callable:
    def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
        x = allocate(*args, **kwargs)
        plain = type(x) is torch.Tensor and x.device.type == "cpu" and x.layout == torch.strided
        if plain and x.dtype not in UNTOUCHED and 0 < x.untyped_storage().nbytes() <= LARGEST:
            _bytes(x)[...] = _pattern_of(x.dtype)
        return x

    return empty
