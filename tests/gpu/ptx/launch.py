"""Launching a kernel over a grid, and what is counted while it runs."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from . import access, alu, async_copy, bits, control, convert, mbarrier, select, tensor, warp, wgmma  # noqa: F401  (they register their instructions)
from .instructions import Kernel
from .machine import Cta
from .memory import GlobalMemory
from .parser import parse
from .program import Program
from .tma import TensorMap
from .values import Array, width


@dataclass(frozen=True)
class Record:
    """A struct that is passed by value.

    Attributes:
        content: Its bytes, as the host wrote them.
        tensors: What its pointers point into.
    """

    content: torch.Tensor
    tensors: Sequence[torch.Tensor]


Argument = torch.Tensor | np.ndarray | TensorMap | Record | int | float


@dataclass
class Report:
    """What a launch did.

    Attributes:
        kernel: Name of the entry point.
        executed: How often each opcode was executed, counted once per group of threads that ran it together.
        conflicts: For each shared memory instruction with bank conflicts, in order of the code: the
            wavefronts it took over those it would take without.
        conflicts_in_loops: Those of them that a loop repeats.
        ambiguous: Shared memory stores by which lanes of a warp put different values in one cell. A GPU
            keeps one and does not say which; here it is the last lane's.
        late: ``wgmma`` whose left operand in registers was written after the last ``wgmma.fence``. PTX forbids it;
            LLVM moves conversions of Triton's there, and ptxas, which sees what depends on what, waits for them.
    """

    kernel: str
    executed: Counter = field(default_factory=Counter)
    conflicts: dict[str, float] = field(default_factory=dict)
    conflicts_in_loops: dict[str, float] = field(default_factory=dict)
    ambiguous: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


def run(
    ptx: str,
    grid: tuple[int, ...],
    args: Sequence[Argument],
    shared_bytes: int = 0,
    num_warps: int | None = None,
    *,
    name: str | None = None,
    seed: int | None = None,
) -> Report:
    """Run a kernel of a PTX module; tensors among the arguments are changed in place.

    Args:
        ptx: Text of the module.
        grid: CTAs in x, y, z; missing ones are 1.
        args: One value per parameter: CPU tensors or arrays for pointers, a TensorMap for a
            descriptor of TMA, numbers otherwise. Parameters
            without one (Triton adds two scratch pointers at the end) are null.
        shared_bytes: Dynamic shared memory.
        num_warps: Needed if the kernel does not say (``.reqntid``).
        name: Entry point; the first one if not given.
        seed: None runs CTAs in order with all warps in lockstep; a number runs CTAs, and the warps of
            each, in a random order drawn from it.

    Raises:
        PtxError: See the package.
        ValueError: An argument does not fit its parameter.
    """
    kernel = _parsed(ptx, name)
    wanted = kernel.threads if num_warps is None else 32 * num_warps
    if wanted == 0 or kernel.threads not in (0, wanted):
        raise ValueError(
            f"num_warps: the kernel wants {kernel.threads or 'to be told its'} threads, got {num_warps} warps"
        )
    kernel = replace(kernel, threads=wanted)
    tensors = [torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in args]
    given = [a.tensor if isinstance(a, TensorMap) else a for a in tensors]
    given += [x for a in tensors if isinstance(a, Record) for x in a.tensors]
    memory = GlobalMemory([a for a in given if isinstance(a, torch.Tensor)], kernel.constants, kernel.granule("global"))
    symbols = memory.symbols | {name: n * access.PARAM_STRIDE for n, (name, _) in enumerate(kernel.params)}
    program = Program(kernel, _params(kernel, tensors, memory), symbols)
    program.maps = {name: a for (name, _), a in zip(kernel.params, tensors, strict=False) if isinstance(a, TensorMap)}
    rng = None if seed is None else random.Random(seed)
    columns, rows, layers = (*grid, 1, 1)[:3]
    places = [(x, y, z) for z in range(layers) for y in range(rows) for x in range(columns)]
    if rng is not None:
        rng.shuffle(places)
    with np.errstate(all="ignore"):
        for memory.cta, index in enumerate(places):
            Cta(program, memory, index, (columns, rows, layers), kernel.static_shared + shared_bytes, rng).run()
    memory.restore()
    return _report(kernel, program)


_KEPT: dict[tuple[str, str | None], Kernel] = {}


def _parsed(ptx: str, name: str | None) -> Kernel:
    """A kernel without constants, whose addresses depend on the tensors, means the same in every launch."""
    kernel = _KEPT.get((ptx, name)) or parse(ptx, name)
    if not kernel.constants:
        if len(_KEPT) >= 16:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[ptx, name] = kernel
    return kernel


def _params(kernel: Kernel, args: Sequence[object], memory: GlobalMemory) -> dict[str, Array]:
    """The bytes of each parameter."""
    if len(args) > len(kernel.params):
        raise ValueError(f"args: {kernel.name} has {len(kernel.params)} parameters, got {len(args)}")
    params = {}
    for number, (name, kind) in enumerate(kernel.params):
        value: object = args[number] if number < len(args) else 0
        if isinstance(value, TensorMap) and kind == "b8[128]":
            params[name] = np.zeros(128, np.uint8)
            continue
        if isinstance(value, Record) and kind.startswith("b8["):
            params[name] = memory.translate(value.content, value.tensors)[: int(kind[3:-1])]
            continue
        if isinstance(value, torch.Tensor):
            if kind not in ("u64", "b64", "s64"):
                raise ValueError(f"args[{number}]: parameter {name} is a {kind}, got a tensor")
            value = memory.address(value)
        try:
            params[name] = np.frombuffer(_bits(value, kind), np.uint8)
        except (TypeError, ValueError, struct.error) as e:
            raise ValueError(f"args[{number}]: parameter {name} is a {kind}, got {value!r}") from e
    return params


def _bits(value: object, kind: str) -> bytes:
    """A number as the bytes of a parameter type; ``b32`` and ``b64`` take integers and floats."""
    if "[" in kind or not isinstance(value, (int, float, np.number)):
        raise TypeError
    size = width(kind)
    if isinstance(value, (int, np.integer)) and kind[0] in "usb":
        return (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")
    if kind[0] in "us":
        raise TypeError
    return struct.pack({2: "<e", 4: "<f", 8: "<d"}[size], value)


def _report(kernel: Kernel, program: Program) -> Report:
    ambiguous, late = ([kernel.code[at].place for at in sorted(found)] for found in (program.ambiguous, program.late))
    report = Report(kernel.name, ambiguous=ambiguous, late=late)
    for i, times in zip(kernel.code, program.executed, strict=True):
        report.executed[i.opcode] += times
    for at, (wavefronts, ideal) in sorted(program.conflicts.items()):
        if wavefronts > ideal:
            report.conflicts[kernel.code[at].place] = wavefronts / ideal
            if kernel.repeats(at):
                report.conflicts_in_loops[kernel.code[at].place] = wavefronts / ideal
    return report
