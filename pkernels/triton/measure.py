"""Scores over a Band as its kernels hold them: up to a factor that the softmax multiplies with anyway.

A score is scale * q kᵀ. Taking the factor out of the tile spares a multiplication for each pair (Dao 2023,
FlashAttention-2, arXiv:2307.08691, does so too): exp2(factor * s - pivot) is one multiply-add and one exp2.

Only where nothing is added to products of 16-bit inputs, no wider than 128: wider heads have no registers for it. That
condition is written out wherever it is asked for: Triton 3.6 takes what a function returns for a number of the run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .products import product
from .step import LOG2E, scores


@triton.jit
def factor_of(scale, bias, D: tl.constexpr, PRECISION: tl.constexpr):
    """What makes a score of a :func:`measure`; positive, so that maxima stay maxima."""
    if D <= 128 and PRECISION is None and bias[0] is None and bias[1] is None and bias[2] is None:
        return tl.maximum(tl.abs(scale) * LOG2E, 1e-30)
    else:
        return 1.0


@triton.jit
def turned(x, scale, bias, D: tl.constexpr, PRECISION: tl.constexpr):
    """Own rows for :func:`measure`: a negative scale turns them around."""
    if D <= 128 and PRECISION is None and bias[0] is None and bias[1] is None and bias[2] is None:
        return tl.where(scale < 0, -x, x)
    else:
        return x


@triton.jit
def measure(a, b, i, j, step, sequence, head, scale, bias, D: tl.constexpr, PRECISION: tl.constexpr):
    """Scores, up to :func:`factor_of`, of own rows a (:func:`turned`) and other rows b, ``step`` apart; and what a
    Dense added."""
    if D <= 128 and PRECISION is None and bias[0] is None and bias[1] is None and bias[2] is None:
        return product(a, b, PRECISION), 0.0
    else:
        return scores(a, b, i, j, sequence, head, scale, bias, PRECISION, step)


@triton.jit
def one_of(full, s, masked):
    """``s`` where the tile is ``full``, else ``masked``, which differs from it elsewhere.

    Costs nothing: LLVM finds both cases apart already. Without it, the only way from this product to the
    next one leads through the branch, where Triton does not look for it: it then splits the columns among
    warps too, and each tile goes through shared memory to be put together again.
    """
    return tl.where(full, s, masked)
