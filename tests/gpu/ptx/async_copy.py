"""``cp.async``: copies from global to shared memory that arrive as late as they may.

The bytes land in ``wait_group``, as writes of the thread that issued and waited for the copy; until
then nobody may touch the destination (PTX ISA, section 9.7.9.25.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .access import count_conflicts
from .errors import PtxError, UnsupportedError
from .instructions import Imm, Instruction, Kernel, Reg
from .machine import Cta
from .operands import address, source
from .program import DECODERS, Step, decodes
from .values import Array

OPEN = -1


@dataclass
class Copy:
    """What one instruction copies: rows of ``cells`` and ``values``, one for each of ``threads``."""

    threads: Array
    cells: Array
    values: Array
    group: Array


@decodes("cp")
def decode_copy(i: Instruction, kernel: Kernel) -> Step:
    if i.has("bulk"):
        return DECODERS["cp.async.bulk"](i, kernel)
    if i.has("commit_group"):
        return commit
    if i.has("wait_group", "wait_all"):
        count = i.operands[0].bits() if i.operands and isinstance(i.operands[0], Imm) else 0
        return lambda cta: wait(cta, count if i.has("wait_group") else None)
    if i.has("mbarrier"):
        raise UnsupportedError(f"instruction {i.opcode}")
    return start(i, kernel)


def start(i: Instruction, kernel: Kernel) -> Step:
    """``cp.async.ca|cg.shared.global [to], [from], size{, source size | ignore}``: the rest is filled with zeros."""
    size = i.operands[2].bits() if isinstance(i.operands[2], Imm) else 0
    to, given = address(i.operands[0], kernel), address(i.operands[1], kernel)
    limit = None
    if len(i.operands) > 3 and not (isinstance(i.operands[3], Reg) and i.operands[3].bytes == 8):
        ignore = isinstance(i.operands[3], Reg) and i.operands[3].bytes == 0
        limit = source(i.operands[3], "pred" if ignore else "u32", kernel)

    def step(cta: Cta) -> None:
        threads = cta.thread[cta.mask]
        taken = np.full(cta.threads, size, np.uint32)
        if limit is not None:
            taken = np.where(limit(cta), 0, size) if limit(cta).dtype == np.bool_ else limit(cta)
        if (taken[threads] > size).any():
            raise PtxError(f"cp.async of {int(taken[threads].max())} bytes into {size}")
        values = np.zeros((cta.threads, size), np.uint8)
        for n in np.unique(taken[threads]):
            if n:
                some = threads[taken[threads] == n]
                values[some, :n] = _fetch(cta, given(cta)[some], int(n), size, some)
        addresses = to(cta)[threads]
        count_conflicts(cta, addresses, size, threads)
        cells = cta.shared.locate(addresses, size, threads, "cp.async")
        cta.shared.begin_copy(cells, threads, "cp.async")
        cta.copies.append(Copy(threads, cells, values[threads], np.full(len(threads), OPEN)))

    return step


def _fetch(cta: Cta, addresses: Array, n: int, size: int, threads: Array) -> Array:
    if n == size:
        return cta.memory.read(cta.memory.locate(addresses, n, threads, "cp.async"), "cp.async")
    step = cta.memory.granule
    columns = [cta.memory.locate(addresses + at, step, threads, "cp.async") for at in range(0, n, step)]
    return cta.memory.read(np.concatenate(columns, 1), "cp.async")[:, :n]


def commit(cta: Cta) -> None:
    """Close the group of the copies each thread has issued since its last one."""
    for copy in cta.copies:
        new = (copy.group == OPEN) & cta.mask[copy.threads]
        copy.group[new] = cta.groups[copy.threads][new]
    cta.groups[cta.mask] += 1


def wait(cta: Cta, pending: int | None) -> None:
    """Complete all but the latest ``pending`` groups of each thread; None: everything issued."""
    for copy in cta.copies:
        mine = cta.mask[copy.threads]
        if pending is not None:
            mine = mine & (copy.group != OPEN) & (copy.group < cta.groups[copy.threads] - pending)
        if not mine.any():
            continue
        cells, threads = copy.cells[mine], copy.threads[mine]
        cta.shared.end_copy(cells, np.broadcast_to(threads[:, None], cells.shape), copy.values[mine], False)
        rest = ~mine
        copy.threads, copy.cells = copy.threads[rest], copy.cells[rest]
        copy.values, copy.group = copy.values[rest], copy.group[rest]
    cta.copies = [copy for copy in cta.copies if len(copy.threads)]
