"""Triton launches on the emulator: compiled for a GPU that is not there, run on CPU tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from triton.runtime.jit import JITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from benchmarks.static.launches import Binary, Launch, compiled

from .launch import Argument, Report, run
from .tma import TensorMap


@contextmanager
def emulated(target: str, seed: int | None = None) -> Iterator[list[Report]]:
    """Inside, every launch of a Triton kernel runs its PTX for ``target`` on the emulator at once.

    Yields:
        The reports of the launches, growing.
    """
    reports: list[Report] = []

    def start(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        reports.append(launch(Launch(kernel, args, options, grid), target, seed))

    with mock.patch.object(JITFunction, "run", start):
        yield reports


def launch(made: Launch, target: str, seed: int | None = None, **changes: Any) -> Report:
    """Run one launch; ``changes`` replace parts of :func:`.launch.run`'s arguments, for mutants."""
    binary = compiled(made, target)
    given = {
        "ptx": binary.assembly,
        "grid": made.grid,
        "args": arguments(made, binary),
        "shared_bytes": binary.shared,
        "num_warps": binary.warps,
        "seed": seed,
    }
    return run(**(given | changes))


def arguments(made: Launch, binary: Binary) -> list[Argument]:
    """What the kernel's PTX takes of a launch: tuples and descriptors opened, constants left out."""
    options = {name: made.options[name] for name in made.kernel.arg_names if name in made.options}
    bound = made.kernel.signature.bind(*made.args, **options)
    bound.apply_defaults()
    flat: list[Argument] = []
    boxes = iter(binary.kernel.metadata.tensordesc_meta or ())

    def add(value: Any, kind: Any) -> None:
        if isinstance(kind, (tuple, list)):
            for pair in zip(value, kind, strict=True):
                add(*pair)
        elif isinstance(value, TensorDescriptor):
            flat.extend(_descriptor(value, next(boxes, None)))
        elif kind != "constexpr":
            flat.append(value)

    for name, kind in binary.kernel.src.signature.items():
        add(bound.arguments[name], kind)
    return flat


def _descriptor(value: TensorDescriptor, box: dict[str, Any] | None) -> list[Argument]:
    """A descriptor as TMA's (with a ``box``) or, on chips without TMA, as a pointer; then shape and strides."""
    layout = [*value.shape, *value.strides]
    if box is None:
        return [value.base, *layout, value.padding == "nan", value.round_f32_to_tf32, *layout]
    view = value.base.as_strided(tuple(value.shape), tuple(value.strides))
    return [TensorMap(view, tuple(box["block_size"]), 16 << box["swizzle"]), *layout]


__all__ = ["arguments", "emulated", "launch"]
