"""Instructions as functions of the CTA: the table of decoders, and a kernel that is decoded as it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import UnsupportedError
from .instructions import Imm, Instruction, Kernel
from .values import Array

if TYPE_CHECKING:
    from .machine import Cta

Step = Callable[["Cta"], None]
DECODERS: dict[str, Callable[[Instruction, Kernel], Step]] = {}
CONTROL: dict[str, Callable[[Cta, Instruction], None]] = {}
"""Instructions after which threads may go on elsewhere, or not at once."""


def decodes(*names: str) -> Callable:
    """Register the decoder of all opcodes whose first word is one of ``names``."""

    def register(decoder: Callable[[Instruction, Kernel], Step]) -> Callable[[Instruction, Kernel], Step]:
        DECODERS.update(dict.fromkeys(names, decoder))
        return decoder

    return register


class Program:
    """A kernel with its instructions decoded as they are first met."""

    def __init__(self, kernel: Kernel, params: dict[str, Array], symbols: dict[str, int]) -> None:
        self.kernel, self.params = kernel, params
        self.steps: list[Step | None] = [None] * len(kernel.code)
        self.executed = [0] * len(kernel.code)
        self.maps: dict[str, Any] = {}
        """Tensor maps among the parameters; see ``tma``."""
        self.conflicts: dict[int, list[int]] = {}
        self.ambiguous: set[int] = set()
        self.late: set[int] = set()
        for i in kernel.code:
            i.operands = [Imm(str(symbols[o])) if isinstance(o, str) and o in symbols else o for o in i.operands]

    def step(self, at: int) -> Step:
        instruction = self.kernel.code[at]
        decoder = DECODERS.get(instruction.parts[0])
        if decoder is None:
            raise UnsupportedError(f"instruction {instruction.opcode}")
        step = decoder(instruction, self.kernel)
        self.steps[at] = step
        return step
