"""One CTA: registers, threads' program counters, barriers; every instruction runs for all its threads at once.

Threads at the smallest program counter go first, so branches reconverge where the code does. In
lockstep all warps move together; given a generator, warps run one at a time in random order and
are changed at barriers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .clocks import Clocks
from .errors import (
    DeadlockError,
    DivergenceError,
    InFlightError,
    PtxError,
    UninitialisedError,
    threads_text,
)
from .instructions import Instruction, Reg, Vec
from .program import CONTROL, Program
from .shared import Shared
from .values import UNSIGNED, Array, raw

if TYPE_CHECKING:
    from .memory import GlobalMemory

RUNNING, AT_BARRIER, PARKED, EXITED = range(4)


@dataclass
class Warpgroup:
    """Four warps that multiply matrices together; see ``wgmma``."""

    products: list = field(default_factory=list)
    """Products under way, oldest first."""
    busy: set[int] = field(default_factory=set)
    """Registers they use."""
    unfenced: set[int] = field(default_factory=set)
    """Registers that other instructions have read or written since the last ``wgmma.fence``."""
    fenced: bool = False
    """Whether there was one."""

    def access(self, reg: Reg) -> None:
        """An ordinary instruction reads or writes a register."""
        self.unfenced.add(reg.slot)
        if reg.slot in self.busy:
            raise InFlightError(f"register {reg.name} is used by a wgmma that has not been waited for")


class Cta:
    """The state of a CTA while it runs. ``mask`` says which threads execute the current instruction."""

    def __init__(
        self,
        program: Program,
        memory: GlobalMemory,
        index: tuple[int, int, int],
        grid: tuple[int, int, int],
        shared_bytes: int,
        rng: random.Random | None = None,
    ) -> None:
        kernel, threads = program.kernel, program.kernel.threads
        self.program, self.memory, self.index, self.rng = program, memory, index, rng
        self.threads, self.warps = threads, threads // 32
        self.thread = np.arange(threads)
        self.lane = self.thread % 32
        self.clocks = Clocks(threads)
        self.shared = Shared(shared_bytes, kernel.granule("shared"), self.clocks)
        self.local = np.full((threads, kernel.local_bytes), 0xFF, np.uint8)
        self.registers: list[Array | None] = [None] * kernel.registers
        self.pc = np.zeros(threads, np.int64)
        self.state = np.full(threads, RUNNING, np.int8)
        self.mask, self.every, self.at = np.ones(threads, np.bool_), True, 0
        self.barrier_of = np.zeros(threads, np.int32)
        self.barriers: dict[int, Array] = {}
        self.barrier_sizes: dict[int, int] = {}
        self.votes: dict[int, Any] = {}
        """Of reducing barriers; see ``control``."""
        self.copies: list = []
        """Asynchronous copies under way, oldest first; see ``async_copy``."""
        self.warpgroups = [Warpgroup() for _ in range(threads // 128)] if kernel.has_wgmma else []
        self.current: list[Warpgroup] = []
        """Those of the threads that run now."""
        self.groups = np.zeros(threads, np.int32)
        self.mbarriers: dict[int, Any] = {}
        self.bulk_stores: list = []
        self.bulk_groups = np.zeros(threads, np.int32)
        """The copy engine's work; see ``mbarrier`` and ``tma``."""
        for name, reg in kernel.special.items():
            self.registers[reg.slot] = self._special(name, index, grid)

    def _special(self, name: str, index: tuple[int, int, int], grid: tuple[int, int, int]) -> Array:
        word, _, axis = name[1:].partition(".")
        a = "xyz".find(axis)
        block = (self.threads, 1, 1)
        values = {
            "tid": self.thread if a == 0 else 0,
            "ntid": block[a],
            "ctaid": index[a],
            "nctaid": grid[a],
            "laneid": self.lane,
            "warpid": self.thread // 32,
            "nwarpid": self.warps,
            "clock": 0,
            "dynamic_smem_size": self.shared.size,
            "lanemask_eq": 1 << self.lane,
            "lanemask_lt": (1 << self.lane) - 1,
            "lanemask_le": (2 << self.lane) - 1,
            "lanemask_gt": ~((2 << self.lane) - 1),
            "lanemask_ge": ~((1 << self.lane) - 1),
        }
        return np.broadcast_to(np.asarray(values[word]), (self.threads,)).astype(np.int64).astype(np.uint32)

    def read(self, reg: Reg) -> Array:
        """Raw bits of a register, shape ``(threads,)``."""
        bits = self.registers[reg.slot]
        for group in self.current:
            group.access(reg)
        if bits is None:
            raise UninitialisedError(f"register {reg.name} has never been written")
        return ~bits if reg.negated else bits

    def write(self, reg: object, value: Array) -> None:
        """Set a register in the threads of the mask; narrower values are extended by their own sign."""
        if reg is None:
            return
        assert isinstance(reg, Reg), reg
        for group in self.current:
            group.access(reg)
        if reg.bytes:
            if value.dtype.itemsize != reg.bytes:
                if value.dtype.itemsize > reg.bytes:
                    raise PtxError(f"{value.dtype} does not fit register {reg.name} of {reg.bytes} bytes")
                value = value.astype(f"{value.dtype.kind}{reg.bytes}")
            value = raw(value)
        if not self.every:
            old = self.registers[reg.slot]
            value = np.where(self.mask, value, self._unwritten(reg) if old is None else old)
        self.registers[reg.slot] = value

    def _unwritten(self, reg: Reg) -> Array:
        """A value that shows: NaN as a float, huge as an address."""
        if reg.bytes == 0:
            return np.ones(self.threads, np.bool_)
        return np.full(self.threads, -1, f"i{reg.bytes}").view(UNSIGNED[reg.bytes])

    def _poison(self, i: Instruction) -> None:
        """No thread has written the targets of an instruction whose guard held for none."""
        target = i.operands[0] if i.operands else None
        for reg in target.items if isinstance(target, Vec) else (target,):
            if isinstance(reg, Reg) and self.registers[reg.slot] is None:
                self.registers[reg.slot] = self._unwritten(reg)

    def whole_warps(self, named: Array | None = None) -> Array:
        """Indices of the warps that execute; refuse any of which a thread (of those ``named``) is missing."""
        wanted = np.ones(self.threads, np.bool_) if named is None else named
        active = self.mask.reshape(-1, 32)
        missing = active.any(1) & (wanted & ~self.mask).reshape(-1, 32).any(1)
        if missing.any():
            warp = int(np.argmax(missing))
            lanes = threads_text(np.nonzero(active[warp])[0].tolist())
            raise DivergenceError(f"warp {warp} executes a warp-wide instruction with lanes {lanes} only")
        return np.nonzero(active.any(1))[0]

    def run(self) -> None:
        """Until every thread has exited."""
        try:
            self._run()
        except PtxError as e:
            if not isinstance(e, DeadlockError):
                e.args = (f"{e.args[0]}; {self.program.kernel.code[self.at].place}, CTA {self.index}",)
            raise

    def _run(self) -> None:
        units = [np.ones(self.threads, np.bool_)]
        if self.rng is not None:
            size = 128 if self.warpgroups else 32
            units = [self.thread // size == u for u in range(self.threads // size)]
        while not (self.state == EXITED).all():
            if self.rng is not None:
                self.rng.shuffle(units)
            moved = [self._advance(unit) for unit in units]
            if not any(moved):
                raise DeadlockError(self._standstill())

    def _standstill(self) -> str:
        words = {AT_BARRIER: "wait at a barrier", PARKED: "wait for an mbarrier", EXITED: "have exited"}
        groups = []
        for state, pc in sorted(set(zip(self.state.tolist(), self.pc.tolist(), strict=True))):
            threads = threads_text(np.nonzero((self.state == state) & (self.pc == pc))[0].tolist())
            at = pc - (state == AT_BARRIER)
            place = "" if state == EXITED else f" ({self.program.kernel.code[at].place})"
            groups.append(f"threads {threads} {words[state]}{place}")
        return f"no thread can go on in CTA {self.index}: " + "; ".join(groups)

    def _advance(self, unit: Array) -> bool:
        """Run the threads of a unit until all of them wait or have exited; False if none could run."""
        moved = False
        while True:
            active = unit & (self.state == RUNNING)
            if not active.any():
                return moved
            moved = True
            pcs = self.pc[active]
            at = self._choose(active, pcs)
            later = pcs[pcs > at]
            self._sequence(active & (self.pc == at), at, int(later.min()) if later.size else len(self.program.steps))

    def _choose(self, active: Array, pcs: Array) -> int:
        """The smallest program counter, unless its threads are at a barrier to which others of their
        warps, which are elsewhere, are still to come."""
        first = int(pcs.min())
        for at in np.unique(pcs).tolist():
            here = active & (self.pc == at)
            split = (here.reshape(-1, 32).any(1) & (active & ~here).reshape(-1, 32).any(1)).any()
            if self.program.kernel.code[at].parts[0] not in ("bar", "barrier") or not split:
                return int(at)
        return first

    def _sequence(self, mask: Array, at: int, stop: int) -> None:
        """Run these threads, all at ``at``, to where they part, wait, jump or meet others at ``stop``."""
        every = bool(mask.all())
        self.current = [group for n, group in enumerate(self.warpgroups) if mask[128 * n : 128 * n + 128].any()]
        code, steps, executed = self.program.kernel.code, self.program.steps, self.program.executed
        while at < stop:
            i = code[at]
            self.at, self.mask, self.every = at, mask, every
            executed[at] += 1
            if i.guard is not None:
                self.mask = mask & self.read(i.guard)
                if not self.mask.any():
                    self._poison(i)
                    at += 1
                    continue
                self.every = every and bool(self.mask.all())
            if i.parts[0] in CONTROL:
                self.pc[mask] = at + 1
                CONTROL[i.parts[0]](self, i)
                return
            (steps[at] or self.program.step(at))(self)
            at += 1
        self.pc[mask] = at
        if at >= len(code):
            self.state[mask] = EXITED
