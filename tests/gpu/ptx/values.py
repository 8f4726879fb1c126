"""PTX types as numpy arrays: registers hold raw bits in unsigned arrays, one element per thread.

Types and conversions follow the PTX ISA 8.x (NVIDIA), sections "Types" and "cvt".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
TYPES: dict[str, type] = {f"{kind}{8 * size}": UNSIGNED[size] for kind in "bu" for size in UNSIGNED}
TYPES |= {"s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "pred": np.bool_}
TYPES |= {"f16": np.float16, "bf16": np.uint16, "tf32": np.float32, "f32": np.float32, "f64": np.float64}
TYPES |= {"f16x2": np.uint32, "bf16x2": np.uint32}
FLOATS = ("f16", "bf16", "f16x2", "bf16x2", "f32", "f64", "tf32")


def width(name: str) -> int:
    """Bytes of a PTX type; 16 for ``b128``."""
    return 16 if name == "b128" else np.dtype(TYPES[name]).itemsize


def raw(x: Array) -> Array:
    """The bits of an array, as unsigned integers."""
    return x if x.dtype == np.bool_ else np.ascontiguousarray(x).view(UNSIGNED[x.dtype.itemsize])


def bf16_to_f32(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(x: Array) -> Array:
    """Round to nearest even; NaN becomes the canonical 0x7FFF."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def f32_to_tf32(x: Array) -> Array:
    """Round to 10 bits of mantissa, ties away from zero (``cvt.rna.tf32.f32``)."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)


def truncate_tf32(x: Array) -> Array:
    """What a tensor core reads of an fp32 register: the upper 19 bits."""
    return (raw(x) & np.uint32(0xFFFFE000)).view(np.float32)


def flush(x: Array) -> Array:
    """``.ftz``: subnormal numbers become zeros of the same sign."""
    tiny = np.abs(x) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(np.float32(0), x), x) if tiny.any() else x


def widen(bits: Array, name: str) -> Array:
    """Raw bits of a floating type as numbers: ``(T,)`` float32 or float64, ``(T, 2)`` for packed pairs."""
    if name in ("f16x2", "bf16x2"):
        return widen(np.ascontiguousarray(bits).view(np.uint16).reshape(*bits.shape, 2), name[:-2])
    if name == "bf16":
        return bf16_to_f32(bits.view(np.uint16))
    if name == "f16":
        return bits.view(np.float16).astype(np.float32)
    return bits.view(TYPES[name])


def narrow(x: Array, name: str) -> Array:
    """Numbers as raw bits of a floating type, rounded to nearest even: the inverse of :func:`widen`."""
    if name in ("f16x2", "bf16x2"):
        return np.ascontiguousarray(narrow(x, name[:-2])).view(np.uint32).reshape(x.shape[:-1])
    if name == "bf16":
        return f32_to_bf16(round_f32(x))
    if name == "f16":
        return raw(x.astype(np.float16))
    return raw(x.astype(TYPES[name], copy=False))


def round_f32(x: Array) -> Array:
    """float64 that holds a :func:`odd` sum, or float32, as float32."""
    return x.astype(np.float32, copy=False)


def odd(total: Array, error: Array) -> Array:
    """A float64 sum and its rounding error as the float64 that is rounded to odd.

    Rounding that once more to 24 bits or fewer gives the correctly rounded result (Boldo and
    Melquiond 2008, "Emulation of FMA and correctly rounded sums", section 3).
    """
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    fix = even & (error != 0) & np.isfinite(total)
    return np.where(fix, np.nextafter(total, np.where(error > 0, np.inf, -np.inf)), total) if fix.any() else total


def fma(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32 operands, as float64 that rounds once; of float64 operands in long double."""
    if a.dtype == np.float64:
        return (a.astype(np.longdouble) * b + c).astype(np.float64)
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    back = total - product
    return odd(total, (product - (total - back)) + (c - back))
