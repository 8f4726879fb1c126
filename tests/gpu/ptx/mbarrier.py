"""``mbarrier``: barriers that live in shared memory and count both threads and bytes (PTX ISA, section 9.7.13.15)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .errors import DivergenceError, InFlightError, PtxError, RaceError, UninitialisedError, UnsupportedError
from .instructions import Instruction
from .machine import PARKED, RUNNING, Cta
from .operands import address, source
from .program import CONTROL
from .values import Array


@dataclass
class Barrier:
    """One barrier.

    Attributes:
        count: Arrivals that complete a phase.
        knowledge: What a thread knows that has seen it complete; see :mod:`.clocks`.
        transfers: Copies that will report to it, oldest first.
        made: Thread and time of its initialisation.
        used: When each thread last used it.
    """

    count: int
    pending: int
    knowledge: Array
    made: tuple[int, int]
    used: Array
    phase: int = 0
    bytes: int = 0
    transfers: list = field(default_factory=list)


def barrier_at(cta: Cta, at: int, threads: list[int]) -> Barrier:
    """The barrier at a shared address, which some threads are about to use."""
    found = cta.mbarriers.get(at)
    if found is None:
        raise UninitialisedError(f"no mbarrier has been initialised at shared byte {at}")
    author, time = found.made
    early = [t for t in threads if time > cta.clocks.seen[t, author]]
    if early:
        raise RaceError(f"thread {early[0]} uses the mbarrier at byte {at}, which thread {author} may still initialise")
    found.used[threads] = cta.clocks.now
    return found


def retire(cta: Cta, at: int, thread: int) -> None:
    """The memory of a barrier goes to other uses: nobody may still use it."""
    found = cta.mbarriers.pop(at)
    late = found.used > cta.clocks.seen[thread, : cta.threads]
    if late.any():
        raise RaceError(
            f"thread {thread} ends the mbarrier at byte {at}, which thread {int(np.argmax(late))} may still use"
        )
    if found.transfers:
        raise InFlightError(f"thread {thread} ends the mbarrier at byte {at}, to which a copy will still report")


def step(cta: Cta, barrier: Barrier) -> None:
    """Go to the next phase if this one is complete."""
    if barrier.pending == 0 and barrier.bytes == 0:
        barrier.phase ^= 1
        barrier.pending = barrier.count
    wake(cta)


def wake(cta: Cta) -> None:
    """Whoever waits looks again."""
    cta.state[cta.state == PARKED] = RUNNING


def mbarrier(cta: Cta, i: Instruction) -> None:
    kernel = cta.program.kernel
    where = next(o for o in i.operands if hasattr(o, "coordinates"))
    addresses = address(where, kernel)(cta)
    threads = np.nonzero(cta.mask)[0].tolist()
    numbers = source(i.operands[-1], "u32", kernel)(cta) if i.operands[-1] is not where else None
    if i.has("init") and numbers is not None:
        for t in threads:
            create(cta, int(addresses[t]), int(numbers[t]), t)
    elif i.has("inval"):
        for t in threads:
            barrier_at(cta, int(addresses[t]), [t])
            retire(cta, int(addresses[t]), t)
    elif i.has("arrive"):
        for t in threads:
            tx = int(numbers[t]) if i.has("expect_tx") and numbers is not None else 0
            arrive(cta, barrier_at(cta, int(addresses[t]), [t]), t, tx)
    elif i.has("try_wait", "test_wait") and i.has("parity") and numbers is not None:
        places = np.unique(np.stack([addresses[cta.mask], numbers[cta.mask]], 1), axis=0)
        if len(places) != 1:
            raise DivergenceError("threads wait for different phases or mbarriers in one instruction")
        wait(cta, i, int(places[0, 0]), int(places[0, 1]))
    else:
        raise UnsupportedError(f"instruction {i.opcode}")


def create(cta: Cta, at: int, count: int, thread: int) -> None:
    if at in cta.mbarriers:
        retire(cta, at, thread)
    one = np.array([thread])
    cells = cta.shared.locate(np.array([at]), 8, one, "mbarrier")
    cta.shared.write(cells, one, np.zeros((1, 8), np.uint8), "mbarrier")
    knowledge = np.zeros(cta.threads + 1, np.int32)
    cta.mbarriers[at] = Barrier(count, count, knowledge, (thread, cta.clocks.now), np.zeros(cta.threads, np.int32))


def arrive(cta: Cta, barrier: Barrier, thread: int, tx: int) -> None:
    barrier.bytes += tx
    barrier.pending -= 1
    if barrier.pending < 0:
        raise PtxError(f"more than {barrier.count} arrivals in a phase of an mbarrier")
    barrier.knowledge = cta.clocks.release(cta.thread == thread, barrier.knowledge)
    step(cta, barrier)


def wait(cta: Cta, i: Instruction, at: int, parity: int) -> None:
    """Park the threads until the phase is complete; copies arrive no sooner than somebody waits for them."""
    barrier = barrier_at(cta, at, np.nonzero(cta.mask)[0].tolist())
    while barrier.phase == parity and barrier.transfers:
        barrier.transfers.pop(0)(barrier)
        step(cta, barrier)
    if barrier.phase == parity:
        cta.state[cta.mask] = PARKED
        cta.pc[cta.mask] = cta.at
        return
    cta.clocks.acquire(cta.mask, barrier.knowledge)
    cta.write(i.operands[0], np.ones(cta.threads, np.bool_))


def check_done(cta: Cta) -> None:
    """No copy may be under way when the CTA ends."""
    if cta.bulk_stores or any(barrier.transfers for barrier in cta.mbarriers.values()):
        raise InFlightError("the CTA ends while the copy engine still uses its shared memory")


CONTROL["mbarrier"] = mbarrier
