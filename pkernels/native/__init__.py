"""The C++ kernels (``csrc/``), if they were built, and the instruction set that they use.

The environment variable ``PKERNELS_ISA`` names the instruction set to start with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .. import names


def why_missing() -> str | None:
    """Why the extension cannot be used, or None if it is there."""
    return _MISSING


def instruction_sets() -> tuple[str, ...]:
    """Those that this build contains and this CPU can run, the best one last.

    Raises:
        RuntimeError: If the extension is missing.

    Example:
        >>> instruction_sets()[0]
        'portable'
    """
    return tuple(operators().cpu_instruction_sets().split())


def instruction_set() -> str:
    """The one in use: "portable", "avx2", "avx512" or "avx512bf16".

    Raises:
        RuntimeError: If the extension is missing.
    """
    return operators().cpu_instruction_set()


@contextmanager
def force_instruction_set(name: str) -> Iterator[None]:
    """Use another instruction set, in all threads, until the end of the block.

    Raises:
        RuntimeError: If the extension is missing.
        ValueError: If the name is unknown, or this CPU cannot run it.

    Example:
        >>> with force_instruction_set("portable"):
        ...     instruction_set()
        'portable'
    """
    before = instruction_set()
    _use("name", name)
    try:
        yield
    finally:
        _use("name", before)


def operators():
    reason = why_missing()
    if reason is not None:
        raise RuntimeError(reason)
    return getattr(torch.ops, names.NATIVE)


def _use(argument: str, name: str) -> None:
    operators = getattr(torch.ops, names.NATIVE)  # not operators(): _load() comes here
    if not operators.use_cpu_instruction_set(name):
        allowed = ", ".join(operators.cpu_instruction_sets().split())
        raise ValueError(f"{argument}: {allowed} are allowed on this CPU, got {name!r}")


def _load() -> str | None:
    try:
        names.load("_C", names.NATIVE, "cpu_instruction_set")
    except ImportError as error:
        return f"the C++ extension is missing ({error}); build it with 'pip install .'"
    if name := os.environ.get("PKERNELS_ISA"):
        _use("PKERNELS_ISA", name)
    return None


_MISSING = _load()  # known once this module is there: torch.compile reads it, and traces no import
