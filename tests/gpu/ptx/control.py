"""Branches, exits and barriers: what changes which threads run (PTX ISA, sections 9.7.12 and 9.7.13)."""

from __future__ import annotations

import numpy as np

from .errors import DivergenceError, UnsupportedError
from .machine import AT_BARRIER, CONTROL, EXITED, RUNNING, Cta
from .parser import Imm, Instruction, Reg


def branch(cta: Cta, i: Instruction) -> None:
    cta.pc[cta.mask] = i.target


def leave(cta: Cta, i: Instruction) -> None:
    cta.state[cta.mask] = EXITED
    for name in list(cta.barriers):
        complete_barrier(cta, name, None)


def barrier(cta: Cta, i: Instruction) -> None:
    """``bar.sync``, ``barrier.sync``, ``bar.arrive`` on a named barrier; ``bar.warp.sync``."""
    if i.has("warp"):
        (members,) = i.operands
        named = cta.mask
        if isinstance(members, Imm):
            named = (members.bits() >> cta.lane & 1 == 1) & np.repeat(cta.mask.reshape(-1, 32).any(1), 32)
        for w in cta.whole_warps(named):
            cta.clocks.synchronise(cta.mask & (cta.thread // 32 == w))
        return
    if not i.has("sync", "arrive"):
        raise UnsupportedError(f"instruction {i.opcode}")
    operands = [o.bits() if isinstance(o, Imm) else _uniform(cta, o) for o in i.operands]
    name, count = operands[0], operands[1] if len(operands) > 1 else None
    if i.parts[0] == "bar" or i.has("aligned"):
        cta.whole_warps(cta.state != EXITED)
    arrived = cta.barriers.setdefault(name, np.zeros(cta.threads, np.bool_))
    if (arrived & cta.mask).any():
        raise DivergenceError(f"threads arrive twice at barrier {name}")
    arrived |= cta.mask
    if i.has("sync"):
        cta.state[cta.mask] = AT_BARRIER
        cta.barrier_of[cta.mask] = name
    complete_barrier(cta, name, count)


def complete_barrier(cta: Cta, name: int, count: int | None) -> None:
    arrived = cta.barriers[name]
    if (arrived | (cta.state == EXITED)).all() if count is None else arrived.sum() >= count:
        cta.clocks.synchronise(arrived)
        cta.state[(cta.state == AT_BARRIER) & (cta.barrier_of == name)] = RUNNING
        del cta.barriers[name]


def _uniform(cta: Cta, reg: object) -> int:
    assert isinstance(reg, Reg)
    values = np.unique(cta.read(reg)[cta.mask])
    if len(values) != 1:
        raise DivergenceError(f"register {reg.name} must be uniform, holds {values[:4].tolist()}")
    return int(values[0])


CONTROL |= {"bra": branch, "ret": leave, "exit": leave, "bar": barrier, "barrier": barrier}
