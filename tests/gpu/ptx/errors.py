"""What the emulator refuses. Every message ends with the place: PTX line, instruction, source line, CTA."""

from __future__ import annotations


class PtxError(Exception):
    """A kernel did something that a GPU would not do reliably, or that is not emulated."""


class UnsupportedError(PtxError):
    """An instruction or a form of it that the emulator does not know."""


class OutOfBoundsError(PtxError):
    """An address outside the tensors of the arguments, or outside shared or local memory."""


class MisalignedError(PtxError):
    """An address that is not a multiple of the access width."""


class UninitialisedError(PtxError):
    """A read of a register or of shared memory that nobody has written."""


class InFlightError(PtxError):
    """An access to data of an asynchronous operation that has not been waited for."""


class RaceError(PtxError):
    """Two accesses, one of them a write, that no barrier orders."""


class DivergenceError(PtxError):
    """A warp-wide or CTA-wide instruction that not all threads it names execute together."""


class DeadlockError(PtxError):
    """No thread can go on."""


def threads_text(threads: list[int]) -> str:
    """``[0, 1, 2, 7]`` as ``0-2, 7``."""
    runs: list[list[int]] = []
    for t in threads:
        if runs and t == runs[-1][1] + 1:
            runs[-1][1] = t
        else:
            runs.append([t, t])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
