"""Attention over a Band, backward, in two passes without atomics (Dao 2023, FlashAttention-2,
arXiv:2307.08691, section 3.1.2; equations of Dao et al. 2022, arXiv:2205.14135, appendix B).

    P  = exp(S - lse)              dP = (dO Vᵀ) ∘ Z        delta = rowsum(dO ∘ O) - dlse
    dS = P ∘ (dP - delta)          dQ = scale * dS K
    dK = scale * dSᵀ Q             dV = (P ∘ Z)ᵀ dO

Grids: dq as the forward, a program per tile of queries, which also writes delta; then dk/dv,
a program per (sequence, key head, residue class, tile of keys), which visits the query tiles
of every query head of its group by the transposed band. Each sum runs in a fixed order, so
results are bitwise equal between runs. Not supported: as in ``band``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..problem import Problem, rows_like
from . import band_bias, band_relative
from .arguments import Launch, dense_rows, view
from .careful import clean, doubted, reach, report, unclean_rows
from .measure import factor_of, measure, one_of, turned
from .philox import survivors
from .products import accumulate, product
from .step import (
    band_of_keys,
    band_of_queries,
    is_full,
    kept,
    load_lse,
    load_numbers,
    load_tile,
    not_hidden,
    padded,
    place,
    power,
    rows_of,
    schedule,
    span,
    store_numbers,
    store_tile,
    stride_of,
    visit,
)


@triton.jit
def _sum_dq(
    q, do, lse, delta, i, first, last, keys, values, n_k, sequence, head, band, dilation, bias, dropout, scale,
    D: tl.constexpr, DV: tl.constexpr, BN: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """dS K of query rows i, over the keys their band reaches: (BM, D)."""
    factor = factor_of(scale, bias, D, PRECISION)
    q = turned(q, scale, bias, D, PRECISION)
    dq = tl.zeros([i.shape[0], padded(D)], tl.float32)
    tiles, count, start = schedule(first, last, n_k, band, dilation, bias, BN)
    for t in tl.range(0, count, num_stages=STAGES):
        j0, step = visit(t, tiles, start, dilation, bias, BN)
        j = j0 + tl.arange(0, BN) * step
        # (BN, D), (BN, Dv)
        k = load_tile(keys, j0, step, n_k, BN, D, OFFSET)
        v = load_tile(values, j0, step, n_k, BN, DV, OFFSET)
        # (BM, BN)
        s, added = measure(q, k, i[:, None], j[None, :], step, sequence, head, scale, bias, D, PRECISION)
        p = power(s * factor - lse[:, None], PRECISION)
        if not CAREFUL:
            full = is_full(first, last, j0, step, n_k, band, dilation, BN)
            masked = p
            if not full:
                masked = tl.where(kept(i, j, n_k, band, dilation), p, 0.0)
            p = one_of(full, p, masked) if padded(D) <= 128 else masked  # as in the forward
        dp = product(do, v, PRECISION)
        if dropout is not None:
            dp = tl.where(survivors(dropout, sequence, head, i, j, j0, 1, dilation is not None), dp * dropout[2], 0.0)
        ds = p * (dp - delta[:, None])
        if CAREFUL:
            keep = not_hidden(kept(i, j, n_k, band, dilation), added, bias)
            lost = unclean_rows(k) | unclean_rows(v)
            ds = tl.where(keep, tl.where(lost[None, :], float("nan"), ds), 0.0)
            k = clean(k)
        # (BM, D)
        dq = accumulate(ds.to(k.dtype), k, dq, PRECISION)
    return dq


@triton.jit(do_not_specialize=["band", "limits", "dropout", "dilation", "sizes"])
def dq_kernel(
    q, k, v, out, dout, lse, dlse, delta, dq, doubts, work, q_spans, k_spans, band, prefix, distance, dense, relative,
    limits, dropout, dilation, scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    if CAREFUL and not doubted(doubts):
        return
    sequence, storage, head, first = place(work, sizes[0], heads, dilation, OWN)
    if sequence < 0:
        return
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    if first >= n_q:
        return
    step = stride_of(dilation)
    last = tl.minimum(first + (OWN - 1) * step, n_q - 1)
    i = first + tl.arange(0, OWN) * step
    seen = band_of_queries(band, prefix, sequence, n_q, n_k)
    bias = (distance, dense, relative, limits)
    # (BM, D), (BM, Dv), (BM, Dv)
    queries = load_tile(rows_of(q, storage, head, q_first), first, step, n_q, OWN, D, OFFSET)
    do = load_tile(rows_of(dout, storage, head, q_first), first, step, n_q, OWN, DV, OFFSET)
    o = load_tile(rows_of(out, storage, head, q_first), first, step, n_q, OWN, DV, OFFSET)
    # (BM,)
    change = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    if dlse is not None:
        change -= load_numbers(rows_of(dlse, storage, head, q_first), first, step, n_q, OWN)
    store_numbers(rows_of(delta, storage, head, q_first), first, step, n_q, change, OWN)
    total = load_lse(rows_of(lse, storage, head, q_first), first, step, n_q, OWN, PRECISION)
    keys, values = rows_of(k, storage, head // group, k_first), rows_of(v, storage, head // group, k_first)
    acc = _sum_dq(
        queries, do, total, change, i, first, last, keys, values, n_k, sequence, head, seen, dilation, bias,
        dropout, scale, D, DV, OTHER, OFFSET, PRECISION, STAGES, CAREFUL,
    )  # fmt: skip
    if not CAREFUL:
        report(doubts, acc)
    store_tile(rows_of(dq, storage, head, q_first), first, step, n_q, acc * scale, OWN, D, OFFSET)


@triton.jit
def _sum_dkv(
    k, v, j, first, last, q, dout, lse, delta, storage, q_first, n_q, sequence, head, group, band, dilation, bias,
    dropout, scale,
    D: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """dSᵀ Q and (P ∘ Z)ᵀ dO of key rows j, over the queries that reach them: (BN, D), (BN, Dv)."""
    factor = factor_of(scale, bias, D, PRECISION)
    k = turned(k, scale, bias, D, PRECISION)
    dk = tl.zeros([j.shape[0], padded(D)], tl.float32)
    dv = tl.zeros([j.shape[0], padded(DV)], tl.float32)
    if CAREFUL:
        lost = tl.zeros([j.shape[0], padded(DV)], tl.float32)
    tiles, count, start = schedule(first, last, n_q, band, dilation, bias, BM)
    for h in tl.range(head * group, (head + 1) * group):
        queries, outs = rows_of(q, storage, h, q_first), rows_of(dout, storage, h, q_first)
        totals, changes = rows_of(lse, storage, h, q_first), rows_of(delta, storage, h, q_first)
        for t in tl.range(0, count, num_stages=STAGES):
            i0, step = visit(t, tiles, start, dilation, bias, BM)
            i = i0 + tl.arange(0, BM) * step
            # (BM, D), (BM, Dv), (BM,), (BM,)
            q_tile = load_tile(queries, i0, step, n_q, BM, D, OFFSET)
            do = load_tile(outs, i0, step, n_q, BM, DV, OFFSET)
            total = load_lse(totals, i0, step, n_q, BM, PRECISION)
            change = load_numbers(changes, i0, step, n_q, BM)
            # (BN, BM)
            s, added = measure(k, q_tile, i[None, :], j[:, None], step, sequence, h, scale, bias, D, PRECISION)
            p = power(s * factor - total[None, :], PRECISION)
            dp = product(v, do, PRECISION)
            if CAREFUL:
                keep = not_hidden(kept(j, i, n_q, band, dilation), added, bias)
                p = tl.where(keep, tl.where(unclean_rows(q_tile)[None, :], float("nan"), p), 0.0)
                lost = reach(lost, keep, do)
                dp = tl.where(unclean_rows(do)[None, :], float("nan"), dp)
            else:
                full = is_full(first, last, i0, step, n_q, band, dilation, BM)
                masked = p
                if not full:
                    masked = tl.where(kept(j, i, n_q, band, dilation), p, 0.0)
                p = one_of(full, p, masked) if padded(D) <= 128 else masked  # as in the forward
            weights = p
            if dropout is not None:
                stay = survivors(dropout, sequence, h, i, j, first, 0, dilation is not None)
                weights = tl.where(stay, p, 0.0)
                dp = tl.where(stay, dp * dropout[2], 0.0)
            ds = p * (dp - change[None, :])
            if CAREFUL:
                ds = tl.where(keep, ds, 0.0)
                q_tile, do = clean(q_tile), clean(do)
            # (BN, Dv), (BN, D)
            dv = accumulate(weights.to(do.dtype), do, dv, PRECISION)
            dk = accumulate(ds.to(q_tile.dtype), q_tile, dk, PRECISION)
    if CAREFUL:
        dv = tl.where(lost > 0, float("nan"), dv)
    return dk, dv


@triton.jit(do_not_specialize=["band", "limits", "dropout", "dilation", "sizes"])
def dkv_kernel(
    q, k, v, dout, lse, delta, dk, dv, doubts, work, q_spans, k_spans, band, prefix, distance, dense, relative, limits,
    dropout, dilation, scale, sizes, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    if CAREFUL and not doubted(doubts):
        return
    sequence, storage, head, first = place(work, sizes[1], heads // group, dilation, OWN)
    if sequence < 0:
        return
    q_first, n_q = span(q_spans, sequence, sizes[0])
    k_first, n_k = span(k_spans, sequence, sizes[1])
    if first >= n_k:
        return
    step = stride_of(dilation)
    last = tl.minimum(first + (OWN - 1) * step, n_k - 1)
    j = first + tl.arange(0, OWN) * step
    seen = band_of_keys(band, prefix, sequence, n_q, n_k)
    bias = (distance, dense, relative, limits)
    # (BN, D), (BN, Dv)
    keys = load_tile(rows_of(k, storage, head, k_first), first, step, n_k, OWN, D, OFFSET)
    values = load_tile(rows_of(v, storage, head, k_first), first, step, n_k, OWN, DV, OFFSET)
    sum_k, sum_v = _sum_dkv(
        keys, values, j, first, last, q, dout, lse, delta, storage, q_first, n_q, sequence, head, group, seen,
        dilation, bias, dropout, scale, D, DV, OTHER, OFFSET, PRECISION, STAGES, CAREFUL,
    )  # fmt: skip
    if not CAREFUL:
        report(doubts, tl.sum(sum_k, 1) + tl.sum(sum_v, 1))
    if dropout is not None:
        sum_v *= dropout[2]
    store_tile(rows_of(dk, storage, head, k_first), first, step, n_k, sum_k * scale, OWN, D, OFFSET)
    store_tile(rows_of(dv, storage, head, k_first), first, step, n_k, sum_v, OWN, DV, OFFSET)


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> tuple[Tensor | None, ...]:
    """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; those of biases are None where not asked for."""
    dq, dk, dv = (rows_like(x, x.shape[-1]) for x in (q, k, v))
    if problem.q_spans is not None or q.numel() == 0:  # rows of no sequence
        dq.zero_()
    if problem.k_spans is not None or q.numel() == 0:
        dk.zero_()
        dv.zero_()
    q, k, v, dout, out = (dense_rows(x) for x in (q, k, v, dout, out))
    lse = lse.contiguous()
    delta = torch.empty_like(lse)
    numbers = [view(x[..., None]) for x in (lse, delta)]
    launch = Launch(q, k, v, problem)
    launch.over_queries(
        dq_kernel, launch.choose("dq"), *map(view, (q, k, v, out, dout)), numbers[0],
        None if dlse is None else view(dlse.contiguous()[..., None]), numbers[1], view(dq),
    )  # fmt: skip
    launch.over_keys(
        dkv_kernel, launch.choose("dkv"), *map(view, (q, k, v, dout)), *numbers, view(dk), view(dv)
    )  # fmt: skip
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
