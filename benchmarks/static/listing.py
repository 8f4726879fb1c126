"""Machine code as its vendor's disassembler lists it: instructions, labels, and what a kernel takes.

NVIDIA's binaries are disassembled with the tools that Triton's wheel brings (``nvdisasm``,
``cuobjdump``); AMD's assembly is read as it is.
"""

from __future__ import annotations

import functools
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
JUMP = re.compile(r"BRA|CALL|s_branch|s_cbranch")
# Those that may also go on to the next.
CONDITIONAL = re.compile(r"s_cbranch|CALL|BRA\.DIV|BRA\S*\s+!?U?P\w+,")
_SASS = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+)?\s*(\S.*?)\s*;\s+/\* 0x[0-9a-f]{16} \*/")
_CONTROL = re.compile(r"\s+/\* 0x([0-9a-f]{16}) \*/")
_AMD = re.compile(r"\t()([a-z]\w+\b[^;]*)")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One machine instruction.

    Attributes:
        predicated: Whether the next one may follow although this one is a jump, or leaves.
        never: Whether it takes its place and does nothing (``@!PT``).
        stall: Cycles for which the compiler keeps its warp from issuing the next one (NVIDIA: bits
            41 to 44 of the upper half of the instruction; Jia et al. 2018, arXiv:1804.06826,
            section 2.1). AMD's has no such field: 1.
    """

    text: str
    opcode: str
    predicated: bool = False
    target: str | None = None
    stall: int = 1
    never: bool = False


@dataclass(frozen=True)
class Code:
    """A kernel's instructions, where its labels stand among them, and what a thread and a block of it take:
    registers (AMD: vector registers of a lane), bytes of the stack, bytes of static shared memory."""

    instructions: list[Instruction] = field(repr=False)
    labels: dict[str, int] = field(repr=False)
    registers: int
    stack: int = 0
    shared: int = 0


def tool(name: str, *arguments: str | Path, cwd: Path | None = None) -> str:
    """What one of the tools prints."""
    command = [str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Usage:
    """What a thread takes, registers and bytes of the stack, and a block: bytes of static shared memory."""

    registers: int
    stack: int
    shared: int


def usage(cubin: bytes) -> dict[str, Usage]:
    """What each kernel of an NVIDIA binary takes, by name: read off, nothing is disassembled."""
    with _file(cubin) as path:
        said = tool("cuobjdump", "-res-usage", path)
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", said)
    return {
        name: Usage(int(registers), int(stack) + int(local), int(shared))
        for name, registers, stack, shared, local in found
    }


@functools.lru_cache(8)
def sass(cubin: bytes, wanted: str = "") -> dict[str, Code]:
    """The kernels of an NVIDIA binary by name, those in whose names the regular expression ``wanted`` is found."""
    taken = {name: x for name, x in usage(cubin).items() if re.search(wanted, name)}
    symbols = ",".join(str(i) for i, name in enumerate(_symbols(cubin)) if name in taken)
    if not symbols:
        return {}
    with _file(cubin) as path:
        listing = tool("nvdisasm", "-c", "-hex", "-fun", symbols, path)
    texts = dict(zip(*[iter(re.split(r"^\.text\.(\S+):$", listing, flags=re.M)[1:])] * 2, strict=True))
    return {name: Code(*_listed(texts[name], _SASS), x.registers, x.stack, x.shared) for name, x in taken.items()}


@contextmanager
def _file(cubin: bytes) -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        yield Path(file.name)


def _symbols(elf: bytes) -> list[str]:
    """The names in an ELF file's table of symbols, in its order; "" for those that are no functions."""
    (start,), (count,) = struct.unpack_from("<Q", elf, 0x28), struct.unpack_from("<H", elf, 0x3C)
    # A section's type (2: symbols), offset, size, and the section of its strings; each header has 64 bytes.
    sections = [struct.unpack_from("<4xI16xQQI", elf, start + 64 * i) for i in range(count)]
    _, offset, size, link = next(x for x in sections if x[0] == 2)
    strings = sections[link][1]
    names = []
    for name, info in (struct.unpack_from("<IB", elf, i) for i in range(offset, offset + size, 24)):
        at = strings + name
        names.append(elf[at : elf.index(0, at)].decode() if info & 15 == 2 else "")
    return names


def amdgcn(assembly: str) -> Code:
    """AMD assembly that holds one kernel."""
    registers = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    if registers is None:
        raise ValueError("assembly: it has no .vgpr_count")
    text = assembly[: assembly.index("s_endpgm", assembly.rindex("s_endpgm")) + 16]
    return Code(*_listed(text, _AMD), int(registers[1]))


def _listed(text: str, pattern: re.Pattern[str]) -> tuple[list[Instruction], dict[str, int]]:
    rows: list[tuple[str, str]] = []
    stalls: list[int] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if m := pattern.match(line):
            rows.append((m[2].strip(), m[1] or ""))
            stalls.append(1)
        elif rows and (m := _CONTROL.match(line)):
            stalls[-1] = max(1, int(m[1], 16) >> 41 & 15)
        elif label := re.match(r"([.$\w]+):", line):
            labels[label[1]] = len(rows)
    return [_instruction(*row, stall) for row, stall in zip(rows, stalls, strict=True)], labels


def _instruction(text: str, guard: str, stall: int) -> Instruction:
    target, conditional = None, bool(guard)
    if JUMP.match(text):
        to = re.search(r"`\((\S+?)\)|\s(\.LBB\w+)", text)
        target = (to[1] or to[2]) if to else None
        conditional = bool(guard) or CONDITIONAL.match(text) is not None
    return Instruction(text, text.split()[0], conditional, target, stall, guard == "@!PT")
