"""Gradients of a Relative bias over a Band or Blocks: passes of their own, which work dS out again and sum it
in a fixed order and without atomics (dS as in ``band_backward``).

    dQuery[b, h, i] = scale * sum over j of dS[b, h, i, j] Table[h, j - i + zero]
    dTable[h, t]    = scale * sum over b, i of dS[b, h, i, i + t - zero] Query[b, h, i]

``query_kernel``: a program per (sequence, query head, tile of M queries) visits tiles of N keys;
a gather turns dS (M, N) into a product's operand for the M + N rows of the table that it meets.
``table_kernel``: a program per (sequence, query head, N rows of the table) walks down their
diagonals, as ``band_bias.distance_kernel`` does; it needs O(B H S Dr) memory. Under a dilation
rows of a tile and of the table lie as far apart as it says, in both.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..problem import rows_like
from . import tune
from .arguments import Launch, view
from .band_bias import _ds, _own_rows, _rest, _shared, diagonals_of, turn_of
from .careful import clean
from .products import accumulate
from .step import (
    band_of_queries,
    load_tile,
    padded,
    place,
    reach_of,
    rows_of,
    schedule,
    span,
    store_tile,
    stride_of,
    table_rows,
    visit,
)


@triton.jit(do_not_specialize=["band", "limits", "dropout", "dilation", "sizes"])
def query_kernel(
    q, k, v, dout, lse, delta, grad, listed, apart, q_spans, k_spans, band, prefix, distance, dense, relative, limits,
    dropout, dilation, scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, DR: tl.constexpr,
):  # fmt: skip
    K: tl.constexpr = reach_of(OWN, OTHER)
    sequence, _row, head, i0 = place(None, sizes[0], heads, dilation, OWN)
    storage = sequence * apart
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    if i0 >= n_q:
        return
    keys, values = rows_of(k, storage, head // group, k_first), rows_of(v, storage, head // group, k_first)
    seen = band_of_queries(band, prefix, sequence, n_q, n_k)
    bias = (distance, dense, relative, limits)
    step = stride_of(dilation)
    own = _own_rows(q, dout, lse, delta, storage, head, q_first, i0, step, n_q, OWN, D, DV, OFFSET, PRECISION)
    last = tl.minimum(i0 + (OWN - 1) * step, n_q - 1)
    tiles, count, start = schedule(i0, last, n_k, seen, dilation, bias, OTHER)
    r, u = tl.arange(0, OWN)[:, None], tl.arange(0, K)[None, :]
    total = tl.zeros([OWN, padded(DR)], tl.float32)
    for t in tl.range(0, count, num_stages=STAGES):
        j0, _step = visit(t, tiles, start, dilation, bias, OTHER)
        # (OWN, OTHER)
        ds = _ds(own, i0, j0, step, keys, values, n_q, n_k, sequence, head, seen, dilation, listed, bias, dropout,
                 scale, OWN, OTHER, D, DV, OFFSET, PRECISION)  # fmt: skip
        # Row r meets row u of the tile's table at key u + r - (OWN - 1). (OWN, K)
        at = u + r - (OWN - 1)
        ds = tl.where((at >= 0) & (at < OTHER), tl.gather(ds, tl.minimum(tl.maximum(at, 0), OTHER - 1), 1), 0.0)
        # (K, DR)
        meets = j0 - i0 - (OWN - 1) * step + limits[0]
        table = clean(table_rows(relative, head, meets, step, limits[1], 0, K, padded(DR)))
        total = accumulate(ds.to(table.dtype), table, total, PRECISION)
    store_tile(rows_of(grad, storage, head, q_first), i0, step, n_q, total * scale, OWN, DR, OFFSET)


@triton.jit(do_not_specialize=["band", "limits", "dropout", "dilation", "sizes"])
def table_kernel(
    q, k, v, dout, lse, delta, partial, listed, apart, q_spans, k_spans, band, prefix, distance, dense, relative,
    limits, dropout, dilation, scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, DR: tl.constexpr,
):  # fmt: skip
    zero, width = limits[0], limits[1]
    sequence, _row, head, first = place(None, width, heads, dilation, OWN)
    storage = sequence * apart
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    keys, values = rows_of(k, storage, head // group, k_first), rows_of(v, storage, head // group, k_first)
    queries = rows_of(relative[0], storage, head, q_first)
    seen = band_of_queries(band, prefix, sequence, n_q, n_k)
    bias = (distance, dense, relative, limits)
    step = stride_of(dilation)
    t0, on_band, begin, turns = diagonals_of(first - zero, dilation, seen, n_q, n_k, OWN)
    r, c = tl.arange(0, OWN)[:, None], tl.arange(0, OWN)[None, :]
    total = tl.zeros([OWN, padded(DR)], tl.float32)
    for t in tl.range(0, turns, num_stages=STAGES):
        i0, j0, met = turn_of(t, t0, on_band, begin, step, seen, OWN)
        if met:
            own = _own_rows(q, dout, lse, delta, storage, head, q_first, i0, step, n_q, OWN, D, DV, OFFSET, PRECISION)
            # (OWN, OWN)
            ds = _ds(own, i0, j0, step, keys, values, n_q, n_k, sequence, head, seen, dilation, listed, bias, dropout,
                     scale, OWN, OWN, D, DV, OFFSET, PRECISION)  # fmt: skip
            # Row r meets diagonal c at key r + c: right of r in the first key tile, left of it in the second.
            ds = tl.gather(tl.where((c >= r) == (t % 2 == 0), ds, 0.0), (r + c) % OWN, 1)
            # (OWN, DR)
            asking = clean(load_tile(queries, i0, step, n_q, OWN, DR, OFFSET))
            total = accumulate(tl.trans(ds).to(asking.dtype), asking, total, PRECISION)
    row = (sequence * heads + head).to(tl.int64)
    store_tile((partial + row * width * DR, DR), first, step, width, total * scale, OWN, DR, OFFSET)


def query(launch: Launch, dout: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """Gradient of the queries of a Relative, in their shape and dtype."""
    of = launch.problem.query
    assert of is not None
    grad = rows_like(of, of.shape[-1])
    if launch.problem.q_spans is not None or of.numel() == 0:  # rows of no sequence
        grad.zero_()
    config = tune.choose("query", launch.q, launch.v)
    grid = launch.batch * launch.heads * launch.in_classes(launch.sq, config.own)
    arguments = (*_shared(launch, dout, lse, delta), view(grad), *_rest(launch))
    launch.start(query_kernel, grid, config, arguments, DR=of.shape[-1])
    return grad


def table(launch: Launch, dout: Tensor, lse: Tensor, delta: Tensor) -> Tensor:
    """Gradient of the table of a Relative, (H, W, Dr) fp32."""
    of = launch.problem.table
    assert of is not None
    config = tune.choose("distance", launch.q, launch.v)
    partial = torch.empty(launch.batch, *of.shape, dtype=torch.float32, device=dout.device)
    grid = launch.batch * launch.heads * launch.in_classes(of.shape[1], config.own)
    arguments = (*_shared(launch, dout, lse, delta), partial, *_rest(launch))
    launch.start(table_kernel, grid, config, arguments, DR=of.shape[2])
    return partial.sum(0)
