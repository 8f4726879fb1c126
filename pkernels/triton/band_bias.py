"""Gradients of the biases: a pass of their own, which works dS out again and sums it where the
bias was broadcast, in a fixed order and without atomics (dS as in ``band_backward``).

    dDistance[h, t] = sum over b, i of dS[b, h, i, i + t - zero]
    dDense          = dS, summed over the dimensions of size 1

``distance_kernel``: a program per (sequence, query head, block of N diagonals) walks down its
diagonals. In rows i0..i0+N they cover two key tiles; a gather shears them into columns. Under a
dilation all of these lie as far apart as it says. It needs O(B H S) memory. ``dense_kernel``: a
program per tile of the gradient loops over what it was broadcast over. It needs the gradient's
own memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tune
from .arguments import Launch, view
from .philox import survivors
from .products import product
from .step import (
    LN2,
    band_of_queries,
    first_of,
    kept,
    load_lse,
    load_numbers,
    load_tile,
    not_hidden,
    place,
    power,
    rows_of,
    scores,
    span,
    stride_of,
    unit,
)


@triton.jit
def _own_rows(q, dout, lse, delta, storage, head, q_first, i0, step, n_q, N: tl.constexpr, D: tl.constexpr,
              DV: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """What dS needs of N query rows, ``step`` apart: q (N, D), dO (N, Dv), lse and delta (N,)."""
    return (
        load_tile(rows_of(q, storage, head, q_first), i0, step, n_q, N, D, OFFSET),
        load_tile(rows_of(dout, storage, head, q_first), i0, step, n_q, N, DV, OFFSET),
        load_lse(rows_of(lse, storage, head, q_first), i0, step, n_q, N, PRECISION),
        load_numbers(rows_of(delta, storage, head, q_first), i0, step, n_q, N),
    )


@triton.jit
def _ds(own, i0, j0, step, keys, values, n_q, n_k, sequence, head, band, dilation, listed, bias, dropout, scale,
        M: tl.constexpr, N: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, OFFSET: tl.constexpr,
        PRECISION: tl.constexpr):  # fmt: skip
    """dS of query rows i0.. and key rows j0.. (which may start below 0), both ``step`` apart: (M, N), 0 if not kept."""
    q, do, total, change = own
    i, j = i0 + tl.arange(0, M) * step, j0 + tl.arange(0, N) * step
    # (N, D), (N, Dv)
    k = load_tile(keys, j0, step, n_k, N, D, OFFSET)
    v = load_tile(values, j0, step, n_k, N, DV, OFFSET)
    # (M, N)
    s, added = scores(q, k, i[:, None], j[None, :], sequence, head, scale, bias, PRECISION, step)
    if listed is None:
        keep = kept(i, j, n_k, band, dilation)
    else:
        counts = _counts(listed, head, i, j, n_q, n_k)
        keep = counts > 0
        s += tl.log2(tl.maximum(counts, 1).to(tl.float32)) * LN2 * unit(PRECISION)
    p = power(s - total[:, None], PRECISION)
    dp = product(do, v, PRECISION)
    if dropout is not None:
        dp = tl.where(survivors(dropout, sequence, head, i, j, j0, 1, True), dp * dropout[2], 0.0)
    keep = not_hidden(keep & (i < n_q)[:, None], added, bias)
    return tl.where(keep, p * (dp - change[:, None]), 0.0)


@triton.jit
def _counts(listed, head, i, j, n_q, n_k):
    """How often pairs of rows are kept; ``listed`` = (table, head stride, row stride, block size)."""
    at = tl.cast(head, tl.int64) * listed[1] + (i // listed[3])[:, None] * listed[2] + (j // listed[3])[None, :]
    exists = (i < n_q)[:, None] & ((j >= 0) & (j < n_k))[None, :]
    return tl.load(listed[0] + at, mask=exists, other=0)


@triton.jit
def diagonals_of(t0, dilation, seen, n_q, n_k, OWN: tl.constexpr):
    """Diagonals j - i = t0, t0 + step, ...: ``(t0, on_band, begin, turns)``. ``on_band``: whether the band keeps
    any of them; ``begin``: the first query that meets one; ``turns``: two tiles of keys for each of queries."""
    low, high, shift, _near, _far, _own_near, _own_far = seen
    step = stride_of(dilation)
    last = t0 + (OWN - 1) * step
    on_band = (t0 - shift <= high) & (last - shift >= low)
    if dilation is not None:
        on_band = on_band & ((t0 - shift) % dilation == 0)
    begin = tl.maximum(0, -last)
    rows = tl.maximum(tl.minimum(n_q, n_k - t0) - begin, 0)
    return t0, on_band, begin, 2 * tl.minimum(step, rows) * tl.cdiv(rows, OWN * step)


@triton.jit
def turn_of(t, t0, on_band, begin, step, seen, OWN: tl.constexpr):
    """The first query and key of turn t of a walk down diagonals, and whether any pair there is kept."""
    _low, _high, _shift, _near, far, own_near, own_far = seen
    i0 = begin + first_of(t // 2, step, OWN)
    j0 = i0 + t0 + t % 2 * OWN * step
    return i0, j0, on_band | (j0 < far) | ((i0 < own_far) & (i0 + OWN * step > own_near))


@triton.jit(do_not_specialize=["band", "limits", "dropout", "dilation", "sizes"])
def distance_kernel(
    q, k, v, dout, lse, delta, partial, listed, apart, q_spans, k_spans, band, prefix, distance, dense, relative,
    limits, dropout, dilation, scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    zero, width = limits[0], limits[1]
    sequence, _row, head, first = place(None, width, heads, dilation, OWN)
    storage = sequence * apart
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    keys, values = rows_of(k, storage, head // group, k_first), rows_of(v, storage, head // group, k_first)
    seen = band_of_queries(band, prefix, sequence, n_q, n_k)
    bias = (distance, dense, relative, limits)
    step = stride_of(dilation)
    t0, on_band, begin, turns = diagonals_of(first - zero, dilation, seen, n_q, n_k, OWN)
    r, c = tl.arange(0, OWN)[:, None], tl.arange(0, OWN)[None, :]
    total = tl.zeros([OWN, OWN], tl.float32)
    for t in tl.range(0, turns, num_stages=STAGES):
        i0, j0, met = turn_of(t, t0, on_band, begin, step, seen, OWN)
        if met:
            own = _own_rows(q, dout, lse, delta, storage, head, q_first, i0, step, n_q, OWN, D, DV, OFFSET, PRECISION)
            # (N, N)
            ds = _ds(own, i0, j0, step, keys, values, n_q, n_k, sequence, head, seen, dilation, listed, bias, dropout,
                     scale, OWN, OWN, D, DV, OFFSET, PRECISION)  # fmt: skip
            # Row r meets diagonal c at key r + c: right of r in the first key tile, left of it in the second.
            ds = tl.where((c >= r) == (t % 2 == 0), ds, 0.0)
            total += tl.gather(ds, (r + c) % OWN, 1)
    at = first + tl.arange(0, OWN) * step
    row = (sequence * heads + head).to(tl.int64)
    tl.store(partial + row * width + at, tl.sum(total, 0), mask=at < width)


@triton.jit(do_not_specialize=["band", "limits", "dropout", "dilation", "sizes", "shape"])
def dense_kernel(
    q, k, v, dout, lse, delta, grad, shape, sequences, listed, apart, q_spans, k_spans, band, prefix, distance, dense,
    relative, limits, dropout, dilation, scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    of_b, of_h, of_m, of_n = shape
    across, down = tl.cdiv(of_n, OTHER), tl.cdiv(of_m, OWN)
    program = tl.program_id(0)
    n0, m0 = program % across * OTHER, program // across % down * OWN
    h0, b0 = program // across // down % of_h, program // across // down // of_h
    bias = (distance, dense, relative, limits)
    total = tl.zeros([OWN, OTHER], tl.float32)
    for sequence in tl.range(b0, tl.where(of_b == 1, sequences, b0 + 1)):
        storage = sequence * apart
        q_first, n_q = span(q_spans, sequence, sizes[0])
        k_first, n_k = span(k_spans, sequence, sizes[1])
        seen = band_of_queries(band, prefix, sequence, n_q, n_k)
        for head in tl.range(h0, tl.where(of_h == 1, heads, h0 + 1)):
            keys, values = rows_of(k, storage, head // group, k_first), rows_of(v, storage, head // group, k_first)
            for i0 in tl.range(m0, tl.where(of_m == 1, n_q, tl.minimum(n_q, m0 + OWN)), OWN):
                own = _own_rows(q, dout, lse, delta, storage, head, q_first, i0, 1, n_q, OWN, D, DV, OFFSET, PRECISION)
                for j0 in tl.range(n0, tl.where(of_n == 1, n_k, tl.minimum(n_k, n0 + OTHER)), OTHER):
                    total += _ds(own, i0, j0, 1, keys, values, n_q, n_k, sequence, head, seen, dilation, listed, bias,
                                 dropout, scale, OWN, OTHER, D, DV, OFFSET, PRECISION)  # fmt: skip
    # A dimension of size 1 is summed, into its row or column 0.
    m, n = m0 + tl.arange(0, OWN), n0 + tl.arange(0, OTHER)
    if of_m == 1:
        total = tl.where((m == 0)[:, None], tl.sum(total, 0)[None, :], 0.0)
    if of_n == 1:
        total = tl.where((n == 0)[None, :], tl.sum(total, 1)[:, None], 0.0)
    tile = grad + ((tl.cast(b0, tl.int64) * of_h + h0) * of_m + m0) * of_n + n0
    offsets = tl.arange(0, OWN).to(tl.int64)[:, None] * of_n + tl.arange(0, OTHER)[None, :]
    tl.store(tile + offsets, total, mask=(m < of_m)[:, None] & (n < of_n)[None, :])


def distance(launch: Launch, dout: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """Gradient of the Distance values, (H, W) fp32."""
    values = launch.problem.distance
    assert values is not None
    config = tune.choose("distance", launch.q, launch.v)
    heads, width = launch.heads, values.shape[1]
    partial = torch.empty(launch.batch, heads, width, dtype=torch.float32, device=dout.device)
    grid = launch.batch * heads * launch.in_classes(width, config.own)
    launch.start(distance_kernel, grid, config, (*_shared(launch, dout, lse, delta), partial, *_rest(launch)))
    return partial.sum(0).sum_to_size(values.shape)


def dense(launch: Launch, dout: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """Gradient of the Dense values, in their shape, fp32."""
    values = launch.problem.dense
    assert values is not None
    config = tune.choose("dense", launch.q, launch.v)
    b, h, m, n = values.shape
    grad = torch.empty(values.shape, dtype=torch.float32, device=dout.device)
    grid = b * h * -(-m // config.own) * -(-n // config.other)
    arguments = (*_shared(launch, dout, lse, delta), grad, (b, h, m, n), launch.batch, *_rest(launch))
    launch.start(dense_kernel, grid, config, arguments)
    return grad


def _shared(launch: Launch, dout: Tensor, lse: Tensor, delta: Tensor) -> tuple[Any, ...]:
    tensors = (launch.q, launch.k, launch.v, dout, lse[..., None], delta[..., None])
    return tuple(view(x) for x in tensors)


def _rest(launch: Launch) -> tuple[Any, ...]:
    """Which blocks are listed, how far apart sequences lie in the batch dimension, and what all kernels share."""
    return (launch.listed, 0 if launch.problem.packed else 1, *launch.shared)
