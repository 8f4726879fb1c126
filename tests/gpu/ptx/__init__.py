"""Runs the PTX that Triton and nvcc emit, on numpy, and refuses what a GPU would not do reliably.

``run`` launches a kernel on CPU tensors: a whole CTA at a time, CTAs one after another. It raises a
:class:`PtxError` that names the instruction, its lines in the PTX and in the source, thread and
address for: accesses outside the tensors of the arguments, outside shared memory, or misaligned;
reads of registers or shared memory nobody wrote; use of data whose asynchronous copy has not been
waited for; accesses to shared memory that no barrier orders, whatever order they happened in; lanes
missing from a warp-wide instruction; deadlock; two CTAs at the same global address.

Not modelled: the rounding of the approximate functions and the order of summation of the tensor
cores; the memory model between CTAs and between threads in global memory; caches and time.
"""

from .errors import (
    DeadlockError,
    DivergenceError,
    InFlightError,
    MisalignedError,
    OutOfBoundsError,
    PtxError,
    RaceError,
    UninitialisedError,
    UnsupportedError,
)
from .launch import Report, run

__all__ = [
    "DeadlockError",
    "DivergenceError",
    "InFlightError",
    "MisalignedError",
    "OutOfBoundsError",
    "PtxError",
    "RaceError",
    "Report",
    "UninitialisedError",
    "UnsupportedError",
    "run",
]
