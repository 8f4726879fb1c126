"""The loops of a kernel: natural loops of its control-flow graph, so that code which the compiler
moved out of line counts where it belongs.

Looked at are the innermost loops that use the tensor cores. The main loop has the largest share of
tensor-core instructions, of wgmma's where there are any; others are rare paths (a second pass over rows with
infinities, say).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from .listing import JUMP, Code, Instruction, amdgcn, sass

# Opcodes, up to the first dot or underscore group: mma.sync, wgmma, tcgen05 and mfma in machine code.
TENSOR = re.compile(r"HMMA|IMMA|QMMA|HGMMA|QGMMA|UTC\w*MMA|v_s?mfma")
OF_GROUPS = re.compile(r"[HQI]GMMA")
MULTIPLY = re.compile(r"[DFH]FMA|v_(?:pk_)?(?:fma|mac)")
SPILL = re.compile(r"LDL|STL|scratch_(?:load|store)|buffer_(?:load|store)\w*.*\boff, s\[0:3\]")
BARRIER = re.compile(r"MEMBAR(?!.*\.CTA)|ERRBAR|CCTL")
LEAVE = re.compile(r"EXIT|RET|s_endpgm|s_setpc|s_trap")


@dataclass(frozen=True)
class Loop:
    """A natural loop: every instruction that can run between two visits of its header.

    Attributes:
        header: The number of its first instruction.
        body: The numbers of all.
        code: The kernel's instructions by number.
        successors: For each of them, those that may run next.
    """

    header: int
    body: frozenset[int]
    code: list[Instruction] = field(repr=False)
    successors: list[list[int]] = field(repr=False)

    @cached_property
    def opcodes(self) -> Counter[str]:
        return Counter(self.code[i].opcode for i in self.body)

    @property
    def spills(self) -> int:
        """Instructions that move registers to or from local memory."""
        return sum(spills(self.code[i]) for i in self.body)

    @property
    def barriers(self) -> int:
        """Instructions that wait until the GPU has seen what a thread wrote, or empty a cache: ``MEMBAR``
        and its company. One that waits for its own block alone, as wgmma needs it, is not counted."""
        return sum(n for opcode, n in self.opcodes.items() if BARRIER.match(opcode))

    @property
    def tensor(self) -> int:
        """Number of tensor-core instructions."""
        return sum(n for opcode, n in self.opcodes.items() if TENSOR.match(opcode))

    @property
    def of_groups(self) -> int:
        """Number of those of four warps together."""
        return sum(n for opcode, n in self.opcodes.items() if OF_GROUPS.match(opcode))

    @property
    def multiplies(self) -> bool:
        """Whether it multiplies and adds, on the tensor cores or without."""
        return any(TENSOR.match(opcode) or MULTIPLY.match(opcode) for opcode in self.opcodes)

    @property
    def density(self) -> float:
        """Share of tensor-core instructions."""
        return self.tensor / len(self.body)

    def __str__(self) -> str:
        return f"loop of {len(self.body)} instructions, {self.tensor} on the tensor cores, {self.spills} spills"


@dataclass(frozen=True)
class Reading:
    """What the machine code of one kernel shows.

    Attributes:
        registers: Per thread (NVIDIA), or vector registers per lane (AMD).
        shared: Bytes of static shared memory (NVIDIA).
        spills: Instructions that move registers to or from local memory, in the whole kernel.
        tensor: Tensor-core instructions by opcode, e.g. ``{"HGMMA": 16}``.
        loops: The innermost loops with tensor-core instructions, the densest first; of a kernel
            without such instructions the innermost loops, the longest first.
    """

    registers: int
    shared: int
    spills: int
    tensor: Counter[str]
    loops: tuple[Loop, ...]


def read_cubin(cubin: bytes, name: str | None = None) -> Reading:
    """Read a kernel of an NVIDIA binary, the first one if it is not named.

    Raises:
        ValueError: If it holds no such kernel.
    """
    found = sass(cubin)
    names = [x for x in found if name in (None, x)]
    if not names:
        raise ValueError(f"cubin: it holds {', '.join(found) or 'no kernel'}, and not {name or 'one'}")
    return read(found[names[0]])


def read_amdgcn(assembly: str) -> Reading:
    """Read AMD assembly that holds one kernel."""
    return read(amdgcn(assembly))


def read(kernel: Code) -> Reading:
    """Find the loops of a kernel."""
    code, successors = kernel.instructions, _successors(kernel)
    loops = [Loop(header, body, code, successors) for header, body in natural(successors)]
    loops = [loop for loop in loops if loop.tensor] or loops
    inner = [a for a in loops if not any(b.body < a.body for b in loops)]
    names = Counter(i.opcode.split(".")[0] for i in code)
    return Reading(
        kernel.registers,
        kernel.shared,
        sum(map(spills, code)),
        Counter({name: n for name, n in names.items() if TENSOR.match(name)}),
        tuple(sorted(inner, key=lambda a: (-a.of_groups / len(a.body), -a.density, -len(a.body)))),
    )


def spills(instruction: Instruction) -> bool:
    """Whether an instruction moves a register to or from local memory."""
    return SPILL.match(instruction.text) is not None


def _successors(kernel: Code) -> list[list[int]]:
    """For each instruction, those that may run next."""
    successors = []
    last = len(kernel.instructions) - 1
    for i, instruction in enumerate(kernel.instructions):
        to = kernel.labels.get(instruction.target) if instruction.target else None
        after = [] if to is None else [to]
        stops = LEAVE.match(instruction.opcode) or (JUMP.match(instruction.opcode) and after)
        if (instruction.predicated or not stops) and i < last:
            after.append(i + 1)
        successors.append([j for j in after if j <= last])
    return successors


def natural(successors: list[list[int]]) -> Iterator[tuple[int, frozenset[int]]]:
    """The natural loops: what reaches the source of a back edge without passing its header."""
    predecessors: list[list[int]] = [[] for _ in successors]
    for i, after in enumerate(successors):
        for j in after:
            predecessors[j].append(i)
    latches: dict[int, list[int]] = {}
    for source, header in _back_edges(successors):
        latches.setdefault(header, []).append(source)
    for header, sources in latches.items():
        body, waiting = {header}, list(sources)
        while waiting:
            i = waiting.pop()
            if i not in body:
                body.add(i)
                waiting.extend(predecessors[i])
        yield header, frozenset(body)


def _back_edges(successors: list[list[int]]) -> Iterator[tuple[int, int]]:
    """Edges to an instruction on the current path of a depth-first walk."""
    entered, path = {0}, {0}
    stack = [(0, iter(successors[0]))] if successors else []
    while stack:
        i, after = stack[-1]
        for j in after:
            if j in path:
                yield i, j
            elif j not in entered:
                entered.add(j)
                path.add(j)
                stack.append((j, iter(successors[j])))
                break
        else:
            stack.pop()
            path.remove(i)
