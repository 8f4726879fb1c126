"""Branches, exits and barriers: what changes which threads run (PTX ISA, sections 9.7.12 and 9.7.13)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .errors import DivergenceError, UnsupportedError
from .instructions import Imm, Instruction, Reg
from .machine import AT_BARRIER, EXITED, RUNNING, Cta
from .mbarrier import check_done
from .program import CONTROL
from .values import Array


def branch(cta: Cta, i: Instruction) -> None:
    cta.pc[cta.mask] = i.target


def leave(cta: Cta, i: Instruction) -> None:
    cta.state[cta.mask] = EXITED
    if (cta.state == EXITED).all():
        check_done(cta)
    for name in list(cta.barriers):
        complete_barrier(cta, name)


def barrier(cta: Cta, i: Instruction) -> None:
    """``bar.sync``, ``barrier.sync``, ``bar.arrive``, ``bar.red`` on a named barrier; ``bar.warp.sync``."""
    if i.has("warp"):
        (members,) = i.operands
        named = cta.mask
        if isinstance(members, Imm):
            named = (members.bits() >> cta.lane & 1 == 1) & np.repeat(cta.mask.reshape(-1, 32).any(1), 32)
        for w in cta.whole_warps(named):
            cta.clocks.synchronise(cta.mask & (cta.thread // 32 == w))
        return
    if not i.has("sync", "arrive", "red"):
        raise UnsupportedError(f"instruction {i.opcode}")
    if i.has("red"):
        return reduce(cta, i)
    if i.parts[0] == "bar" or i.has("aligned"):
        cta.whole_warps(cta.state != EXITED)
    names, counts = (_number(cta, o) for o in (*i.operands, None)[:2])
    for name in np.unique(names[cta.mask]).tolist():
        members = cta.mask & (names == name)
        count = np.unique(counts[members])
        if len(count) > 1:
            raise DivergenceError(f"threads disagree on the size of barrier {name}: {count.tolist()}")
        arrive(cta, name, members, int(count[0]), i.has("sync"))


def reduce(cta: Cta, i: Instruction) -> None:
    """``bar.red.op.type d, a, p``: every thread of the CTA waits, and learns of the predicates of all."""
    target, name, given = i.operands
    if not isinstance(given, Reg) or not isinstance(name, Imm) or not isinstance(target, Reg):
        raise UnsupportedError(f"instruction {i.opcode}")
    cta.whole_warps(cta.state != EXITED)
    word = next(word for word in ("or", "and", "popc") if i.has(word))
    ballot = cta.votes.setdefault(name.bits(), Ballot(word, np.zeros(cta.threads, np.bool_)))
    ballot.votes[cta.mask] = cta.read(given)[cta.mask]
    ballot.targets.append((target, cta.mask))
    arrive(cta, name.bits(), cta.mask, 0, True)


def announce(cta: Cta, ballot: Ballot) -> None:
    """All have arrived, wherever they came from."""
    among = ballot.votes[cta.state != EXITED]
    value = {"or": among.any(), "and": among.all(), "popc": among.sum()}[ballot.word]
    members, every = cta.mask, cta.every
    for target, cta.mask in ballot.targets:
        cta.every = bool(cta.mask.all())
        cta.write(target, np.full(cta.threads, value, np.bool_ if target.bytes == 0 else np.uint32))
    cta.mask, cta.every = members, every


@dataclass
class Ballot:
    """What threads that wait at a reducing barrier brought, and where each wants the result."""

    word: str
    votes: Array
    targets: list[tuple[Reg, Array]] = field(default_factory=list)


def arrive(cta: Cta, name: int, members: Array, count: int, wait: bool) -> None:
    """Threads arrive at a named barrier of ``count`` threads (0: all of the CTA)."""
    arrived = cta.barriers.setdefault(name, np.zeros(cta.threads, np.bool_))
    if (arrived & members).any():
        raise DivergenceError(f"threads arrive twice at barrier {name}")
    arrived |= members
    cta.barrier_sizes[name] = count
    if wait:
        cta.state[members] = AT_BARRIER
        cta.barrier_of[members] = name
    complete_barrier(cta, name)


def complete_barrier(cta: Cta, name: int) -> None:
    """Threads that have exited count where no number says how many are to come."""
    arrived, count = cta.barriers[name], cta.barrier_sizes[name]
    if (arrived | (cta.state == EXITED)).all() if count == 0 else arrived.sum() >= count:
        waiting = (cta.state == AT_BARRIER) & (cta.barrier_of == name)
        cta.clocks.synchronise(arrived, waiting)
        cta.state[waiting] = RUNNING
        del cta.barriers[name]
        if name in cta.votes:
            announce(cta, cta.votes.pop(name))


def _number(cta: Cta, operand: object) -> Array:
    if isinstance(operand, Reg):
        return cta.read(operand).astype(np.int64)
    return np.full(cta.threads, operand.bits() if isinstance(operand, Imm) else 0)


CONTROL |= {"bra": branch, "ret": leave, "exit": leave, "bar": barrier, "barrier": barrier}
