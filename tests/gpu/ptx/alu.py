"""Arithmetic, logic, comparison and selection (PTX ISA, sections 9.7.1 to 9.7.8).

Floating point is IEEE, rounded to nearest even; ``.approx`` functions are rounded exactly, which
a GPU's are only to a few units in the last place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .errors import UnsupportedError
from .instructions import Instruction, Kernel
from .machine import Cta
from .operands import source
from .program import Step, decodes
from .values import FLOATS, TYPES, Array, flush, fma, narrow, raw, widen, width

FLOAT: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.fmin,
    "max": np.fmax,
    "abs": np.abs,
    "neg": np.negative,
    "fma": fma,
    "mad": fma,
    "copysign": lambda a, b: np.copysign(b, a),
    "ex2": np.exp2,
    "lg2": np.log2,
    "rcp": lambda a: 1 / a,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
}
TRANSCENDENTAL = ("ex2", "lg2", "rcp", "sqrt", "rsqrt", "sin", "cos", "tanh")


def float_step(i: Instruction, kernel: Kernel) -> Step:
    """An operation on f16, bf16, f32, f64 or pairs."""
    word, name = i.parts[0], i.types[-1]
    if i.has("rz", "rm", "rp", "rna"):
        raise UnsupportedError(f"rounding mode of {i.opcode}")
    function = FLOAT[word]
    if i.has("NaN"):
        function = {"min": np.minimum, "max": np.maximum}[word]
    target, ftz, sat, relu = i.operands[0], i.has("ftz"), i.has("sat"), i.has("relu")
    if (
        not (ftz or sat or relu)
        and name in ("f32", "f64")
        and word not in TRANSCENDENTAL
        and word not in ("fma", "mad")
    ):
        return _plain(function, target, [source(o, name, kernel) for o in i.operands[1:]])
    read = [source(o, name, kernel) for o in i.operands[1:]]

    def step(cta: Cta) -> None:
        values = [widen(r(cta), name) for r in read]
        if ftz:
            values = [flush(v) for v in values]
        if word in TRANSCENDENTAL and name != "f64":
            values = [v.astype(np.float64) for v in values]
        out = function(*values)
        if relu:
            out = np.where(np.isnan(out), out, np.maximum(out, 0))
        if sat:
            out = np.where(np.isnan(out), 0, np.clip(out, 0, 1))
        bits = narrow(out, name)
        cta.write(target, raw(flush(bits.view(np.float32))) if ftz and name == "f32" else bits)

    return step


def _plain(function: Callable[..., Array], target: object, read: list) -> Step:
    if len(read) == 1:
        (a,) = read
        return lambda cta: cta.write(target, function(a(cta)))
    if len(read) == 2:
        a, b = read
        return lambda cta: cta.write(target, function(a(cta), b(cta)))
    return lambda cta: cta.write(target, function(*[r(cta) for r in read]))


def _divide(a: Array, b: Array) -> Array:
    """Integer division towards zero; by zero: all ones, as on NVIDIA GPUs."""
    q = np.where(b == 0, -1, 0).astype(a.dtype)
    safe = np.where(b == 0, 1, b).astype(a.dtype)
    floor, rest = np.divmod(a, safe)
    towards_zero = floor + ((rest != 0) & ((a < 0) != (safe < 0))).astype(a.dtype)
    return np.where(b == 0, q, towards_zero)


def _shift_left(a: Array, n: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    return np.where(n < bits, a << np.minimum(n, bits - 1).astype(a.dtype), a.dtype.type(0))


def _shift_right(a: Array, n: Array) -> Array:
    bits = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(n, bits - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(n < bits, shifted, a.dtype.type(0))


INTEGER: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "abs": np.abs,
    "neg": np.negative,
    "div": _divide,
    "rem": lambda a, b: a - _divide(a, b) * b,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "cnot": lambda a: (a == 0).astype(a.dtype),
    "sad": lambda a, b, c: c + np.where(a > b, a - b, b - a).astype(c.dtype),
}


def multiply_high(a: Array, b: Array) -> Array:
    """Upper half of the full product of 32- or 64-bit integers."""
    size = a.dtype.itemsize
    if size < 8:
        wide = np.dtype(f"{a.dtype.kind}{2 * size}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(8 * size)).astype(a.dtype)
    x, y, low = raw(a), raw(b), np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    cross = (x >> half) * (y & low) + ((x & low) * (y & low) >> half)
    other = (x & low) * (y >> half) + (cross & low)
    high = (x >> half) * (y >> half) + (cross >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, 0).astype(np.uint64) - np.where(b < 0, x, 0).astype(np.uint64)
    return high.view(a.dtype)


def product_step(i: Instruction, kernel: Kernel) -> Step:
    """``mul`` and ``mad`` of integers: ``.lo``, ``.hi`` or ``.wide``."""
    name, target = i.types[-1], i.operands[0]
    half = "wide" if i.has("wide") else "hi" if i.has("hi") else "lo"
    wide = np.dtype(f"{np.dtype(TYPES[name]).kind}{min(8, 2 * width(name))}")
    multiply: Callable[[Array, Array], Array] = np.multiply
    if half != "lo":
        multiply = multiply_high if half == "hi" else lambda x, y: x.astype(wide) * y.astype(wide)
    a, b = (source(o, name, kernel) for o in i.operands[1:3])
    result = f"{name[0]}{8 * wide.itemsize}" if half == "wide" else name
    c = source(i.operands[3], result, kernel) if i.parts[0] == "mad" else None

    def step(cta: Cta) -> None:
        out = multiply(a(cta), b(cta))
        cta.write(target, out if c is None else out + c(cta))

    return step


@decodes("mul", "mad")
def decode_product(i: Instruction, kernel: Kernel) -> Step:
    return float_step(i, kernel) if i.types[-1] in FLOATS else product_step(i, kernel)


@decodes("add", "sub", "min", "max", "abs", "neg", "div", "rem", "and", "or", "xor", "not", "cnot", "sad")
def decode_arithmetic(i: Instruction, kernel: Kernel) -> Step:
    if i.has("s16x2", "u16x2"):
        return _pairs(i, kernel)
    name = i.types[-1]
    if name in FLOATS:
        return float_step(i, kernel)
    if i.has("cc", "sat"):
        raise UnsupportedError(f"instruction {i.opcode}")
    return _plain(INTEGER[i.parts[0]], i.operands[0], [source(o, name, kernel) for o in i.operands[1:]])


def _pairs(i: Instruction, kernel: Kernel) -> Step:
    """Two 16-bit integers in a register."""
    target, function, kind = i.operands[0], INTEGER[i.parts[0]], TYPES[i.parts[-1][:3]]
    read = [source(o, "b32", kernel) for o in i.operands[1:]]
    return lambda cta: cta.write(target, function(*[r(cta).view(kind) for r in read]).view(np.uint32))


@decodes("fma", "copysign", *TRANSCENDENTAL)
def decode_float(i: Instruction, kernel: Kernel) -> Step:
    return float_step(i, kernel)


@decodes("shl", "shr")
def decode_shift(i: Instruction, kernel: Kernel) -> Step:
    read = [source(i.operands[1], i.types[-1], kernel), source(i.operands[2], "u32", kernel)]
    return _plain(_shift_left if i.parts[0] == "shl" else _shift_right, i.operands[0], read)
