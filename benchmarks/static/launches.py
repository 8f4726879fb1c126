"""Compile Triton kernels for GPUs that are not there, and say what is wrong with the result.

:func:`compiled` takes the arguments of a launch and specialises the kernel just as Triton's JIT
would for them (alignment, integers equal to 1, constants), for one of ``TARGETS``.
:func:`launches` collects the launches that a function would make, so what is judged is what the
library really launches. :func:`flaws` are the gates. Results stay in Triton's own disk cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from .chips import CHIPS
from .loops import Reading, read_amdgcn, read_cubin


@dataclass(frozen=True)
class Target:
    """A chip.

    Attributes:
        gpu: Triton's name of it.
        shared: Bytes of shared memory a block may have (CDNA3 instruction set: 64 KiB of LDS).
        registers: Vector registers that one thread can name.
        products: Its tensor-core instructions, the newest first.
        columns: Columns of tensor memory (PTX ISA, tcgen05). A kernel that asks for more is
            compiled to a bare trap, without a word.
    """

    gpu: GPUTarget
    shared: int
    registers: int
    products: tuple[str, ...]
    columns: int = 0


TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), CHIPS["sm_80"].block, 255, ("HMMA",)),
    "sm_90": Target(GPUTarget("cuda", 90, 32), CHIPS["sm_90"].block, 255, ("HGMMA", "HMMA")),
    "sm_100": Target(GPUTarget("cuda", 100, 32), CHIPS["sm_100"].block, 255, ("UTCHMMA", "HMMA"), columns=512),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 65_536, 512, ("v_mfma",)),
}


@dataclass(frozen=True)
class Launch:
    """A kernel and the arguments it was launched with, ``num_warps`` and the like among them."""

    kernel: JITFunction
    args: tuple[Any, ...]
    options: dict[str, Any]
    grid: Any = None

    @property
    def name(self) -> str:
        return self.kernel.fn.__name__


@dataclass(frozen=True)
class Binary:
    """A compiled kernel."""

    name: str
    target: str
    kernel: CompiledKernel = field(repr=False)

    @property
    def assembly(self) -> str:
        """PTX, or AMD's assembly."""
        return self.kernel.asm["ptx" if "ptx" in self.kernel.asm else "amdgcn"]

    @property
    def image(self) -> bytes:
        """The cubin, or the hsaco."""
        return self.kernel.asm["cubin" if "cubin" in self.kernel.asm else "hsaco"]

    @property
    def shared(self) -> int:
        """Bytes of shared memory a block asks for."""
        return self.kernel.metadata.shared

    @property
    def columns(self) -> int:
        """Columns of tensor memory a block asks for."""
        return self.kernel.metadata.tmem_size if self.target == "sm_100" else 0

    @property
    def warps(self) -> int:
        return self.kernel.metadata.num_warps

    @cached_property
    def reading(self) -> Reading:
        """What its machine code shows."""
        if "cubin" in self.kernel.asm:
            return read_cubin(self.image)
        return read_amdgcn(self.assembly)


def compiled(launch: Launch, target: str) -> Binary:
    """Compile a launch's kernel for one of ``TARGETS``.

    Raises:
        ValueError: If Triton interprets, so that there is nothing to compile.
    """
    if not isinstance(launch.kernel, JITFunction):
        raise ValueError(f"launch: {launch.kernel!r} is interpreted; unset TRITON_INTERPRET to compile it")
    gpu = TARGETS[target].gpu
    backend = make_backend(gpu)
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    bound, specialization, options = bind(*launch.args, **launch.options)
    options, signature, constants, attributes = launch.kernel._pack_args(
        backend, launch.options, bound, specialization, options
    )
    source = ASTSource(launch.kernel, signature, constants, attributes)
    return Binary(launch.name, target, triton.compile(source, target=gpu, options=options.__dict__))


@contextmanager
def launches() -> Iterator[list[Launch]]:
    """Collect the launches made inside instead of running them: outputs keep what they held."""
    made: list[Launch] = []

    def note(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        made.append(Launch(kernel, args, options, grid))

    with mock.patch.object(JITFunction, "run", note):
        yield made


def flaws(binary: Binary, *, tensor: bool = True, hot: int = 1) -> list[str]:
    """Why a binary is not fit to be shipped; nothing if it is.

    Args:
        tensor: Whether the kernel must use the tensor cores.
        hot: How many main loops it has, which must not spill: the ``hot`` loops with the largest
            share of tensor-core instructions. The remaining ones, rare paths, may spill.
    """
    target, reading = TARGETS[binary.target], binary.reading
    found = []
    if binary.shared > target.shared:
        found.append(f"{binary.shared} bytes of shared memory, {binary.target} has {target.shared}")
    if binary.columns > target.columns:
        found.append(f"{binary.columns} columns of tensor memory, {binary.target} has {target.columns}")
    if reading.registers > target.registers:
        found.append(f"{reading.registers} registers, {binary.target} has {target.registers}")
    if tensor and not any(name.startswith(target.products) for name in reading.tensor):
        found.append(f"no tensor-core instruction of {binary.target} ({' or '.join(target.products)})")
    if not any(loop.multiplies for loop in reading.loops[:hot]):
        found.append(f"no main loop that multiplies, and {reading.spills} spills")
    return found + [f"main {loop}" for loop in reading.loops[:hot] if loop.spills]
