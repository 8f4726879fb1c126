"""Attention dropout: the bits of ``pkernels/reference/philox.py``, a tile at a time.

Philox4x32 with 7 rounds (Salmon et al. 2011, section 3.3), key = seed, counter = (query row,
key row // 8, query head, sequence); one call serves 8 neighbouring keys, 16 bits each.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROUNDS = tl.constexpr(7)


@triton.jit
def survivors(dropout, sequence, head, i, j, first_key, AXIS: tl.constexpr, EACH: tl.constexpr):
    """Which pairs of a tile dropout keeps; ``dropout`` = (seed, threshold, 1 / (1 - p)).

    i and j are (rows,): query rows and key rows; keys lie along AXIS of the result. EACH: keys
    may lie apart (one call per pair); else they are neighbours and first_key a multiple of 8.
    """
    seed = tl.load(dropout[0])
    stay = tl.full([i.shape[0], j.shape[0]] if AXIS == 1 else [j.shape[0], i.shape[0]], True, tl.int1)
    # Always so; but in a branch the compiler does not see the joins, and lays out the product that follows as if its
    # operands had been joined of narrower numbers, which puts them across the banks.
    if dropout[1] > 0:
        if EACH:
            bits = _bits_of_pairs(seed, sequence, head, i, j, AXIS)
        elif AXIS == 1:
            bits = _bits_of_columns(seed, sequence, head, i, first_key, j.shape[0])
        else:
            bits = _bits_of_rows(seed, sequence, head, i, first_key, j.shape[0])
        stay = bits >= dropout[1]
    return stay


@triton.jit
def _bits_of_columns(seed, sequence, head, i, first_key, N: tl.constexpr):
    """(len(i), N) for keys first_key, first_key + 1, ..."""
    group = first_key // 8 + tl.arange(0, N // 8)
    # (M, N // 8, 2, 2, 2): word in two bits, then its lower and upper half
    return tl.reshape(_halves(seed, i[:, None], group[None, :], head, sequence), (i.shape[0], N))


@triton.jit
def _bits_of_rows(seed, sequence, head, i, first_key, N: tl.constexpr):
    """(N, len(i)): the same, keys along the first axis."""
    group = first_key // 8 + tl.arange(0, N // 8)
    # (N // 8, M, 2, 2, 2)
    halves = _halves(seed, i[None, :], group[:, None], head, sequence)
    return tl.reshape(tl.permute(halves, (0, 2, 3, 4, 1)), (N, i.shape[0]))


@triton.jit
def _halves(seed, i, group, head, sequence):
    w0, w1, w2, w3 = _words(seed, i, group, head, sequence)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
    return tl.join(words & 0xFFFF, words >> 16).to(tl.int32)


@triton.jit
def _bits_of_pairs(seed, sequence, head, i, j, AXIS: tl.constexpr):
    if AXIS == 1:
        i, j = i[:, None], j[None, :]
    else:
        i, j = i[None, :], j[:, None]
    w0, w1, w2, w3 = _words(seed, i, j // 8, head, sequence)
    at = j % 8
    word = tl.where(at < 4, tl.where(at < 2, w0, w1), tl.where(at < 6, w2, w3))
    return ((word >> (at % 2 * 16).to(tl.uint32)) & 0xFFFF).to(tl.int32)


@triton.jit
def _words(seed, i, group, head, sequence):
    """Four uint32 tiles of the counters' common shape."""
    zero = tl.zeros_like(i + group)
    return tl.philox(seed, zero + i, zero + group, zero + head, zero + sequence, ROUNDS)
