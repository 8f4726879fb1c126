"""Values that are not finite.

Zero weights do not hide a NaN from a product: 0 * NaN = NaN. So a program whose result is
not finite says so, and a second launch, CAREFUL, works those tiles again: products of cleaned
operands, and NaN set where a value that is not finite was really kept.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def is_finite(x):
    return tl.abs(x.to(tl.float32)) < float("inf")


@triton.jit
def clean(x):
    return tl.where(is_finite(x), x, tl.zeros_like(x))


@triton.jit
def unclean_rows(x):
    """(rows,) bool: whether a row holds a value that is not finite."""
    return tl.max(tl.where(is_finite(x), 0, 1), 1) != 0


@triton.jit
def report(doubts, x):
    """Note whether this program's result is to be worked again; ``doubts`` is None if nothing
    is hidden, so that nothing can leak."""
    if doubts is not None:
        tl.store(doubts + tl.program_id(0), (tl.min(tl.where(is_finite(x), 1, 0)) == 0).to(tl.int8))


@triton.jit
def doubted(doubts):
    return tl.load(doubts + tl.program_id(0)) != 0


@triton.jit
def reach(count, keep, x):
    """count plus, per row of ``keep`` and column of x, how many values it keeps that are not finite."""
    return tl.dot(keep.to(tl.bfloat16), tl.where(is_finite(x), 0.0, 1.0).to(tl.bfloat16), count)
