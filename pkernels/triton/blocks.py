"""Attention over Blocks, forward and backward (Zaheer et al. 2020, BigBird, arXiv:2007.14062,
appendix D; the tile step and the two passes of the backward as in ``band``).

    S = scale * Q Kᵀ + bias + log count         P = exp(S - lse) on listed pairs, else 0

Grids: one program per (sequence, query head, block, tile of rows within the block), flat on
axis 0. It reads its list and visits the blocks that stand there, a tile at a time; dk/dv do
the same with the transposed lists, for every query head of their group. No tile crosses the
end of a block, so nothing is masked but what a Dense bias hides. Sums run in a fixed order.
Not supported: as in ``band``.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..blocks import Blocks, Lists
from ..problem import Problem, rows_like
from . import band_bias, band_relative, tune
from .arguments import Launch, dense_rows, view
from .careful import clean, unclean_rows
from .philox import survivors
from .products import accumulate, product
from .step import (
    LN2,
    load_lse,
    load_numbers,
    load_tile,
    log_sum,
    not_hidden,
    online_softmax,
    padded,
    power,
    rows_of,
    scores,
    span,
    store_numbers,
    store_tile,
    unit,
)


@triton.jit
def _place(layout, rows, heads, OWN: tl.constexpr):
    """(sequence, head, block, first row, end of the block) of this program; ``rows`` there are."""
    size, blocks = layout[0], layout[1]
    tiles = tl.cdiv(size, OWN)
    program = tl.program_id(0)
    at = program % (blocks * tiles)
    head = program // (blocks * tiles) % heads
    sequence = program // (blocks * tiles) // heads
    block = at // tiles
    return sequence, head, block, block * size + at % tiles * OWN, tl.minimum(block * size + size, rows)


@triton.jit
def _listed(lists, layout, head, block):
    """The entries [begin, end) of a block."""
    at = lists[0] + head * layout[2] + block
    return tl.load(at), tl.load(at + 1)


@triton.jit
def _visit(t, lists, layout, begin, n, OTHER: tl.constexpr):
    """(first row, end of its block, count) of tile t of a list; ``n`` rows there are."""
    size = layout[0]
    tiles = tl.cdiv(size, OTHER)
    entry = begin + t // tiles
    block = tl.load(lists[1] + entry)
    return block * size + t % tiles * OTHER, tl.minimum(block * size + size, n), tl.load(lists[2] + entry)


@triton.jit
def _tiles(layout, begin, end, OTHER: tl.constexpr):
    return (end - begin) * tl.cdiv(layout[0], OTHER)


@triton.jit
def _log(count, PRECISION: tl.constexpr):
    """What a block that counts so often adds to scores, as they are counted."""
    return tl.log2(count.to(tl.float32)) * LN2 * unit(PRECISION)


@triton.jit(do_not_specialize=["layout", "limits", "dropout", "sizes"])
def blocks_forward_kernel(
    q, k, v, out, lse, lists, layout, q_spans, k_spans, distance, dense, relative, limits, dropout, scale, sizes, heads,
    group, D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    sequence, head, block, first, stop = _place(layout, sizes[0], heads, OWN)
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    stop = tl.minimum(stop, n_q)
    if first >= stop:
        return
    bias = (distance, dense, relative, limits)
    i = first + tl.arange(0, OWN)
    # (OWN, D)
    queries = load_tile(rows_of(q, sequence, head, q_first), first, 1, stop, OWN, D, OFFSET)
    keys, values = rows_of(k, sequence, head // group, k_first), rows_of(v, sequence, head // group, k_first)
    m = tl.full([OWN], -float("inf"), tl.float32)
    total = tl.zeros([OWN], tl.float32)
    acc = tl.zeros([OWN, padded(DV)], tl.float32)
    begin, end = _listed(lists, layout, head, block)
    for t in tl.range(0, _tiles(layout, begin, end, OTHER), num_stages=STAGES):
        j0, n, count = _visit(t, lists, layout, begin, n_k, OTHER)
        j = j0 + tl.arange(0, OTHER)
        # (OTHER, D), (OTHER, Dv)
        k_tile = load_tile(keys, j0, 1, n, OTHER, D, OFFSET)
        v_tile = load_tile(values, j0, 1, n, OTHER, DV, OFFSET)
        # (OWN, OTHER)
        s, added = scores(queries, k_tile, i[:, None], j[None, :], sequence, head, scale, bias, PRECISION)
        s += _log(count, PRECISION)
        keep = (j < n)[None, :]
        if dense is not None:
            keep = not_hidden(keep, added, bias)
            s = tl.where((unclean_rows(k_tile) | unclean_rows(v_tile))[None, :], float("nan"), s)
            v_tile = clean(v_tile)
        s = tl.where(keep, s, -float("inf"))
        p, alpha, m, total = online_softmax(s, m, total, PRECISION)
        if dropout is not None:
            p = tl.where(survivors(dropout, sequence, head, i, j, j0, 1, EACH), p, 0.0)
        # (OWN, Dv)
        acc = accumulate(p.to(v_tile.dtype), v_tile, acc * alpha[:, None], PRECISION)
    total = tl.where(total == 0, 1.0, total)  # of a row with no key: out 0, lse -inf
    if dropout is not None:
        acc *= dropout[2]
    store_tile(rows_of(out, sequence, head, q_first), first, 1, stop, acc / total[:, None], OWN, DV, OFFSET)
    numbers = rows_of(lse, sequence, head, q_first)
    store_numbers(numbers, first, 1, stop, log_sum(m, total, PRECISION), OWN)


@triton.jit(do_not_specialize=["layout", "limits", "dropout", "sizes"])
def blocks_dq_kernel(
    q, k, v, out, dout, lse, dlse, delta, dq, lists, layout, q_spans, k_spans, distance, dense, relative, limits,
    dropout, scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    sequence, head, block, first, stop = _place(layout, sizes[0], heads, OWN)
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    stop = tl.minimum(stop, n_q)
    if first >= stop:
        return
    bias = (distance, dense, relative, limits)
    i = first + tl.arange(0, OWN)
    # (OWN, D), (OWN, Dv), (OWN, Dv)
    queries = load_tile(rows_of(q, sequence, head, q_first), first, 1, stop, OWN, D, OFFSET)
    do = load_tile(rows_of(dout, sequence, head, q_first), first, 1, stop, OWN, DV, OFFSET)
    o = load_tile(rows_of(out, sequence, head, q_first), first, 1, stop, OWN, DV, OFFSET)
    # (OWN,)
    change = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    if dlse is not None:
        change -= load_numbers(rows_of(dlse, sequence, head, q_first), first, 1, stop, OWN)
    store_numbers(rows_of(delta, sequence, head, q_first), first, 1, stop, change, OWN)
    total = load_lse(rows_of(lse, sequence, head, q_first), first, 1, stop, OWN, PRECISION)
    keys, values = rows_of(k, sequence, head // group, k_first), rows_of(v, sequence, head // group, k_first)
    acc = tl.zeros([OWN, padded(D)], tl.float32)
    begin, end = _listed(lists, layout, head, block)
    for t in tl.range(0, _tiles(layout, begin, end, OTHER), num_stages=STAGES):
        j0, n, count = _visit(t, lists, layout, begin, n_k, OTHER)
        j = j0 + tl.arange(0, OTHER)
        # (OTHER, D), (OTHER, Dv)
        k_tile = load_tile(keys, j0, 1, n, OTHER, D, OFFSET)
        v_tile = load_tile(values, j0, 1, n, OTHER, DV, OFFSET)
        # (OWN, OTHER)
        s, added = scores(queries, k_tile, i[:, None], j[None, :], sequence, head, scale, bias, PRECISION)
        p = power(s + _log(count, PRECISION) - total[:, None], PRECISION)
        dp = product(do, v_tile, PRECISION)
        if dropout is not None:
            dp = tl.where(survivors(dropout, sequence, head, i, j, j0, 1, EACH), dp * dropout[2], 0.0)
        ds = p * (dp - change[:, None])
        keep = (j < n)[None, :]
        if dense is not None:
            keep = not_hidden(keep, added, bias)
            ds = tl.where((unclean_rows(k_tile) | unclean_rows(v_tile))[None, :], float("nan"), ds)
            k_tile = clean(k_tile)
        ds = tl.where(keep, ds, 0.0)
        # (OWN, D)
        acc = accumulate(ds.to(k_tile.dtype), k_tile, acc, PRECISION)
    store_tile(rows_of(dq, sequence, head, q_first), first, 1, stop, acc * scale, OWN, D, OFFSET)


@triton.jit(do_not_specialize=["layout", "limits", "dropout", "sizes"])
def blocks_dkv_kernel(
    q, k, v, dout, lse, delta, dk, dv, lists, layout, q_spans, k_spans, distance, dense, relative, limits, dropout,
    scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, EACH: tl.constexpr,
):  # fmt: skip
    sequence, head, block, first, stop = _place(layout, sizes[1], heads // group, OWN)
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    stop = tl.minimum(stop, n_k)
    if first >= stop:
        return
    bias = (distance, dense, relative, limits)
    j = first + tl.arange(0, OWN)
    # (OWN, D), (OWN, Dv)
    keys = load_tile(rows_of(k, sequence, head, k_first), first, 1, stop, OWN, D, OFFSET)
    values = load_tile(rows_of(v, sequence, head, k_first), first, 1, stop, OWN, DV, OFFSET)
    sum_k = tl.zeros([OWN, padded(D)], tl.float32)
    sum_v = tl.zeros([OWN, padded(DV)], tl.float32)
    for h in tl.range(head * group, (head + 1) * group):
        queries, outs = rows_of(q, sequence, h, q_first), rows_of(dout, sequence, h, q_first)
        totals, changes = rows_of(lse, sequence, h, q_first), rows_of(delta, sequence, h, q_first)
        begin, end = _listed(lists, layout, h, block)
        for t in tl.range(0, _tiles(layout, begin, end, OTHER), num_stages=STAGES):
            i0, n, count = _visit(t, lists, layout, begin, n_q, OTHER)
            i = i0 + tl.arange(0, OTHER)
            # (OTHER, D), (OTHER, Dv), (OTHER,), (OTHER,)
            q_tile = load_tile(queries, i0, 1, n, OTHER, D, OFFSET)
            do = load_tile(outs, i0, 1, n, OTHER, DV, OFFSET)
            total = load_lse(totals, i0, 1, n, OTHER, PRECISION)
            change = load_numbers(changes, i0, 1, n, OTHER)
            # (OWN, OTHER)
            s, added = scores(keys, q_tile, i[None, :], j[:, None], sequence, h, scale, bias, PRECISION)
            p = power(s + _log(count, PRECISION) - total[None, :], PRECISION)
            dp = product(values, do, PRECISION)
            keep = (i < n)[None, :]
            if dense is not None:
                keep = not_hidden(keep, added, bias)
                p = tl.where((unclean_rows(q_tile) | unclean_rows(do))[None, :], float("nan"), p)
                q_tile, do = clean(q_tile), clean(do)
            p = tl.where(keep, p, 0.0)
            weights = p
            if dropout is not None:
                stay = survivors(dropout, sequence, h, i, j, first, 0, EACH)
                weights = tl.where(stay, p, 0.0)
                dp = tl.where(stay, dp * dropout[2], 0.0)
            ds = tl.where(keep, p * (dp - change[None, :]), 0.0)
            # (OWN, Dv), (OWN, D)
            sum_v = accumulate(weights.to(do.dtype), do, sum_v, PRECISION)
            sum_k = accumulate(ds.to(q_tile.dtype), q_tile, sum_k, PRECISION)
    if dropout is not None:
        sum_v *= dropout[2]
    store_tile(rows_of(dk, sequence, head, k_first), first, 1, stop, sum_k * scale, OWN, D, OFFSET)
    store_tile(rows_of(dv, sequence, head, k_first), first, 1, stop, sum_v, OWN, DV, OFFSET)


class _Launch(Launch):
    """Launches with a program for each tile of each block."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> None:
        super().__init__(q, k, v, problem)
        pattern = problem.pattern
        assert isinstance(pattern, Blocks)
        self.size, self.pattern = pattern.size, pattern
        self.back = pattern.transposed(-(-self.sk // self.size))
        counts = pattern.counts(-(-self.sk // self.size))
        each = counts.shape[1] * counts.shape[2] if counts.shape[0] > 1 else 0
        self.listed = (counts, each, counts.shape[2], self.size)
        self.blocks_shared = (*self.shared[:2], *self.shared[4:9], *self.shared[10:])

    def own_queries(self, kernel: Any, config: tune.Config, *tensors: Any) -> None:
        self._blocks(kernel, config, self.pattern.lists, self.heads, tensors)

    def own_keys(self, kernel: Any, config: tune.Config, *tensors: Any) -> None:
        self._blocks(kernel, config, self.back, self.kv_heads, tensors)

    def _blocks(self, kernel: Any, config: tune.Config, lists: Lists, heads: int, tensors: tuple) -> None:
        blocks = lists.offsets.shape[1] - 1
        grid = self.batch * heads * blocks * -(-self.size // config.own)
        layout = (self.size, blocks, blocks + 1 if lists.offsets.shape[0] > 1 else 0)
        contiguous = tuple(x.contiguous() for x in lists)
        self.start(kernel, grid, config, (*tensors, contiguous, layout, *self.blocks_shared), EACH=self.size % 8 != 0)


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``."""
    out = rows_like(q, v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    if problem.q_spans is not None:  # rows past a length
        out.zero_()
        lse.fill_(-torch.inf)
    if out.numel():
        q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
        launch = _Launch(q, k, v, problem)
        launch.own_queries(
            blocks_forward_kernel, launch.choose("blocks_forward"), *map(view, (q, k, v, out)), view(lse[..., None])
        )
    return out, lse


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> tuple[Tensor | None, ...]:
    """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; those of biases are None where not asked for."""
    dq, dk, dv = (rows_like(x, x.shape[-1]) for x in (q, k, v))
    if problem.q_spans is not None or q.numel() == 0:
        dq.zero_()
    if problem.k_spans is not None or q.numel() == 0:
        dk.zero_()
        dv.zero_()
    q, k, v, dout, out = (dense_rows(x) for x in (q, k, v, dout, out))
    lse = lse.contiguous()
    delta = torch.empty_like(lse)
    numbers = [view(x[..., None]) for x in (lse, delta)]
    dlse_view = None if dlse is None else view(dlse.contiguous()[..., None])
    launch = _Launch(q, k, v, problem)
    launch.own_queries(
        blocks_dq_kernel, launch.choose("blocks_dq"), *map(view, (q, k, v, out, dout)), numbers[0], dlse_view,
        numbers[1], view(dq),
    )  # fmt: skip
    launch.own_keys(
        blocks_dkv_kernel, launch.choose("blocks_dkv"), *map(view, (q, k, v, dout)), *numbers, view(dk), view(dv)
    )
    ddistance = ddense = dquery = dtable = None
    if problem.distance is not None and problem.distance_grad:
        ddistance = band_bias.distance(launch, dout, lse, delta)
    if problem.dense is not None and problem.dense_grad:
        ddense = band_bias.dense(launch, dout, lse, delta)
    if problem.query is not None and problem.query_grad:
        dquery = band_relative.query(launch, dout, lse, delta)
    if problem.table is not None and problem.table_grad:
        dtable = band_relative.table(launch, dout, lse, delta)
    return dq, dk, dv, ddistance, ddense, dquery, dtable
