"""What one warp runs in one turn of a main loop.

A loop holds more than a turn runs: tiles at an edge are masked, dropout draws numbers, rows that are
not aligned are copied one by one, infinities take a second product. All of it hangs on branches, so the
turn of the steady state, a full tile amid others, is a path through the loop. It is taken to be the
one that reads most bytes of global memory without a loop in it, and of those the shortest: it fetches the next
tile by wide copies and leaves out whatever can be left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator

from .listing import Instruction
from .loops import TENSOR, Loop, natural

Worth = tuple[float, ...]
_READS = re.compile(r"LDGSTS|LDG|LD\.|UTMALDG|UBLKCP")
_WIDTHS = {".U8": 1, ".S8": 1, ".U16": 2, ".S16": 2, ".64": 8, ".128": 16}
# The multipliers of Philox (Salmon et al. 2011, section 3.3), with and without sign.
_DRAWS = re.compile(r"0xd2511f53|0xcd9e8d57|-0x2daee0ad|-0x326172a9", re.I)
_SELECTS = re.compile(r"FSEL|SEL")


def turn(loop: Loop) -> list[Instruction]:
    """A turn over a full tile."""
    return [loop.code[i] for i in _usual(loop)]


def _usual(loop: Loop) -> list[int]:
    return _best(loop, loop.body - _one_by_one(loop), lambda i: (_bytes(i), -1))


def _one_by_one(loop: Loop) -> set[int]:
    """Loops within one that read memory: rows that are not aligned."""
    within = [body for _, body in natural(loop.successors) if body < loop.body]
    return {i for body in within if any(_bytes(loop.code[j]) for j in body) for i in body}


def masked_turn(loop: Loop) -> list[Instruction]:
    """A turn over a tile of which some pairs are not kept: of all paths that draw no random numbers and
    multiply no more often, that which selects most."""
    usual = set(_usual(loop))
    barred = {
        i
        for block in _blocks(loop)
        if any(
            _DRAWS.search(loop.code[i].text) or (TENSOR.match(loop.code[i].opcode) and i not in usual) for i in block
        )
        for i in block
    }
    path = _best(
        loop, loop.body - barred - _one_by_one(loop), lambda i: (_bytes(i), _SELECTS.match(i.opcode) is not None, -1)
    )
    return [loop.code[i] for i in path]


def _bytes(instruction: Instruction) -> int:
    """How much a thread reads of global memory."""
    if not _READS.match(instruction.opcode):
        return 0
    return next((size for part, size in _WIDTHS.items() if part in instruction.opcode), 4)


def _blocks(loop: Loop) -> Iterator[list[int]]:
    """Runs of neighbouring instructions that no branch enters or leaves midway."""
    entered = {j for i in loop.body for j in loop.successors[i] if j != i + 1}
    block: list[int] = []
    for i in sorted(loop.body):
        if block and (i != block[-1] + 1 or i in entered or loop.successors[block[-1]] != [i]):
            yield block
            block = []
        block.append(i)
    if block:
        yield block


def _best(loop: Loop, body: frozenset[int], worth: Callable[[Instruction], Worth]) -> list[int]:
    """The path from a loop's header back to it, within ``body``, whose instructions are worth most in all."""
    none = (-math.inf,)
    best: dict[int, tuple[Worth, int]] = {}  # and the next one, -1 at the end
    for i in _from_the_end(loop, body):
        ahead = [(best[j][0], j) for j in loop.successors[i] if j in best and j != loop.header]
        if loop.header in loop.successors[i]:
            ahead.append(((0,) * len(worth(loop.code[i])), -1))
        total, after = max(ahead, default=(none, -1))
        own = worth(loop.code[i])
        best[i] = (none if total == none else tuple(a + b for a, b in zip(own, total, strict=True)), after)
    path, after = [loop.header], best[loop.header][1]
    while after >= 0:
        path.append(after)
        after = best[after][1]
    return path


def _from_the_end(loop: Loop, body: frozenset[int]) -> Iterator[int]:
    """The instructions of ``body``, those that may follow before those that they follow; back edges do not count."""
    entered = {loop.header}
    stack = [(loop.header, iter(loop.successors[loop.header]))]
    while stack:
        i, after = stack[-1]
        for j in after:
            if j in body and j not in entered:
                entered.add(j)
                stack.append((j, iter(loop.successors[j])))
                break
        else:
            stack.pop()
            yield i
