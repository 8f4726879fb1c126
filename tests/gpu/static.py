"""What a compiled kernel says about itself: registers, spills, loops, tensor-core instructions.

NVIDIA binaries are disassembled with the tools that Triton's wheel brings; AMD's assembly is
read as it is. Loops are the natural loops of the control-flow graph, so code that the compiler
moved out of line counts where it belongs. Looked at are the innermost loops that use the tensor
cores. The main loop has the largest share of tensor-core instructions; others are rare paths (a
second pass over rows with infinities, say).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Opcodes, up to the first dot or underscore group: mma.sync, wgmma, tcgen05 and mfma in machine code.
TENSOR = re.compile(r"HMMA|IMMA|QMMA|HGMMA|QGMMA|UTC\w*MMA|v_s?mfma")
MULTIPLY = re.compile(r"[DFH]FMA|v_(?:pk_)?(?:fma|mac)")
SPILL = re.compile(r"LDL|STL|scratch_(?:load|store)|buffer_(?:load|store)\w*.*\boff, s\[0:3\]")
JUMP = re.compile(r"BRA|CALL|s_branch|s_cbranch")
CONDITIONAL = re.compile(r"s_cbranch|CALL|BRA\.DIV|BRA\S*\s+!?U?P\w+,")  # those that may also go on to the next
LEAVE = re.compile(r"EXIT|RET|s_endpgm|s_setpc|s_trap")


@dataclass(frozen=True)
class Instruction:
    """One machine instruction."""

    text: str
    opcode: str
    predicated: bool = False
    target: str | None = None


@dataclass(frozen=True)
class Loop:
    """A natural loop: every instruction that can run between two visits of its header."""

    body: frozenset[int]
    opcodes: Counter[str]
    spills: int

    @property
    def tensor(self) -> int:
        """Number of tensor-core instructions."""
        return sum(n for opcode, n in self.opcodes.items() if TENSOR.match(opcode))

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
        spills: Instructions that move registers to or from local memory, in the whole kernel.
        tensor: Tensor-core instructions by opcode, e.g. ``{"HGMMA": 16}``.
        loops: The innermost loops with tensor-core instructions, the densest first; of a kernel
            without such instructions the innermost loops, the longest first.
    """

    registers: int
    spills: int
    tensor: Counter[str]
    loops: tuple[Loop, ...]


def read_cubin(cubin: bytes) -> Reading:
    """Read an NVIDIA binary that holds one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = _tool("cuobjdump", "-res-usage", file.name), _tool("nvdisasm", "-c", file.name)
    registers = re.search(r"\bREG:(\d+)", usage)
    if registers is None:
        raise ValueError(f"cubin: cuobjdump names no kernel in it: {usage!r}")
    return _read(int(registers[1]), *_code(sass, re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+)?\s*(\S.*?)\s*;")))


def read_amdgcn(assembly: str) -> Reading:
    """Read AMD assembly that holds one kernel."""
    registers = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    if registers is None:
        raise ValueError("assembly: it has no .vgpr_count")
    code = assembly[: assembly.index("s_endpgm", assembly.rindex("s_endpgm")) + 16]
    return _read(int(registers[1]), *_code(code, re.compile(r"^\t()([a-z]\w+\b[^;]*)")))


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([str(TOOLS / name), *arguments], capture_output=True, text=True, check=True).stdout


def _code(listing: str, pattern: re.Pattern[str]) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions of a listing, and where its labels stand among them."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"([.$\w]+):", line):
            labels[label[1]] = len(code)
        elif m := pattern.match(line):
            text = m[2].strip()
            target = re.search(r"`\((\S+?)\)|\s(\.LBB\w+)", text) if JUMP.match(text) else None
            code.append(
                Instruction(
                    text,
                    text.split()[0],
                    predicated=bool(m[1]) or CONDITIONAL.match(text) is not None,
                    target=(target[1] or target[2]) if target else None,
                )
            )
    return code, labels


def _read(registers: int, code: list[Instruction], labels: dict[str, int]) -> Reading:
    loops = [_loop(body, code) for body in _bodies(_successors(code, labels))]
    loops = [loop for loop in loops if loop.tensor] or loops
    inner = [a for a in loops if not any(b.body < a.body for b in loops)]
    names = Counter(i.opcode.split(".")[0] for i in code)
    tensor = Counter({name: n for name, n in names.items() if TENSOR.match(name)})
    return Reading(
        registers, sum(map(_spills, code)), tensor, tuple(sorted(inner, key=lambda a: (-a.density, -len(a.body))))
    )


def _loop(body: frozenset[int], code: list[Instruction]) -> Loop:
    return Loop(body, Counter(code[i].opcode for i in body), sum(_spills(code[i]) for i in body))


def _spills(instruction: Instruction) -> bool:
    return SPILL.match(instruction.text) is not None


def _successors(code: list[Instruction], labels: dict[str, int]) -> list[list[int]]:
    """For each instruction, those that may run next."""
    successors = []
    for i, instruction in enumerate(code):
        after = [labels[instruction.target]] if instruction.target in labels else []
        stops = LEAVE.match(instruction.opcode) or (JUMP.match(instruction.opcode) and after)
        if (instruction.predicated or not stops) and i + 1 < len(code):
            after.append(i + 1)
        successors.append([j for j in after if j < len(code)])
    return successors


def _bodies(successors: list[list[int]]) -> Iterator[frozenset[int]]:
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
        yield frozenset(body)


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
