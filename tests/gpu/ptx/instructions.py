"""What a kernel consists of once its text is read: operands, instructions, the entry point."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .values import TYPES, width


@dataclass(frozen=True)
class Reg:
    """A register: its slot in the register file and bytes (0 for a predicate)."""

    name: str
    slot: int
    bytes: int
    negated: bool = False


@dataclass(frozen=True)
class Imm:
    """A number as written, or the address of a symbol."""

    text: str

    def bits(self) -> int:
        """Two's complement integer or the bits of a ``0f`` or ``0d`` literal."""
        text = self.text
        if text[:2] in ("0f", "0F", "0d", "0D"):
            return int(text[2:], 16)
        return int(text.rstrip("U"), 0) if not re.fullmatch(r"0[0-7]+U?", text) else int(text.rstrip("U"), 8)


@dataclass(frozen=True)
class Mem:
    """``[base + offset]``; for tensor copies also the coordinates."""

    base: Reg | Imm | str
    offset: int = 0
    coordinates: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Vec:
    """``{a, b, ...}``"""

    items: tuple[Operand, ...]


Operand = Reg | Imm | Mem | Vec | str | None
"""``None`` is the sink ``_``; a plain string is the name of a label, function or parameter."""


@dataclass
class Instruction:
    """One statement. ``parts`` are the words of the opcode between its dots."""

    opcode: str
    operands: list[Operand]
    guard: Reg | None
    line: int
    text: str
    source: str
    scopes: tuple[int, ...]
    target: int = -1

    def __post_init__(self) -> None:
        self.parts = self.opcode.split(".")
        self.types = [p for p in self.parts[1:] if p in TYPES or p == "b128"]

    def has(self, *words: str) -> bool:
        return any(w in self.parts for w in words)

    @property
    def vector(self) -> int:
        return next((int(p[1:]) for p in self.parts if p in ("v2", "v4", "v8")), 1)

    @property
    def place(self) -> str:
        return f"line {self.line}: `{self.text[:110]}`" + (f" ({self.source})" if self.source else "")


@dataclass
class Kernel:
    """An entry point."""

    name: str
    params: list[tuple[str, str]]
    threads: int
    """0 if the text does not say."""
    code: list[Instruction] = field(default_factory=list)
    registers: int = 0
    special: dict[str, Reg] = field(default_factory=dict)
    static_shared: int = 0
    local_bytes: int = 0
    constants: dict[str, bytes] = field(default_factory=dict)

    @property
    def has_wgmma(self) -> bool:
        return any(i.parts[0] == "wgmma" for i in self.code)

    def repeats(self, at: int) -> bool:
        """Whether a branch leads from behind an instruction to it or before it."""
        return any(0 <= i.target <= at for i in self.code[at:])

    def granule(self, space: str) -> int:
        """The narrowest access to a memory, at most 4 bytes: what it is tracked in."""
        widths = [4]
        for i in self.code:
            if i.parts[0] in ("ld", "st", "atom", "red") and not i.has("param"):
                named = {p.split("::")[0] for p in i.parts} & {"shared", "global", "local"}
                if space in named or not named:
                    widths.append(width(i.parts[-1]))
            elif i.parts[0] in ("wgmma", "ldmatrix", "stmatrix") or i.opcode.startswith("cp.async.bulk"):
                widths.append(2)
        return min(widths)
