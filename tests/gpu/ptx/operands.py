"""Operands as functions of the CTA: what an instruction reads, and where its addresses point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .errors import PtxError
from .instructions import Imm, Kernel, Mem, Reg, Vec
from .machine import Cta
from .values import TYPES, UNSIGNED, Array, raw

Source = Callable[[Cta], Array]


def source(operand: object, name: str, kernel: Kernel) -> Source:
    """Reader of an operand as ``(threads,)`` of the numpy type of the PTX type ``name``.

    A wider register is truncated, as PTX allows for conversions and stores.
    """
    kind = np.dtype(TYPES[name])
    if isinstance(operand, Imm):
        bits = operand.bits()
        if kind == np.bool_:
            constant = np.full(kernel.threads, bool(bits))
        else:
            mask = (1 << 8 * kind.itemsize) - 1
            constant = np.full(kernel.threads, bits & mask, UNSIGNED[kind.itemsize]).view(kind)
        return lambda cta: constant
    if not isinstance(operand, Reg):
        raise PtxError(f"operand {operand!r} is no register or number")
    reg, size = operand, operand.bytes
    if kind == np.bool_ or size == 0:
        if kind == np.bool_ and size == 0:
            return lambda cta: cta.read(reg)
        raise PtxError(f"register {reg.name} does not hold a {name}")
    if size == kind.itemsize:
        return lambda cta: cta.read(reg).view(kind)
    if size < kind.itemsize:
        raise PtxError(f"register {reg.name} of {size} bytes does not hold a {name}")
    return lambda cta: cta.read(reg).astype(UNSIGNED[kind.itemsize]).view(kind)


def sources(operand: object, name: str, kernel: Kernel) -> list[Source]:
    """Readers of the items of a vector, or of the one operand."""
    return [source(o, name, kernel) for o in items(operand)]


def items(operand: object) -> tuple:
    return operand.items if isinstance(operand, Vec) else (operand,)


def address(operand: object, kernel: Kernel) -> Source:
    """Reader of ``[base + offset]`` as int64."""
    assert isinstance(operand, Mem), operand
    offset = np.int64(operand.offset)
    if isinstance(operand.base, Imm):
        read = source(operand.base, "u64", kernel)
    elif isinstance(operand.base, Reg):
        read = source(operand.base, "u32" if operand.base.bytes == 4 else "u64", kernel)
    else:
        raise PtxError(f"address {operand!r} is no register or symbol")
    return lambda cta: read(cta).astype(np.int64) + offset


def pack(words: list[Array]) -> Array:
    """Arrays ``(threads,)`` of one width, side by side as bytes ``(threads, n * width)``."""
    return np.stack([raw(w) for w in words], 1).view(np.uint8)


def unpack(data: Array, count: int) -> list[Array]:
    """The inverse of :func:`pack`."""
    size = data.shape[1] // count
    words = np.ascontiguousarray(data).view(UNSIGNED[size])
    return [np.ascontiguousarray(words[:, n]) for n in range(count)]
