"""Bit fields, byte permutation, counting and funnel shifts (PTX ISA, sections 9.7.1 and 9.7.8)."""

from __future__ import annotations

import numpy as np

from .instructions import Imm, Instruction, Kernel
from .machine import Cta
from .operands import source
from .program import Step, decodes
from .values import UNSIGNED, Array, raw, width

U32, U64 = np.uint32, np.uint64


def extract(x: Array, first: Array, count: Array) -> Array:
    """``bfe``: the field, filled up with its sign if x is signed."""
    bits = 8 * x.dtype.itemsize
    # Python integers as objects would be slow; fields of 32 bits fit int64, those of 64 bits go by shifts.
    first, count = np.minimum(first & 0xFF, bits).astype(np.int64), np.minimum(count & 0xFF, bits).astype(np.int64)
    signed = x.dtype.kind == "i"
    end = np.minimum(first + count, bits)
    up = _left(raw(x), bits - end).view(x.dtype)
    down = _right(up, bits - (end - first))
    # A field that lies wholly beyond the top, or wants bits beyond it, is the sign of x.
    sign = np.where(x < 0, x.dtype.type(-1), x.dtype.type(0)) if signed else x.dtype.type(0)
    return np.where(count == 0, x.dtype.type(0), np.where(first >= bits, sign, down))


def _left(x: Array, n: Array) -> Array:
    bits = 8 * x.dtype.itemsize
    return np.where(n < bits, x << np.minimum(n, bits - 1).astype(x.dtype), x.dtype.type(0))


def _right(x: Array, n: Array) -> Array:
    bits = 8 * x.dtype.itemsize
    shifted = x >> np.minimum(n, bits - 1).astype(x.dtype)
    return shifted if x.dtype.kind == "i" else np.where(n < bits, shifted, x.dtype.type(0))


def insert(field: Array, x: Array, first: Array, count: Array) -> Array:
    """``bfi``: ``field`` replaces ``count`` bits of x."""
    one = x.dtype.type(1)
    first, count = (first & 0xFF).astype(np.int64), (count & 0xFF).astype(np.int64)
    mask = _left(_left(np.broadcast_to(one, x.shape), count) - one, first)
    return (x & ~mask) | (_left(field, first) & mask)


@decodes("bfe", "bfi")
def decode_field(i: Instruction, kernel: Kernel) -> Step:
    name, target = i.types[-1], i.operands[0]
    read = [source(o, name, kernel) for o in i.operands[1:-2]]
    at = [source(o, "u32", kernel) for o in i.operands[-2:]]
    function = extract if i.parts[0] == "bfe" else insert
    return lambda cta: cta.write(target, function(*[r(cta) for r in read], *[r(cta) for r in at]))


def permute(a: Array, b: Array, selector: Array) -> Array:
    """``prmt.b32`` without a mode: each nibble of the selector picks a byte of b:a, or its sign."""
    data = (b.astype(U64) << U64(32)) | a
    out = np.zeros(a.shape, U32)
    for n in range(4):
        nibble = (selector >> U32(4 * n)).astype(U64)
        byte = (data >> ((nibble & U64(7)) * U64(8))).astype(U32) & U32(0xFF)
        sign = np.where(byte & U32(0x80), U32(0xFF), U32(0))
        out |= np.where(nibble & U64(8), sign, byte) << U32(8 * n)
    return out


MODES = {
    "f4e": lambda n, k: n + k,
    "b4e": lambda n, k: (n - k) & 7,
    "rc8": lambda n, k: n & 3 | 0 * k,
    "ecl": lambda n, k: max(n & 3, k),
    "ecr": lambda n, k: min(n & 3, k),
    "rc16": lambda n, k: 2 * (n & 1) + (k & 1),
}


@decodes("prmt")
def decode_permute(i: Instruction, kernel: Kernel) -> Step:
    target = i.operands[0]
    a, b, c = (source(o, "u32", kernel) for o in i.operands[1:])
    table = None
    for mode, pick in MODES.items():
        if i.has(mode):
            rows = [sum((pick(n, k) & 7) << 4 * k for k in range(4)) for n in range(8)]
            table = np.array([r & 0x7777 for r in rows], U32)

    def step(cta: Cta) -> None:
        selector = c(cta) if table is None else table[c(cta) & (7 if i.has("f4e", "b4e") else 3)]
        cta.write(target, permute(a(cta), b(cta), selector))

    return step


@decodes("lop3")
def decode_lop3(i: Instruction, kernel: Kernel) -> Step:
    """Any function of three bits, by its truth table."""
    target, table = i.operands[0], i.operands[4]
    assert isinstance(table, Imm)
    read = [source(o, "b32", kernel) for o in i.operands[1:4]]

    def step(cta: Cta) -> None:
        values = [r(cta) for r in read]
        out = np.zeros_like(values[0])
        for row in range(8):
            if table.bits() >> row & 1:
                hits = [v if row >> (2 - n) & 1 else ~v for n, v in enumerate(values)]
                out |= hits[0] & hits[1] & hits[2]
        cta.write(target, out)

    return step


def bit_length(x: Array) -> Array:
    """Position of the highest set bit plus one, as int64."""
    x, n = raw(x).astype(U64), np.zeros(x.shape, np.int64)
    for step in (32, 16, 8, 4, 2, 1):
        high = x >> U64(step)
        n, x = n + np.where(high > 0, step, 0), np.where(high > 0, high, x)
    return n + (x > 0)


def popcount(x: Array) -> Array:
    return np.bitwise_count(raw(x)).astype(U32)


def reverse(x: Array) -> Array:
    bytes_ = np.ascontiguousarray(raw(x)).view(np.uint8).reshape(len(x), -1)[:, ::-1]
    return np.packbits(np.unpackbits(bytes_, axis=1, bitorder="little"), axis=1).view(UNSIGNED[x.dtype.itemsize])[:, 0]


def find(x: Array) -> Array:
    """``bfind``: position of the highest bit that is no sign bit; all ones if there is none."""
    value = np.where(x < 0, ~x, x) if x.dtype.kind == "i" else x
    return (bit_length(value) - 1).astype(np.int32)


@decodes("popc", "clz", "brev", "bfind")
def decode_count(i: Instruction, kernel: Kernel) -> Step:
    name, target = i.types[-1], i.operands[0]
    bits = 8 * width(name)
    read = source(i.operands[1], name, kernel)
    function = {
        "popc": popcount,
        "clz": lambda x: (bits - bit_length(x)).astype(U32),
        "brev": reverse,
        "bfind": lambda x: np.where(find(x) < 0, -1, bits - 1 - find(x)) if i.has("shiftamt") else find(x),
    }[i.parts[0]]
    return lambda cta: cta.write(target, function(read(cta)))


@decodes("shf")
def decode_funnel(i: Instruction, kernel: Kernel) -> Step:
    target, left, wrap = i.operands[0], i.has("l"), i.has("wrap")
    low, high, by = (source(o, "u32", kernel) for o in i.operands[1:])

    def step(cta: Cta) -> None:
        n = by(cta) & U32(31) if wrap else np.minimum(by(cta), U32(32))
        both = (high(cta).astype(U64) << U64(32)) | low(cta)
        out = (both << n) >> U64(32) if left else both >> n
        cta.write(target, out.astype(U32))

    return step
