"""Exchange within a warp: shuffles, votes, reductions, election (PTX ISA, section 9.7.9 and 9.7.13).

None of these orders memory; only ``bar.warp.sync`` and the CTA's barriers do.
"""

from __future__ import annotations

import numpy as np

from .errors import DivergenceError, UnsupportedError
from .instructions import Imm, Instruction, Kernel
from .machine import Cta
from .operands import source
from .program import Step, decodes
from .values import TYPES, Array


def members(cta: Cta, named: Array) -> Array:
    """Check that exactly the lanes of the member mask execute; return them."""
    inside = (named >> cta.lane.astype(np.uint32) & np.uint32(1)).astype(np.bool_)
    present = np.repeat(cta.mask.reshape(-1, 32).any(1), 32)
    cta.whole_warps(inside & present)
    if (cta.mask & ~inside).any():
        lane = int(np.nonzero(cta.mask & ~inside)[0][0])
        raise DivergenceError(f"thread {lane} executes an instruction whose member mask leaves it out")
    return inside & present


@decodes("shfl")
def decode_shuffle(i: Instruction, kernel: Kernel) -> Step:
    mode = next(p for p in i.parts if p in ("up", "down", "bfly", "idx"))
    target, *rest = i.operands
    valid = rest.pop(0) if len(rest) == 5 else None
    value, by, clamp = (source(o, "u32", kernel) for o in rest[:3])
    named = source(rest[3] if len(rest) > 3 else Imm("-1"), "u32", kernel)

    def step(cta: Cta) -> None:
        live = members(cta, named(cta))
        lane, b, c = cta.lane, by(cta).astype(np.int64) & 31, clamp(cta).astype(np.int64)
        segment = c >> 8 & 31
        top = (lane & segment) | (c & 31 & ~segment)
        j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": (lane & segment) | (b & ~segment)}[mode]
        inside = j >= top if mode == "up" else j <= top
        j = np.where(inside, j, lane)
        giver = cta.thread - lane + j
        if (cta.mask & ~live[giver]).any():
            raise DivergenceError("a shuffle reads a lane that does not take part")
        cta.write(target, value(cta)[giver])
        if valid is not None:
            cta.write(valid, inside)

    return step


@decodes("vote", "activemask")
def decode_vote(i: Instruction, kernel: Kernel) -> Step:
    target = i.operands[0]
    weights = np.uint32(1) << np.arange(32, dtype=np.uint32)

    def ballot(cta: Cta, p: Array) -> Array:
        return np.repeat((p.reshape(-1, 32) * weights).sum(1).astype(np.uint32), 32)

    if i.parts[0] == "activemask":
        return lambda cta: cta.write(target, ballot(cta, cta.mask))
    predicate = source(i.operands[1], "pred", kernel)
    named = source(i.operands[2] if len(i.operands) > 2 else Imm("-1"), "u32", kernel)

    def step(cta: Cta) -> None:
        live = members(cta, named(cta))
        yes = (predicate(cta) & live).reshape(-1, 32)
        count, among = yes.sum(1), live.reshape(-1, 32).sum(1)
        if i.has("ballot"):
            cta.write(target, ballot(cta, yes))
        else:
            out = {"all": count == among, "any": count > 0, "uni": (count == 0) | (count == among)}
            cta.write(target, np.repeat(next(v for k, v in out.items() if i.has(k)), 32))

    return step


@decodes("redux")
def decode_reduce(i: Instruction, kernel: Kernel) -> Step:
    target, name = i.operands[0], i.types[-1]
    if name == "f32":
        raise UnsupportedError(f"instruction {i.opcode}")
    operation: dict[str, np.ufunc] = {"add": np.add, "min": np.minimum, "max": np.maximum}
    operation |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
    function = next(f for word, f in operation.items() if i.has(word))
    value, named = source(i.operands[1], name, kernel), source(i.operands[2], "u32", kernel)

    def step(cta: Cta) -> None:
        live, x = members(cta, named(cta)), value(cta)
        out: Array = np.zeros(cta.threads, TYPES[name])
        for first in np.nonzero(live.reshape(-1, 32).any(1))[0] * 32:
            warp = slice(first, first + 32)
            out[warp] = function.reduce(x[warp][live[warp]])
        cta.write(target, out)

    return step


@decodes("elect")
def decode_elect(i: Instruction, kernel: Kernel) -> Step:
    """One leader: the lowest lane of the member mask."""
    leader, predicate, mask = i.operands
    named = source(mask, "u32", kernel)

    def step(cta: Cta) -> None:
        live = members(cta, named(cta)).reshape(-1, 32)
        lowest = np.repeat(np.argmax(live, 1), 32)
        cta.write(leader, lowest.astype(np.uint32))
        cta.write(predicate, cta.lane == lowest)

    return step


@decodes("membar", "griddepcontrol", "prefetch", "prefetchu", "nanosleep", "createpolicy", "applypriority")
def decode_hint(i: Instruction, kernel: Kernel) -> Step:
    """Nothing to do: one CTA runs at a time, and caches are not modelled."""
    if i.parts[0] == "createpolicy":
        return lambda cta: cta.write(i.operands[0], np.zeros(cta.threads, np.uint64))
    return lambda cta: None


@decodes("fence")
def decode_fence(i: Instruction, kernel: Kernel) -> Step:
    """``fence.proxy.async`` makes ordinary writes visible to wgmma and TMA."""
    if i.has("proxy"):
        return lambda cta: cta.shared.fence(cta.mask)
    return lambda cta: None
