"""The committed table: a row for each kernel and chip, of what its machine code shows.

``python -m benchmarks static --update`` writes it, a test compares it with what the compilers give now.
Counts are exact for the compilers that are named in it; ``bound``, ``estimate``, ``masked`` and ``window`` are
estimates (:mod:`.estimate`), nothing was measured.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton

from pkernels import cuda

from . import extension, shipped
from .chips import CHIPS, PARTITIONS
from .estimate import Utilisation, utilisation
from .goals import missed
from .launches import compiled
from .listing import Code, Instruction, sass
from .loops import TENSOR, read
from .steady import masked_turn, turn

TABLE = Path(__file__).with_name("table.json")
TARGETS = tuple(chip for chip, known in CHIPS.items() if known.rates)
WINDOW = 256
"""Keys that a query of the window sees on either side."""
WIDTHS = (64, 128)
TRITON = tuple(f"{shape}{name}" for shape in ("", "blocks_", "buckets_") for name in shipped.PASSES)
"""The kernels of Triton that have rows."""
BYTES = {"bf16": 2, "f32": 4}

GIVES_BACK = re.compile(r"USETMAXREG\.DEALLOC")

Row = dict[str, Any]


def row(kernel: str, chip: str, code: Code, shape: extension.Shape) -> Row:
    """What is known of a kernel on a chip.

    ``registers`` of a thread; ``spills``, ``barriers`` (MEMBAR and the like, beyond the block), ``products`` (of
    the tensor cores) and ``others`` (all other instructions for each of them) in the main loop, the last two in
    a turn over a full tile; bytes of ``shared`` memory of a block; ``blocks`` at once and ``warps`` of each;
    and as shares of the tensor cores' best: ``bound``, what ``limit`` allows; ``estimate``; the same of a tile
    that is ``masked``, and of a ``window`` of 256 keys on either side, in which every
    tile at an edge is masked; and what is ``missed`` of its goals. Where there are no products there are no shares.
    """
    reading, known = read(code), CHIPS[chip]
    loop = reading.loops[0] if reading.loops else None
    full, masked = (turn(loop), masked_turn(loop)) if loop else ([], [])
    shared = code.shared + shape.shared
    blocks = known.at_once(code.registers, shape.warps, shared)
    products = sum(TENSOR.match(i.opcode) is not None for i in full)
    found: Row = {
        "kernel": kernel,
        "chip": chip,
        "registers": code.registers,
        "spills": loop.spills if loop else reading.spills,
        "barriers": loop.barriers if loop else 0,
        "shared": shared,
        "warps": shape.warps,
        "blocks": blocks,
        "products": products,
        "others": round(len(full) / products - 1, 1) if products else None,
    }
    # A kernel that gives registers back has four warps that only copy (PTX ISA, setmaxnreg).
    copying = 4 if any(GIVES_BACK.match(i.opcode) for i in code.instructions) else 0
    warps = blocks * (shape.warps - copying) / PARTITIONS
    found |= _shares(full, masked, shape.own, warps, chip)
    return found | ({"missed": missed(found)} if missed(found) else {})


def _shares(full: list[Instruction], masked: list[Instruction], own: int, warps: float, chip: str) -> Row:
    rates = CHIPS[chip].rates
    found: list[Utilisation | None] = [None if rates is None else utilisation(x, warps, rates) for x in (full, masked)]
    if found[0] is None or found[1] is None:
        return {}
    one, other = found[0].estimate, found[1].estimate
    edge = 2 * own / (own + 2 * WINDOW)  # the share of tiles that are masked
    shares = {
        "bound": found[0].bound,
        "estimate": one,
        "masked": other,
        "window": 1 / ((1 - edge) / one + edge / other),
    }
    return {name: round(share, 2) for name, share in shares.items()} | {"limit": found[0].limit}


@dataclass(frozen=True)
class Kernel:
    """A kernel, a chip, and how its row is made."""

    name: str
    chip: str
    row: Callable[[], Row] = field(repr=False)


def kernels() -> list[Kernel]:
    """All that can be compiled or read here: of ``csrc/cuda`` what is ``TABLED``, and the kernels of ``TRITON``."""
    built = [] if cuda.why_missing() else [chip for chip in extension.chips() if chip in TARGETS]
    ours = [(name, chip) for chip in built for name in extension.tabled(chip)]
    compiled_late = itertools.product(TARGETS, TRITON, BYTES, WIDTHS)
    return [Kernel(f"cuda {name}", chip, functools.partial(cuda_row, name, chip)) for name, chip in ours] + [
        Kernel(f"triton {name}_{dtype}_{width}", chip, functools.partial(triton_row, name, dtype, width, chip))
        for chip, name, dtype, width in compiled_late
    ]


def cuda_row(name: str, chip: str, wanted: str = extension.TABLED) -> Row:
    """Of a kernel of the extension, disassembled together with the others that are ``wanted``."""
    return row(f"cuda {name}", chip, extension.codes(chip, wanted)[name], extension.shapes()[name])


def triton_row(name: str, dtype: str, width: int, chip: str) -> Row:
    """Of a Triton kernel, such as "blocks_dq", "bf16" or "f32", at a head dimension."""
    launch = shipped.launched(chip, name, BYTES[dtype], width)[0]
    binary = compiled(launch, chip)
    (code,) = sass(binary.image).values()
    # What Triton asks for holds the static part.
    shape = extension.Shape(binary.warps, binary.shared - code.shared, launch.options["OWN"])
    return row(f"triton {name}_{dtype}_{width}", chip, code, shape)


def versions() -> dict[str, str]:
    """The compilers, by name."""
    built = {} if cuda.why_missing() else {"nvcc": extension.compiler()}
    return {"triton": triton.__version__} | built


def load() -> dict[str, Any]:
    """The table: ``versions`` and ``rows``."""
    return json.loads(TABLE.read_text())


def update(chosen: list[Kernel], report: Callable[[str], object]) -> None:
    """Write the table, a row a line, so that a difference shows which changed; ``report`` each.

    Raises:
        ValueError: If the extension is not there: the table would lose its rows.
    """
    reason = cuda.why_missing()
    if reason is not None:
        raise ValueError(f"update: the table has rows of the CUDA kernels: {reason}")
    rows = []
    for kernel in chosen:
        report(f"{kernel.name}, {kernel.chip}")
        rows.append(kernel.row())
    lines = ",\n".join(json.dumps(x) for x in rows)
    TABLE.write_text(f'{{"versions": {json.dumps(versions())},\n"rows": [\n{lines}\n]}}\n')
