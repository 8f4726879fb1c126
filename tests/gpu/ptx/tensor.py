"""Tensor cores of sm_80: ``mma.sync`` with its fragments, ``ldmatrix`` and ``stmatrix``.

Fragment layouts: PTX ISA, section 9.7.14.5 ("Matrix fragments for mma.m16n8k16" and its
neighbours). With g = lane / 4, t = lane % 4 and e elements in a register:

    A register r:  row g + 8 (r % 2),  columns 4e (r / 2) + t e + 0..e-1
    B register r:  column g,           rows    4e r + t e + 0..e-1
    C registers:   row g + 8 (r / 2),  column 2t + r % 2
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from .access import count_conflicts
from .errors import UnsupportedError
from .instructions import Instruction, Kernel
from .machine import Cta
from .operands import address, items, source, sources
from .program import Step, decodes
from .values import Array, bf16_to_f32, raw, truncate_tf32

ELEMENTS: dict[str, tuple[int, Callable[[Array], Array]]] = {
    "bf16": (2, lambda u: bf16_to_f32(u.view(np.uint16))),
    "f16": (2, lambda u: u.view(np.float16).astype(np.float32)),
    "tf32": (1, truncate_tf32),
    "s8": (4, lambda u: u.view(np.int8).astype(np.int32)),
    "u8": (4, lambda u: u.view(np.uint8).astype(np.int32)),
}
"""Elements in a 32-bit register, and their values."""


def fragment(words: list[Array], name: str) -> Array:
    """Registers as numbers ``(warps, 8 g, 4 t, registers, e)``."""
    e, values = ELEMENTS[name]
    numbers = values(np.stack(words, 1))
    return numbers.reshape(-1, 8, 4, len(words), e)


def operand_a(words: list[Array], name: str) -> Array:
    """``(warps, 16, K)``"""
    x = fragment(words, name)
    warps, _, _, registers, e = x.shape
    x = x.reshape(warps, 8, 4, registers // 2, 2, e).transpose(0, 4, 1, 3, 2, 5)
    return x.reshape(warps, 16, registers // 2 * 4 * e)


def operand_b(words: list[Array], name: str) -> Array:
    """``(warps, K, 8)``"""
    x = fragment(words, name)
    warps, _, _, registers, e = x.shape
    return x.transpose(0, 3, 2, 4, 1).reshape(warps, registers * 4 * e, 8)


def spread(product: Array) -> list[Array]:
    """``(warps, 16, 8)`` as the four accumulator registers."""
    x = product.reshape(-1, 2, 8, 4, 2).transpose(0, 2, 3, 1, 4).reshape(-1, 4)
    return [np.ascontiguousarray(x[:, r]) for r in range(4)]


@decodes("mma")
def decode_mma(i: Instruction, kernel: Kernel) -> Step:
    shape = next((p for p in i.parts if re.match(r"m\d+n\d+k\d+$", p)), "")
    d, a, b, c = i.types[-4:] if len(i.types) >= 4 else ("",) * 4
    if not shape.startswith("m16n8") or a not in ELEMENTS or b not in ELEMENTS or d != c or not i.has("col"):
        raise UnsupportedError(f"instruction {i.opcode}")
    targets = items(i.operands[0])
    read_a, read_b = sources(i.operands[1], "b32", kernel), sources(i.operands[2], "b32", kernel)
    read_c = sources(i.operands[3], "b32" if d == "f16" else d, kernel)
    if len(read_a) * 2 * ELEMENTS[a][0] != int(shape.split("k")[1]) or d not in ("f32", "f16", "s32"):
        raise UnsupportedError(f"instruction {i.opcode}")

    def step(cta: Cta) -> None:
        cta.whole_warps()
        product = operand_a([r(cta) for r in read_a], a) @ operand_b([r(cta) for r in read_b], b)
        if d == "f16":  # pairs of columns share a register
            low, high = spread(product)[::2], spread(product)[1::2]
            for target, r, x, y in zip(targets, read_c, low, high, strict=True):
                old = r(cta).view(np.float16).reshape(-1, 2)
                new = (np.stack([x, y], 1) + old).astype(np.float16)
                cta.write(target, new.view(np.uint32)[:, 0])
            return
        for target, r, x in zip(targets, read_c, spread(product), strict=True):
            cta.write(target, (r(cta) + x).astype(x.dtype))

    return step


def matrices(rows: Array, count: int, transpose: bool) -> list[Array]:
    """16-byte rows ``(threads, 16)``, lane 8n + r giving row r of matrix n, as one register per matrix."""
    m = rows.view(np.uint16).reshape(-1, 32, 8)[:, : 8 * count].reshape(-1, count, 8, 8)
    m = m.swapaxes(2, 3) if transpose else m
    return [np.ascontiguousarray(m[:, n]).view(np.uint32).reshape(-1) for n in range(count)]


@decodes("ldmatrix", "stmatrix")
def decode_matrix(i: Instruction, kernel: Kernel) -> Step:
    """Lane l holds row l / 4 and columns 2 (l % 4) and 2 (l % 4) + 1 of each 8 x 8 matrix of 16 bits."""
    if not i.has("m8n8") or not i.has("b16"):
        raise UnsupportedError(f"instruction {i.opcode}")
    count = next(int(p[1]) for p in i.parts if p in ("x1", "x2", "x4"))
    transpose, loads = i.has("trans"), i.parts[0] == "ldmatrix"
    registers, memory = i.operands if loads else i.operands[::-1]
    where = address(memory, kernel)
    read = [] if loads else sources(registers, "b32", kernel)

    def step(cta: Cta) -> None:
        cta.whole_warps()
        threads = cta.thread[cta.mask & (cta.lane < 8 * count)]
        addresses = where(cta)[threads]
        count_conflicts(cta, addresses, 16, threads)
        cells = cta.shared.locate(addresses, 16, threads, i.parts[0])
        rows = np.zeros((cta.threads, 16), np.uint8)
        if loads:
            rows[threads] = cta.shared.read(cells, threads, i.parts[0])
            for target, word in zip(items(registers), matrices(rows, count, transpose), strict=True):
                cta.write(target, word)
            return
        m = np.stack([raw(r(cta)).view(np.uint16).reshape(-1, 8, 8) for r in read], 1)
        m = m.swapaxes(2, 3) if transpose else m
        rows.reshape(-1, 32, 16)[:, : 8 * count] = np.ascontiguousarray(m).view(np.uint8).reshape(-1, 8 * count, 16)
        if cta.shared.write(cells, threads, rows[threads], i.parts[0]):
            cta.program.ambiguous.add(cta.at)

    return step


@decodes("movmatrix")
def decode_transpose(i: Instruction, kernel: Kernel) -> Step:
    target, read = i.operands[0], source(i.operands[1], "b32", kernel)

    def step(cta: Cta) -> None:
        cta.whole_warps()
        m = raw(read(cta)).view(np.uint16).reshape(-1, 8, 8).swapaxes(1, 2)
        cta.write(target, np.ascontiguousarray(m).view(np.uint32).reshape(-1))

    return step
