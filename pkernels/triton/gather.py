"""Rows that a list names: loads and stores through it."""

from __future__ import annotations

import triton
import triton.language as tl

from .step import padded


@triton.jit
def listed_rows(list_, first, stop, N: tl.constexpr):
    """(rows, which exist): entries first, first + 1, ... below stop; -1 stands for none."""
    at = first + tl.arange(0, N)
    rows = tl.load(list_ + at, mask=at < stop, other=-1)
    return rows, rows >= 0


@triton.jit
def _addresses(x, rows, exist, D: tl.constexpr):
    c = tl.arange(0, padded(D))
    pointers = x[0] + (rows.to(tl.int64) * x[1])[:, None] + c[None, :]
    return pointers, exist[:, None] & (c < D)[None, :]


@triton.jit
def gather_tile(x, rows, exist, D: tl.constexpr):
    """(N, padded D); zero where there is no row. ``x`` = (pointer to row 0, row stride)."""
    pointers, there = _addresses(x, rows, exist, D)
    return tl.load(pointers, mask=there, other=0.0)


@triton.jit
def scatter_tile(x, rows, exist, tile, D: tl.constexpr):
    pointers, there = _addresses(x, rows, exist, D)
    tl.store(pointers, tile.to(x[0].dtype.element_ty), mask=there)


@triton.jit
def gather_numbers(x, rows, exist, other):
    """(N,): one number per row."""
    return tl.load(x[0] + rows, mask=exist, other=other)


@triton.jit
def scatter_numbers(x, rows, exist, values):
    tl.store(x[0] + rows, values, mask=exist)
