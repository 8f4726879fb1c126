"""Loads, stores and atomics on parameters, global, shared and local memory; address conversion.

Generic addresses: shared and local memory appear in windows below the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .errors import MisalignedError, OutOfBoundsError, PtxError, UnsupportedError
from .instructions import Instruction, Kernel, Mem, Reg
from .machine import Cta
from .memory import BASE
from .operands import address, items, pack, source, sources, unpack
from .program import Step, decodes
from .values import TYPES, Array, narrow, widen, width

SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW = 1 << 32, 5 << 30, 6 << 30
PARAM_STRIDE = 4096
BANKS, BANK_BYTES = 32, 4


def space_of(i: Instruction) -> str:
    """State space named by an opcode; ``generic`` if none."""
    for part in i.parts:
        if part.split("::")[0] in ("shared", "global", "local", "param", "const"):
            return "global" if part == "const" else part.split("::")[0]
    return "generic"


def resolve(space: str, addresses: Array) -> tuple[str, Array]:
    """Space and addresses within it of (active) generic addresses."""
    if space != "generic" or not addresses.size:
        return space, addresses
    for name, start, end in (("shared", SHARED_WINDOW, LOCAL_WINDOW), ("local", LOCAL_WINDOW, PARAM_WINDOW)):
        if ((addresses >= start) & (addresses < end)).all():
            return name, addresses - start
    return "global", addresses


def count_conflicts(cta: Cta, addresses: Array, size: int, threads: Array) -> None:
    """Shared memory serves 32 words of 4 bytes, one from each bank, at a time: 32 lanes of 4 bytes, 8 of 16.

    Counted in the first CTA only.
    """
    if cta.memory.cta:
        return
    lanes = max(1, min(32, BANKS * BANK_BYTES // size))
    phase = threads // lanes
    words = addresses[:, None] // BANK_BYTES + np.arange(max(1, size // BANK_BYTES))
    distinct = np.unique(phase[:, None] * 2**32 + words)
    phases = int(phase.max()) + 1
    used = np.bincount((distinct >> 32) * BANKS + distinct % BANKS, minlength=phases * BANKS)
    used = used.reshape(phases, BANKS).max(1)
    total = cta.program.conflicts.setdefault(cta.at, [0, 0])
    total[0] += int(used.sum())
    total[1] += np.count_nonzero(used)


def load(cta: Cta, space: str, addresses: Array, size: int, threads: Array) -> Array:
    """Bytes ``(L, size)`` at L addresses."""
    space, addresses = resolve(space, addresses)
    if space == "global":
        return cta.memory.read(cta.memory.locate(addresses, size, threads, "load"))
    if space == "shared":
        count_conflicts(cta, addresses, size, threads)
        return cta.shared.read(cta.shared.locate(addresses, size, threads, "load"), threads, "load")
    return cta.local[_local(cta, addresses, size, threads)]


def store(cta: Cta, space: str, addresses: Array, values: Array, threads: Array) -> None:
    """Write bytes ``(L, size)`` to L addresses."""
    space, addresses = resolve(space, addresses)
    size = values.shape[1]
    if space == "global":
        cta.memory.write(cta.memory.locate(addresses, size, threads, "store"), values)
    elif space == "shared":
        count_conflicts(cta, addresses, size, threads)
        cells = cta.shared.locate(addresses, size, threads, "store")
        if cta.shared.write(cells, threads, values, "store"):
            cta.program.ambiguous.add(cta.at)
    else:
        cta.local[_local(cta, addresses, size, threads)] = values


def _local(cta: Cta, addresses: Array, size: int, threads: Array) -> tuple[Array, Array]:
    bad = (addresses < 0) | (addresses + size > cta.local.shape[1])
    if bad.any():
        n = int(np.argmax(bad))
        raise OutOfBoundsError(f"local access by thread {threads[n]} at byte {addresses[n]} of {cta.local.shape[1]}")
    if (addresses % size).any():
        raise MisalignedError(f"local access of {size} bytes")
    return threads[:, None], addresses[:, None] + np.arange(size)


@decodes("ld", "ldu")
def decode_load(i: Instruction, kernel: Kernel) -> Step:
    name, space = i.parts[-1], space_of(i)
    targets = items(i.operands[0])
    if space == "param":
        return _load_param(i, name, kernel)
    where = address(i.operands[1], kernel)
    size = width(name) * len(targets)

    def step(cta: Cta) -> None:
        threads = cta.thread[cta.mask]
        data = np.zeros((cta.threads, size), np.uint8)
        data[threads] = load(cta, space, where(cta)[threads], size, threads)
        for target, word in zip(targets, unpack(data, len(targets)), strict=True):
            cta.write(target, word.view(TYPES[name]))

    return step


def _load_param(i: Instruction, name: str, kernel: Kernel) -> Step:
    at = i.operands[1]
    assert isinstance(at, Mem)
    base, offset, targets = at.base, at.offset, items(i.operands[0])
    if not isinstance(base, str):
        return _load_param_at(address(at, kernel), name, targets)

    def step(cta: Cta) -> None:
        content = cta.program.params[base]
        for n, target in enumerate(targets):
            value = _of_param(content, base, offset + n * width(name), name)
            cta.write(target, np.repeat(value, cta.threads))

    return step


def _of_param(content: Array, param: str, first: int, name: str) -> Array:
    if first < 0 or first + width(name) > len(content):
        raise OutOfBoundsError(f"parameter {param} of {len(content)} bytes, byte {first}")
    return content[first : first + width(name)].view(TYPES[name])


def _load_param_at(where: Callable[[Cta], Array], name: str, targets: Sequence[object]) -> Step:
    """At computed addresses."""

    def step(cta: Cta) -> None:
        addresses = where(cta)
        values = [np.zeros(cta.threads, TYPES[name]) for _ in targets]
        for at in np.unique(addresses[cta.mask]):
            number, offset = divmod(int(at), PARAM_STRIDE)
            param, content = list(cta.program.params.items())[number]
            for n, value in enumerate(values):
                value[addresses == at] = _of_param(content, param, offset + n * width(name), name)
        for target, value in zip(targets, values, strict=True):
            cta.write(target, value)

    return step


@decodes("st")
def decode_store(i: Instruction, kernel: Kernel) -> Step:
    name, space = i.parts[-1], space_of(i)
    where = address(i.operands[0], kernel)
    words = sources(i.operands[1], name, kernel)

    def step(cta: Cta) -> None:
        threads = cta.thread[cta.mask]
        store(cta, space, where(cta)[threads], pack([w(cta) for w in words])[threads], threads)

    return step


OPERATIONS: dict[str, Callable] = {
    "add": np.add,
    "min": np.fmin,
    "max": np.fmax,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "exch": lambda old, new: new,
}


@decodes("atom", "red")
def decode_atomic(i: Instruction, kernel: Kernel) -> Step:
    """Lanes act one after another, in the order of their numbers."""
    name, space = i.parts[-1], space_of(i)
    operands = i.operands if i.parts[0] == "red" else i.operands[1:]
    targets = items(i.operands[0]) if i.parts[0] == "atom" else ()
    where = address(operands[0], kernel)
    values = [sources(o, name, kernel) for o in operands[1:]]
    size = width(name) * len(values[0])
    kind = next((p for p in i.parts if p in OPERATIONS or p == "cas"), None)
    if kind is None:
        raise UnsupportedError(f"instruction {i.opcode}")

    def step(cta: Cta) -> None:
        threads = cta.thread[cta.mask]
        at, within = resolve(space, where(cta)[threads])[::-1]
        if within not in ("global", "shared"):
            raise PtxError(f"atomic on {within} memory")
        given = [[w(cta) for w in vector] for vector in values]
        old: list[Array] = [np.zeros(cta.threads, TYPES[name]) for _ in given[0]]
        whole = len(np.unique(at)) == len(at)
        for some in [np.arange(len(threads))] if whole else np.arange(len(threads))[:, None]:
            lanes = threads[some]
            cells = _claim(cta, within, at[some], size, lanes)
            memory = cta.memory if within == "global" else cta.shared
            found = unpack(memory.data[cells].view(np.uint8), len(old))
            new = []
            for n, bits in enumerate(found):
                old[n][lanes] = bits.view(TYPES[name])
                new.append(_combine(kind, name, old[n][lanes], *[vector[n][lanes] for vector in given]))
            memory.data[cells] = pack(new).view(memory.data.dtype)
            if within == "shared":
                cta.shared.stamp(cells, np.broadcast_to(lanes[:, None], cells.shape), atomic=True)
        for target, value in zip(targets, old, strict=bool(targets)):
            cta.write(target, value)

    return step


def _combine(kind: str, name: str, old: Array, *given: Array) -> Array:
    if kind == "cas":
        return np.where(old == given[0], given[1], old)
    if name in ("f16", "bf16", "f16x2", "bf16x2"):
        return narrow(OPERATIONS[kind](widen(old, name), widen(given[0], name)), name)
    return OPERATIONS[kind](old, given[0]).astype(old.dtype)


def _claim(cta: Cta, space: str, at: Array, size: int, lanes: Array) -> Array:
    if space == "global":
        cells = cta.memory.locate(at, size, lanes, "atomic")
        cta.memory.claim_atomic(cells)
        return cells
    cells = cta.shared.locate(at, size, lanes, "atomic")
    # Atomics do not race with one another. What was read before is not looked at.
    plain = ~cta.shared.atomic[cells].any(1)
    cta.shared.check_arrived(cells[plain], lanes[plain], "atomic")
    return cells


@decodes("cvta")
def decode_cvta(i: Instruction, kernel: Kernel) -> Step:
    window = {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW, "global": 0, "param": PARAM_WINDOW}[space_of(i)]
    target, given = i.operands
    read = source(given, "u64" if not isinstance(given, Reg) or given.bytes == 8 else "u32", kernel)
    shift = np.int64(-window if i.has("to") else window)
    return lambda cta: cta.write(target, (read(cta).astype(np.int64) + shift).view(np.uint64))


assert BASE > PARAM_WINDOW
