"""Products of tiles, in fp32 of inputs of any dtype. PRECISION is what :func:`.tune.precision` chose.

"split": an fp32 operand is taken apart into three of bf16, and of their nine products the six that matter are added,
the smallest first (Henry, Tang, Heinecke 2019, arXiv:1904.06376). Triton can do so itself, but out of shared memory:
each warp takes apart all of what passes, and rows of fp32 lie across its banks. Here that is done once, before.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def accumulate(a, b, total, PRECISION: tl.constexpr):
    """total + a b; a holds own rows, b other ones."""
    if PRECISION == "split":
        return total + _split(a, b)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a bᵀ; a holds own rows, b other ones."""
    if PRECISION == "split":
        return _split(a, tl.trans(b))
    elif PRECISION == "ieee":
        # Without tensor cores the compiler holds the left operand in registers: let that be the passing one.
        return tl.trans(tl.dot(b, tl.trans(a), input_precision=PRECISION))
    else:
        return tl.dot(a, tl.trans(b), input_precision=PRECISION)


@triton.jit
def _split(a, b):
    """a b; b is split before it goes to shared memory."""
    a0, a1, a2 = _parts(a)
    # An instruction that has to stay where it is: the compiler would split where it reads shared memory.
    b0, b1, b2 = _parts(tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [b], tl.float32, False, 1))
    small = tl.dot(a1, b1)
    small = tl.dot(a2, b0, small)
    small = tl.dot(a0, b2, small)
    small = tl.dot(a1, b0, small)
    small = tl.dot(a0, b1, small)
    # What is infinite leaves a NaN as its rest.
    return tl.dot(a0, b0, tl.where(small == small, small, 0.0))


@triton.jit
def _parts(x):
    """Three summands of x, of 8 bits each."""
    high = x.to(tl.bfloat16)
    rest = x - high.to(tl.float32)
    middle = rest.to(tl.bfloat16)
    return high, middle, (rest - middle.to(tl.float32)).to(tl.bfloat16)
