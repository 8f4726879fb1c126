"""Tensor cores of sm_90: ``wgmma``, matrix products of four warps that run on while the threads go on.

Operands in shared memory are described by 64-bit descriptors (PTX ISA, section 9.7.15.5: "Matrix
descriptor" and "Strides"; the canonical layouts are those of CUTLASS, ``cute/arch/mma_sm90_desc.hpp``).
The product is computed when it is issued, but until ``wait_group`` its registers may not be touched
and its operands not be overwritten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .errors import DivergenceError, InFlightError, OutOfBoundsError, PtxError, RaceError, UnsupportedError
from .instructions import Imm, Instruction, Kernel, Reg, Vec
from .machine import Cta, Warpgroup
from .operands import items, source, sources
from .program import Step, decodes
from .shared import SEVERAL
from .tensor import ELEMENTS, operand_a
from .values import Array

GROUP = 128
ATOMS = {0: 16, 1: 128, 2: 64, 3: 32}
"""Bytes of a swizzle atom's row, by the mode in a descriptor."""


def swizzle(addresses: Array, atom: int) -> Array:
    """The 16-byte column (address bits 4 to 6) is XORed with the row (bits 7 to 9), as far as the atom is wide."""
    return addresses ^ ((addresses >> 7 & atom // 16 - 1) << 4)


def descriptor_addresses(descriptor: int, rows: int, size: int, mn_major: bool) -> Array:
    """Byte addresses ``(rows, K)`` of an operand of ``rows`` (M or N) and 32 bytes of K."""
    start, leading, stride = ((descriptor >> at & 0x3FFF) << 4 for at in (0, 16, 32))
    atom = ATOMS[descriptor >> 62 & 3]
    if descriptor >> 49 & 7:
        raise UnsupportedError("a matrix descriptor with a base offset")
    r, k = np.arange(rows)[:, None], np.arange(32 // size)[None]
    across = atom // size
    if not mn_major:
        column = k * size if atom > 16 else k % across * size + k // across * leading
        return swizzle(start + r // 8 * stride + r % 8 * atom + column, atom)
    if atom == 16:
        leading, stride = stride, leading
    return swizzle(start + r // across * leading + r % across * size + k % 8 * atom + k // 8 * stride, atom)


@dataclass
class Product:
    """A product under way: cells it reads, registers it reads and writes. ``cells`` None closes a group."""

    cells: Array | None
    reads: tuple[int, ...] = ()
    writes: tuple[int, ...] = ()


def groups(cta: Cta) -> list[slice]:
    """Thread ranges of the warpgroups that execute; none may be incomplete."""
    active = cta.mask.reshape(-1, GROUP)
    if (active.any(1) & ~active.all(1)).any():
        raise DivergenceError("a warpgroup instruction is executed by part of a warpgroup")
    return [slice(g * GROUP, (g + 1) * GROUP) for g in np.nonzero(active.any(1))[0]]


@decodes("setmaxnreg")
def decode_registers(i: Instruction, kernel: Kernel) -> Step:
    """All of a warpgroup give back or ask for registers together. How many it takes is not known here."""
    count = i.operands[0].bits() if isinstance(i.operands[0], Imm) else 0
    if not 24 <= count <= 256 or count % 8:
        raise PtxError(f"a warpgroup of {count} registers: {i.opcode}")

    def step(cta: Cta) -> None:
        groups(cta)

    return step


@decodes("wgmma")
def decode_wgmma(i: Instruction, kernel: Kernel) -> Step:
    if i.has("fence"):
        return fence
    if i.has("commit_group"):
        return commit
    if i.has("wait_group"):
        count = i.operands[0].bits() if isinstance(i.operands[0], Imm) else 0
        return lambda cta: wait(cta, count)
    return product_step(i, kernel)


def fence(cta: Cta) -> None:
    for g in groups(cta):
        group = cta.warpgroups[g.start // GROUP]
        group.unfenced.clear()
        group.fenced = True


def commit(cta: Cta) -> None:
    for g in groups(cta):
        cta.warpgroups[g.start // GROUP].products.append(Product(None))


def wait(cta: Cta, pending: int) -> None:
    """Complete all but the latest ``pending`` groups."""
    for g in groups(cta):
        queue = cta.warpgroups[g.start // GROUP].products
        closed = [n for n, product in enumerate(queue) if product.cells is None]
        done = 0 if len(closed) <= pending else closed[len(closed) - pending - 1] + 1
        for product in queue[:done]:
            if product.cells is not None:
                _release(cta, product.cells, g)
        del queue[:done]
        cta.warpgroups[g.start // GROUP].busy = {s for product in queue for s in (*product.reads, *product.writes)}


def _release(cta: Cta, cells: Array, g: slice) -> None:
    """The operands have been read: from now on these are ordinary reads by the warpgroup."""
    shared = cta.shared
    shared.pinned[cells] -= 1
    for warp in range(g.start // 32, g.stop // 32):
        shared.read_at[warp * shared.cells + cells] = cta.clocks.now
        shared.reader[warp * shared.cells + cells] = SEVERAL


def product_step(i: Instruction, kernel: Kernel) -> Step:
    """``wgmma.mma_async.sync.aligned.mMnNkK.d.a.b D, A, B, scale-d, imm-scale-a, imm-scale-b{, transposes}``"""
    shape = next((p for p in i.parts if re.match(r"m\d+n\d+k\d+$", p)), "m0n0k0")
    m, n, k = (int(x) for x in re.findall(r"\d+", shape))
    d, a, b = i.types[-3:]
    if m != 64 or d != "f32" or a != b or a not in ("bf16", "f16", "tf32") or i.has("sp"):
        raise UnsupportedError(f"instruction {i.opcode}")
    size = 4 if a == "tf32" else 2
    targets = items(i.operands[0])
    inside = isinstance(i.operands[1], Vec)
    read_a = sources(i.operands[1], "b32" if inside else "b64", kernel)
    read_b, scale = source(i.operands[2], "b64", kernel), source(i.operands[3], "pred", kernel)
    flags = [int(o.text) for o in i.operands[4:] if isinstance(o, Imm)]
    sign, transposed = flags[0] * flags[1], [bool(f) for f in flags[2:]]
    own = [o.slot for o in targets if isinstance(o, Reg)]
    fragments = [o.slot for o in items(i.operands[1]) if isinstance(o, Reg)] if inside else []

    def step(cta: Cta) -> None:
        cta.current, current = [], cta.current  # its own registers are no hazard
        old = _accumulators(cta, own, scale(cta))
        words = [r(cta) for r in read_a]
        descriptors = read_b(cta)
        for g in groups(cta):
            _check_registers(cta.warpgroups[g.start // GROUP], own, fragments)
            if cta.warpgroups[g.start // GROUP].unfenced.intersection(fragments):
                cta.program.late.add(cta.at)
            cells, y = operand(cta, cta.thread[g], descriptors[g], n, size, bool(transposed and transposed[-1]), a, "B")
            if inside:
                x = operand_a([w[g] for w in words], a).reshape(m, k)
            else:
                more, x = operand(cta, cta.thread[g], words[0][g], m, size, bool(transposed and transposed[0]), a, "A")
                cells = np.concatenate([cells, more])
            cta.shared.pinned[cells] += 1
            cta.warpgroups[g.start // GROUP].products.append(Product(cells, tuple(fragments), tuple(own)))
            out = (sign * (x @ y.T)).reshape(4, 2, 8, n // 8, 4, 2).transpose(0, 2, 4, 3, 1, 5)
            old[g] += out.reshape(GROUP, n // 2)
        for target, column in zip(targets, old.T, strict=True):
            cta.write(target, np.ascontiguousarray(column))
        for g in groups(cta):
            cta.warpgroups[g.start // GROUP].busy.update(own, fragments)
        cta.current = current

    return step


def _accumulators(cta: Cta, slots: list[int], scale: Array) -> Array:
    """``(threads, registers)``, zero where ``scale`` is false; then they need not have been written."""
    columns = [cta.registers[slot] for slot in slots]
    zero = np.zeros(cta.threads, np.float32)
    if not scale[cta.mask].any():
        return np.stack([zero] * len(columns), 1)
    known = [zero if c is None else c.view(np.float32) for c in columns]
    return np.where(scale[:, None], np.stack(known, 1), np.float32(0))


def _check_registers(group: Warpgroup, own: list[int], fragments: list[int]) -> None:
    if not group.fenced or group.unfenced.intersection(own):
        raise RaceError("wgmma uses a register that was used otherwise with no wgmma.fence since")
    for product in group.products:
        if set(product.writes).intersection(fragments) or set(product.reads).intersection(own):
            raise InFlightError("wgmma uses a register that another wgmma is still using")


def operand(
    cta: Cta, threads: Array, descriptors: Array, rows: int, size: int, mn_major: bool, name: str, which: str
) -> tuple[Array, Array]:
    """Cells and numbers ``(rows, K)`` of an operand in shared memory."""
    if (descriptors != descriptors[0]).any():
        raise DivergenceError(f"the descriptor of {which} differs within a warpgroup")
    addresses = descriptor_addresses(int(descriptors[0]), rows, size, mn_major)
    shared = cta.shared
    if addresses.max() + size > shared.size:
        raise OutOfBoundsError(f"wgmma operand {which} reaches byte {addresses.max()} of {shared.size}")
    cells = np.unique(addresses[..., None] // shared.granule + np.arange(size // shared.granule))
    shared.check_fenced(cells, threads, f"wgmma operand {which}")
    numbers = shared.data.view(np.uint8).view(f"u{size}")[addresses // size]
    return cells, ELEMENTS[name][1](np.ascontiguousarray(numbers))
