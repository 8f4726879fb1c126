"""Runs the PTX that Triton and nvcc emit, on numpy, and refuses what a GPU would not do reliably.

``run`` launches a kernel on CPU tensors: a whole CTA at a time, CTAs one after another. It raises a
:class:`PtxError` that names the instruction, its lines in the PTX and in the source, thread and
address for: accesses outside the tensors of the arguments, outside shared memory, or misaligned;
reads of registers or shared memory nobody wrote; use of data whose asynchronous copy has not been
waited for; accesses to shared memory that no barrier orders, whatever order they happened in; lanes
missing from a warp-wide instruction; deadlock; two CTAs at the same global address.

It knows what the two compilers emit for sm_80 and sm_90: ``mma``, ``ldmatrix``, ``cp.async``,
``wgmma``, ``mbarrier``, TMA by tiles, warps that play different parts. Not sm_100's ``tcgen05``, fp8, clusters, calls.

Not modelled: the rounding of the approximate functions and the order of summation of the tensor
cores; the memory model between CTAs and between threads in global memory; the proxy fence that a
TMA load needs after ordinary reads of its destination; caches and time.

From text to result: ``parser`` makes ``instructions``; ``launch`` puts the tensors into ``memory`` and
runs a ``machine`` per CTA, with its ``shared`` memory and ``clocks``; ``program`` asks the modules that
are named after kinds of instructions to decode each when it is first met.
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
from .tma import TensorMap

__all__ = [
    "DeadlockError",
    "DivergenceError",
    "InFlightError",
    "MisalignedError",
    "OutOfBoundsError",
    "PtxError",
    "RaceError",
    "Report",
    "TensorMap",
    "UninitialisedError",
    "UnsupportedError",
    "run",
]
