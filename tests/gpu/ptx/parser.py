"""PTX text as a list of instructions with resolved registers, labels and symbols.

Syntax follows the PTX ISA 8.x, sections "Syntax" and "Directives". Blocks in braces (inline
assembly) open a scope of register and label names.
"""

from __future__ import annotations

import re

import numpy as np

from .errors import PtxError
from .instructions import Imm, Instruction, Kernel, Mem, Operand, Reg, Vec
from .values import TYPES, width

SPECIAL = re.compile(r"%(?:(?:n?tid|n?ctaid)\.[xyz]|laneid|n?warpid|clock|lanemask_\w\w|dynamic_smem_size)$")

INSTRUCTION = re.compile(r"(?:@(!?)([\w$%]+)\s+)?([\w.:]+)\s*(.*)$")
OPERAND = re.compile(r"(?:\{[^}]*\}|\[[^\]]*\]|\([^)]*\)|[^,])+")  # brackets may hold braces, and none holds its like
ADDRESS = re.compile(r"(.*?)\s*(?:([+-])\s*(-?\w+))?$")


class Parser:
    """One pass over the text; see :func:`parse`."""

    def __init__(self, text: str, name: str | None) -> None:
        blank = lambda m: "\n" * m[0].count("\n")  # noqa: E731
        self.text = re.sub(r"//[^\n]*|/\*.*?\*/", blank, text, flags=re.S)
        self.files = {
            int(m[1]): m[2] for m in re.finditer(r'^\s*\.file\s+(\d+)\s+(?:"[^"]*"\s+)?"([^"]*)"', text, re.M)
        }
        self.symbols: dict[str, int] = {}
        self.scopes: list[int] = []
        self.names: dict[tuple[int, str], Reg | tuple[int, int, int]] = {}
        self.labels: dict[tuple[int, str], int] = {}
        self.opened = 0
        wanted = re.escape(name) if name else r"[\w$]+"
        entry = re.search(rf"\.entry\s+({wanted})\s*\((.*?)\)([^{{;]*)\{{", self.text, re.S)
        if entry is None:
            raise PtxError(f"no .entry {name or ''} in the PTX")
        bound = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", entry[3])
        self.kernel = Kernel(entry[1], _params(entry[2]), int(bound[1]) if bound else 0)
        outside = [
            m[0]
            for m in re.finditer(
                r"^\s*(?:\.visible\s+|\.extern\s+|\.weak\s+)*\.(shared|global|const)\s[^;]*;", self.text, re.M
            )
            if self.text.count("{", 0, m.start()) == self.text.count("}", 0, m.start())
        ]
        body = self.text[entry.end() :].partition(".entry")[0]
        inside = re.findall(r"(?<![\w.:])\.shared\s+\.[^;]*;", body)
        # What a launch adds, an array of no size, lies behind everything else in shared memory.
        for statement in sorted(outside + inside, key=lambda text: "[]" in text):
            self.declare_memory(statement)
        self.position = entry.end()

    def declare_memory(self, statement: str) -> None:
        m = re.search(r"\.align\s+(\d+)", statement)
        align = int(m[1]) if m else 8
        m = re.search(r"\.([bsuf]\d+)\s+([\w$]+)\s*(?:\[(\d*)\])?\s*(?:=\s*\{?([^}]*)\}?)?\s*;", statement)
        if m is None:
            raise PtxError(f"cannot parse the declaration {statement.strip()[:120]!r}")
        size = width(m[1]) * (int(m[3]) if m[3] else 0 if m[3] == "" else 1)
        if ".shared" in statement:
            at = -(-self.kernel.static_shared // align) * align
            self.symbols[m[2]], self.kernel.static_shared = at, at + size
        elif ".local" in statement:
            at = -(-self.kernel.local_bytes // align) * align
            self.symbols[m[2]], self.kernel.local_bytes = at, at + size
        else:
            values = [Imm(v.strip()).bits() for v in (m[4] or "").split(",") if v.strip()]
            data = np.array([v & (1 << 8 * width(m[1])) - 1 for v in values], TYPES[f"u{8 * width(m[1])}"]).tobytes()
            self.kernel.constants[m[2]] = data.ljust(size, b"\0")

    def parse(self) -> Kernel:
        source, depth, line, counted = "", 1, 1, 0
        self.open()
        statement = re.compile(r"\s*(?:(\.loc\s[^\n]*)|(\.file\s[^\n]*)|([{}])|([\w$%.]+)\s*:(?!:)|([^;]*);)")
        while depth:
            m = statement.match(self.text, self.position)
            if m is None:
                raise PtxError(f"cannot parse the PTX at {self.text[self.position : self.position + 80]!r}")
            self.position = m.end()
            if m[1]:
                file, row = m[1].split()[1:3]
                source = f"{self.files.get(int(file), '?')}:{row}"
            elif m[3]:
                depth += 1 if m[3] == "{" else -1
                self.open() if m[3] == "{" else self.scopes.pop()
            elif m[4]:
                self.labels[self.scopes[-1], m[4]] = len(self.kernel.code)
            elif m[5] and m[5].strip():
                line, counted = line + self.text.count("\n", counted, m.start(5)), m.start(5)
                self.statement(" ".join(m[5].split()), line, source)
        for i in self.kernel.code:
            if i.parts[0] == "bra":
                found = (self.labels.get((s, str(i.operands[0]))) for s in reversed(i.scopes))
                i.target = next((at for at in found if at is not None), -1)
                if i.target < 0:
                    raise PtxError(f"no such label; {i.place}")
        return self.kernel

    def open(self) -> None:
        self.opened += 1
        self.scopes.append(self.opened)

    def statement(self, text: str, line: int, source: str) -> None:
        if text.startswith(".reg"):
            kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text).groups()  # type: ignore[union-attr]
            for name in names.split(","):
                self.declare_register(name.strip(), 0 if kind == "pred" else width(kind))
        elif text.startswith(".local"):
            self.declare_memory(text + ";")
        elif not text.startswith("."):
            m = INSTRUCTION.match(text)
            if m is None:
                raise PtxError(f"cannot parse line {line}: {text!r}")
            guard = self.name(m[2]) if m[2] else None
            if isinstance(guard, Reg):
                guard = Reg(guard.name, guard.slot, 0, bool(m[1]))
            operands = [] if m[3].split(".")[0] == "call" else [self.operand(o) for o in _split(m[4])]
            flat = [p for o in operands for p in (o if isinstance(o, list) else [o])]
            where = tuple(self.scopes)
            self.kernel.code.append(Instruction(m[3], flat, guard, line, text, source, where))  # type: ignore[arg-type]

    def declare_register(self, name: str, size: int) -> None:
        family = re.match(r"([\w$%]+)<(\d+)>$", name)
        first = self.kernel.registers
        self.kernel.registers += int(family[2]) if family else 1
        key = (self.scopes[-1], family[1] if family else name)
        self.names[key] = (first, int(family[2]), size) if family else Reg(name, first, size)

    def name(self, name: str) -> Operand:
        """What a name means where the parser stands."""
        known = self.names.get((self.scopes[-1], name))
        if isinstance(known, Reg):
            return known
        found = self.look_up(name)
        if isinstance(found, Reg):
            self.names[self.scopes[-1], name] = found
        return found

    def look_up(self, name: str) -> Operand:
        family = name.rstrip("0123456789")
        number = name[len(family) :]
        for scope in reversed(self.scopes):
            plain = self.names.get((scope, name))
            if isinstance(plain, Reg):
                return plain
            many = self.names.get((scope, family)) if number else None
            if isinstance(many, tuple) and int(number) < many[1]:
                return Reg(name, many[0] + int(number), many[2])
        if SPECIAL.match(name):
            if name not in self.kernel.special:
                self.kernel.special[name] = Reg(name, self.kernel.registers, 4)
                self.kernel.registers += 1
            return self.kernel.special[name]
        if name in self.symbols:
            return Imm(str(self.symbols[name]))
        return name

    def operand(self, text: str) -> Operand | list[Operand]:
        known = self.names.get((self.scopes[-1], text))  # most are registers that were named before
        if isinstance(known, Reg):
            return known
        if text == "_":
            return None
        if text[0] == "{":
            return Vec(tuple(self.operand(t) for t in _split(text[1:-1])))  # type: ignore[misc]
        if text[0] == "[":
            base, *rest = _split(text[1:-1])
            m = ADDRESS.match(base)
            offset = int(m[3], 0) * (-1 if m[2] == "-" else 1) if m and m[3] else 0
            coordinates = self.operand(rest[0]) if rest else Vec(())
            return Mem(self.operand(m[1]), offset, coordinates.items)  # type: ignore[index, union-attr, arg-type]
        if "|" in text:
            return [self.operand(t.strip()) for t in text.split("|")]  # type: ignore[misc]
        if text[0] == "!":
            reg = self.name(text[1:])
            return Reg(reg.name, reg.slot, 0, True) if isinstance(reg, Reg) else reg
        return Imm(text) if text.removeprefix("-")[:1].isdecimal() else self.name(text)


def _params(text: str) -> list[tuple[str, str]]:
    """``(name, type)`` of each parameter; a ``.b8 name[n]`` array has the type ``b8[n]``."""
    found = []
    for part in filter(str.strip, text.split(",")):
        m = re.search(r"\.([busf]\d+)\b.*?([\w$]+)(\[\d+\])?\s*$", part, re.S)
        if m is None:
            raise PtxError(f"cannot parse the parameter {part.strip()!r}")
        found.append((m[2], m[1] + (m[3] or "")))
    return found


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    return [part.strip() for part in OPERAND.findall(text) if part.strip()]


def parse(text: str, name: str | None = None) -> Kernel:
    """The kernel ``name`` (the first one if not given) of a PTX module."""
    return Parser(text, name).parse()
