"""``cvt``: between integer and floating types, with rounding and saturation (PTX ISA, section 9.7.9.21)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .errors import UnsupportedError
from .instructions import Instruction, Kernel
from .machine import Cta
from .operands import source
from .program import Step, decodes
from .values import FLOATS, TYPES, Array, f32_to_tf32, flush, narrow, odd, raw, widen

TO_INTEGER: dict[str, Callable[[Array], Array]] = {
    "rni": np.rint,
    "rzi": np.trunc,
    "rmi": np.floor,
    "rpi": np.ceil,
}


def float_to_integer(x: Array, name: str, rounding: str) -> Array:
    """Rounded, clamped to the range of the type; NaN gives 0 (on 64 bits: the highest bit)."""
    kind, info = TYPES[name], np.iinfo(TYPES[name])
    whole = TO_INTEGER[rounding](x.astype(np.float64))
    top = np.nextafter(float(info.max) + 1, 0) if info.bits == 64 else float(info.max)
    inside = np.clip(np.nan_to_num(whole, nan=0.0), float(info.min), top).astype(kind)
    inside = np.where(whole >= float(info.max), info.max, inside)
    nan = (1 << 63) - (1 << 64 if info.min < 0 else 0) if info.bits == 64 else 0
    return np.where(np.isnan(x), np.array(nan, kind), inside).astype(kind)


def integer_to_float(x: Array, name: str) -> Array:
    """Rounded to nearest even; raw bits."""
    if name in ("f32", "f64"):
        return raw(x.astype(TYPES[name]))
    wide = x.astype(np.float64)
    if x.dtype.itemsize == 8:
        wide = odd(wide, (x - wide.astype(x.dtype)).astype(np.float64))
    return narrow(wide.astype(np.float32), name)


def round_down(x: Array, name: str) -> Array:
    """float32 to raw bits of f16 or bf16 (or pairs of them), towards zero."""
    if name[-2:] == "x2":
        return np.ascontiguousarray(round_down(x, name[:-2])).view(np.uint32).reshape(x.shape[:-1])
    near = narrow(x, name)
    step = (np.abs(widen(near, name)) > np.abs(x)).astype(np.uint16)
    return near - step


def float_step(i: Instruction, kernel: Kernel, to: str, given: list[str]) -> Step:
    read = [source(o, given[-1], kernel) for o in i.operands[1:]]
    target = i.operands[0]
    down, ftz, relu, sat, finite = (i.has(w) for w in ("rz", "ftz", "relu", "sat", "satfinite"))
    if i.has("rm", "rp") or (finite and to != "tf32"):
        raise UnsupportedError(f"rounding of {i.opcode}")
    whole = next((TO_INTEGER[p] for p in i.parts if p in TO_INTEGER), None)

    def step(cta: Cta) -> None:
        values = [widen(r(cta), given[-1]) for r in read]
        # The first operand is the upper half of a pair.
        x = values[0] if len(values) == 1 else np.stack(values[::-1], -1)
        if ftz and x.dtype == np.float32:
            x = flush(x)
        if whole is not None:
            x = whole(x)
        if relu:
            x = np.where(np.isnan(x), x, np.maximum(x, 0))
        if sat:
            x = np.where(np.isnan(x), 0, np.clip(x, 0, 1)).astype(x.dtype)
        if to == "tf32":
            out = raw(f32_to_tf32(x))
        elif down and to not in ("f32", "f64"):
            out = round_down(x, to)
        else:
            out = narrow(_halfway(x, to), to)
        cta.write(target, raw(flush(out.view(np.float32))) if ftz and to == "f32" else out)

    return step


def _halfway(x: Array, to: str) -> Array:
    """float64 rounded to odd as float32 where the target is narrower still."""
    if x.dtype != np.float64 or to in ("f32", "f64"):
        return x
    near = x.astype(np.float32)
    even = (near.view(np.uint32) & 1) == 0
    error = x - near
    return np.where(
        even & (error != 0), np.nextafter(near, np.where(error > 0, np.inf, -np.inf), dtype=np.float32), near
    )


@decodes("cvt")
def decode_convert(i: Instruction, kernel: Kernel) -> Step:
    words = [p for p in i.parts[1:] if p in TYPES]
    others = [p for p in i.parts[1:] if p.startswith(("e4m3", "e5m2", "e2m1", "ue8", "pack"))]
    if len(words) != 2 or others:
        raise UnsupportedError(f"instruction {i.opcode}")
    to, given = words
    target = i.operands[0]
    if to in FLOATS and given in FLOATS:
        return float_step(i, kernel, to, [given])
    read = source(i.operands[1], given, kernel)
    if to in FLOATS:
        return lambda cta: cta.write(target, integer_to_float(read(cta), to))
    if given in FLOATS:
        rounding = next((p for p in i.parts if p in TO_INTEGER), "rzi")
        return lambda cta: cta.write(target, float_to_integer(widen(read(cta), given), to, rounding))
    if not i.has("sat"):
        return lambda cta: cta.write(target, read(cta).astype(TYPES[to]))
    info = np.iinfo(TYPES[to])

    def saturate(cta: Cta) -> None:
        x = read(cta)
        own = np.iinfo(x.dtype)
        low, high = max(info.min, own.min), min(info.max, own.max)
        cta.write(target, np.clip(x, x.dtype.type(low), x.dtype.type(high)).astype(TYPES[to]))

    return saturate
