"""LSH hashes (Kitaev et al. 2020, arXiv:2001.04451, section 2), and rows in their order.

    h(x) = argmax([x R; -x R])

Grid: a program per (sequence, head, round, tile of rows), flat on axis 0. Products with the
rotations are taken a tile of columns at a time and only their maxima are kept; they are
products of fp32 as it is, for less would move rows into other buckets.
"""

from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .arguments import dense_rows, view
from .step import load_tile, padded, rows_of

COLUMNS = 32


def tile_rows(d: int) -> int:
    """Rows of a program; other heights spill on sm_100."""
    return 32 if d <= 64 else 64


@triton.jit
def _challenge(products, exist, first, best, winner):
    """The maximum so far of each row and its column; the first one of equals."""
    products = tl.where(exist[None, :], products, -float("inf"))
    value, column = tl.max(products, 1, return_indices=True)
    wins = value > best
    return tl.where(wins, value, best), tl.where(wins, first + column, winner)


@triton.jit
def hash_kernel(
    x, rotations, hashes, rows, heads, rounds, columns, first_column, half, unit,
    D: tl.constexpr, M: tl.constexpr, N: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """Adds ``unit`` times the hash by ``half`` rotations, from ``first_column`` on."""
    tiles = tl.cdiv(rows, M)
    program = tl.program_id(0)
    first = program % tiles * M
    round_ = program // tiles % rounds
    head = program // (tiles * rounds) % heads
    sequence = program // (tiles * rounds) // heads
    # (M, D)
    own = load_tile(rows_of(x, sequence, head, 0), first, 1, rows, M, D, OFFSET).to(tl.float32)
    d = tl.arange(0, padded(D))
    base = rotations + ((tl.cast(head, tl.int64) * D) * rounds + round_) * columns + first_column
    most = tl.full([M], -float("inf"), tl.float32)
    least = tl.full([M], -float("inf"), tl.float32)
    plus = tl.zeros([M], tl.int32)
    minus = tl.zeros([M], tl.int32)
    for e0 in tl.range(0, half, N):
        e = e0 + tl.arange(0, N)
        exist = e < half
        # (D, N)
        there = (d < D)[:, None] & exist[None, :]
        some = tl.load(base + d[:, None] * (rounds * columns) + e[None, :], mask=there, other=0.0)
        # (M, N)
        products = tl.dot(own, some, input_precision="ieee")
        most, plus = _challenge(products, exist, e0, most, plus)
        least, minus = _challenge(-products, exist, e0, least, minus)
    found = tl.where(least > most, half + minus, plus)
    i = first + tl.arange(0, M)
    to = hashes + ((tl.cast(sequence, tl.int64) * heads + head) * rounds + round_) * rows + i
    tl.store(to, tl.load(to, mask=i < rows, other=0) + found * unit, mask=i < rows)


def order(x: Tensor, rotations: Tensor, mask: Tensor | None, buckets: list[int], entries: int) -> Tensor:
    """``(B, H, R, entries)`` int32; see :func:`pkernels.lsh_order`."""
    batch, heads, rows, d = x.shape
    rounds, columns = rotations.shape[2:]
    x, rotations = dense_rows(x), rotations.float().contiguous()
    hashes = torch.zeros(batch, heads, rounds, rows, dtype=torch.int32, device=x.device)
    height = tile_rows(d)
    grid, first, unit = batch * heads * rounds * -(-rows // height), 0, 1
    for number in buckets:
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            if grid:
                hash_kernel[(grid,)](
                    view(x), rotations, hashes, rows, heads, rounds, columns, first, number // 2, unit,
                    D=d, M=height, N=COLUMNS, OFFSET=tl.int64, num_warps=4,
                )  # fmt: skip
        first, unit = first + number // 2, unit * number
    if mask is not None:
        hashes.masked_fill_(~mask[:, None, None], math.prod(buckets))
    found = hashes.sort(dim=-1, stable=True).indices
    if mask is not None:
        real = torch.arange(rows, device=x.device) < mask.sum(1)[:, None]
        found = found.masked_fill(~real[:, None, None], -1)
    return torch.nn.functional.pad(found, (0, entries - rows), value=-1).to(torch.int32)
