"""Run Triton kernels on CPU tensors, with an eye on every memory access.

Triton's own interpreter (``TRITON_INTERPRET=1``) computes bfloat16 on its raw bits, lets kernels
read and write past their tensors, and runs the programs of a grid in one fixed order, so that
much of what would fail on a GPU passes. Importing this package mends the arithmetic
(``arithmetic``); inside :func:`checked` every launch is also watched:

=========================  ====================================================================
raises                     when
=========================  ====================================================================
``OutOfBoundsError``       a lane reads or writes outside the tensor its pointer came from,
                           or in a gap between the rows of a strided view
``DuplicateStoreError``    two lanes of one store write the same address
``RaceError``              two programs touch an address, one of them writing
``NondeterminismError``    programs add floats atomically, in an order a GPU is free to choose
``UninitialisedError``     a lane reads memory of ``torch.empty`` that nobody has written
``KernelAssertionError``   ``tl.device_assert`` fails, int32 overflows (if asked), or the grid
                           is larger than CUDA allows
=========================  ====================================================================

Masked-off lanes of a load without ``other`` are undefined on a GPU: here they hold NaN.
What it cannot show: shared memory, layouts, pipelining, warps, approximate exp2 and division,
and the order in which a tensor core sums. Those are the compiled code's affair.

Whether Triton interprets is settled when ``triton.jit`` decorates a function, so such tests run
in a process of their own; ``tests/interpreted`` is where they live.
"""

from . import arithmetic
from .launch import Run, checked
from .memory import (
    DuplicateStoreError,
    KernelAssertionError,
    KernelError,
    NondeterminismError,
    OutOfBoundsError,
    RaceError,
    UninitialisedError,
)
from .poison import poisoned, unwritten

arithmetic.mend()

__all__ = [
    "DuplicateStoreError",
    "KernelAssertionError",
    "KernelError",
    "NondeterminismError",
    "OutOfBoundsError",
    "RaceError",
    "Run",
    "UninitialisedError",
    "checked",
    "poisoned",
    "unwritten",
]
