"""Watch the launches of interpreted kernels: :func:`checked` and the hooks it needs.

The hooks replace methods of Triton's private interpreter classes, so they follow its version;
they were read against triton 3.7.
"""

from __future__ import annotations

import random
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton
from triton.runtime import interpreter
from triton.tools.tensor_descriptor import TensorDescriptor

from . import access, poison
from .memory import KernelAssertionError, KernelError, Memory, Traced

Builder, Executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
LIMITS = (2**31 - 1, 65_535, 65_535)  # programs along each axis of a CUDA grid
TOOLS = (str(Path(triton.__file__).parent), str(Path(__file__).parent), str(Path(np.__file__).parent))


@dataclass
class Run:
    """What was watched: the kernels launched, in order, with their grids."""

    shuffle: int | None
    races: bool
    launches: list[tuple[str, tuple[int, int, int]]] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    order: list[int] = field(default_factory=list)
    patched: set[int] = field(default_factory=set)
    kernel: str = ""
    program: int = 0


@contextmanager
def checked(*, shuffle: int | None = 0, races: bool = True, overflow: bool = False) -> Iterator[Run]:
    """Watch every launch inside; see the package for what is raised. The innermost watch counts.

    Args:
        shuffle: Seed of the order in which a grid's programs run; None runs them in order.
        races: Whether programs of a launch must keep out of each other's memory, and may not
            add floats atomically.
        overflow: Whether int32 arithmetic may not wrap. Slow, and kernels that hash wrap by design.

    Raises:
        RuntimeError: If Triton does not interpret.

    Example::

        with checked(shuffle=1) as run:
            kernel[grid](x, y, n, BLOCK=64)
        assert [name for name, _ in run.launches] == ["kernel"]
    """
    if not triton.knobs.runtime.interpret:
        raise RuntimeError("checked: set TRITON_INTERPRET=1 before triton is imported")
    run = Run(shuffle, races)
    options = interpreter.InterpreterOptions(debug=True, sanitize_overflow=overflow)
    with ExitStack() as stack:
        stack.enter_context(poison.poisoned())
        stack.enter_context(mock.patch.object(interpreter.interpreter_builder, "options", options))
        for owner, name, original, hook in HOOKS:
            stack.enter_context(mock.patch.object(owner, name, hook(run, original)))
        yield run


def _launch(run: Run, launch: Callable) -> Callable:
    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        run.memory, run.patched, run.kernel = Memory(), set(), self.fn.__name__
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                return launch(self, *args, **kwargs)
        except (interpreter.InterpreterError, KernelError) as error:
            root: BaseException = error
            while isinstance(root, interpreter.InterpreterError) and root.__cause__ is not None:
                root = root.__cause__
            program = getattr(interpreter.interpreter_builder, "grid_idx", None)
            place = f"kernel {run.kernel}, program {program}, {_line(root)}"
            if isinstance(root, KernelError):
                raise type(root)(f"{place}: {root}") from None
            raise interpreter.InterpreterError(f"{place}: {root!r}") from root

    return watched


def _line(error: BaseException) -> str:
    """File and line of the kernel at which an error arose."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(TOOLS)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "before its first line"


def _arguments(run: Run, initialise: Callable) -> Callable:
    """Enter the tensors among a launch's arguments under their names."""

    def enter(name: str, x: Any) -> None:
        x = x.base if isinstance(x, TensorDescriptor) else x
        if isinstance(x, tuple):
            for i, member in enumerate(x):
                enter(f"{name}[{i}]", member)
        elif hasattr(x, "data_ptr"):
            x.region = run.memory.add(name, getattr(x, "base", x) if not isinstance(x, torch.Tensor) else x)

    def initialised(self: Any, args: tuple, kwargs: dict) -> tuple[Any, dict]:
        args, kwargs = initialise(self, args, kwargs)
        for name, x in (*zip(self.arg_names, args, strict=False), *kwargs.items()):
            enter(name, x)
        run.memory.allocate()
        return args, kwargs

    return initialised


def _convert(run: Run, convert: Callable) -> Callable:
    def converted(x: Any) -> Any:
        result = convert(x)
        if hasattr(x, "region"):
            result.handle.dtype = Traced(result.handle.dtype, x.region)
        return result

    return converted


def _call(run: Run, call: Callable) -> Callable:
    """Device functions: upstream patches the language anew at each call, a quarter of the time."""

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if id(self.fn.__globals__) not in run.patched:
            run.patched.add(id(self.fn.__globals__))
            return call(self, *args, **kwargs)
        return self.rewrite()(*args, **kwargs)

    return called


def _grid(run: Run, set_dim: Callable) -> Callable:
    def set_grid_dim(self: Any, x: int, y: int, z: int) -> None:
        dims = (x, y, z)
        set_dim(self, *dims)
        for axis, (size, limit) in enumerate(zip(dims, LIMITS, strict=True)):
            if size > limit:
                raise KernelAssertionError(f"grid {dims}: axis {axis} allows {limit} programs")
        run.launches.append((run.kernel, dims))
        run.order = list(range(dims[0] * dims[1] * dims[2]))
        if run.shuffle is not None:
            random.Random(run.shuffle).shuffle(run.order)

    return set_grid_dim


def _index(run: Run, set_index: Callable) -> Callable:
    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        _, ny, nz = self.grid_dim
        run.program = run.order[(x * ny + y) * nz + z]
        set_index(self, run.program // (ny * nz), run.program // nz % ny, run.program % nz)

    return set_grid_idx


def _assert(run: Run, check: Callable) -> Callable:
    def create_assert(self: Any, condition: Any, message: str) -> None:
        if not condition:
            raise KernelAssertionError(message)

    return create_assert


# Owner, name, upstream's method, and the function that makes its replacement for a run.
HOOKS: tuple[tuple[Any, str, Callable, Callable], ...] = tuple(
    (owner, name, getattr(owner, name), hook)
    for owner, name, hook in (
        (Executor, "__call__", _launch),
        (Executor, "_init_args_hst", _arguments),
        (interpreter, "_implicit_cvt", _convert),
        (interpreter.InterpretedFunction, "__call__", _call),
        (Builder, "set_grid_dim", _grid),
        (Builder, "set_grid_idx", _index),
        (Builder, "create_assert", _assert),
        (Builder, "create_masked_load", access.load),
        (Builder, "create_masked_store", access.store),
        (Builder, "create_atomic_rmw", access.update),
        (Builder, "create_atomic_cas", access.swap),
        (Builder, "create_select", access.select),
    )
)
