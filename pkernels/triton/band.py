"""Attention over a Band, forward (Dao 2023, FlashAttention-2, arXiv:2307.08691, section 3.1;
Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1).

    S = scale * Q Kᵀ + bias        P = exp(S - lse) on kept pairs, else 0
    lse = logsumexp(S)             O = (P ∘ Z) V,  Z = dropout kept / (1 - dropout)

Grid: one program per (sequence, query head, residue class of the dilation, tile of BM
queries), flat on axis 0. A program visits tiles of BN keys by ``step.schedule``: global
columns, then its band. Tiles kept in full run without a mask. Head dimensions are padded to
a power of two, at least 16. Sums and softmax are fp32; fp32 products are exact to fp32
(``tune.precision``). Not supported: fp64, head dimensions above 256.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..problem import Problem, rows_like
from .arguments import Launch, dense_rows, view
from .band_backward import backward
from .careful import clean, doubted, reach, report, unclean_rows
from .measure import factor_of, measure, one_of, turned
from .philox import survivors
from .products import accumulate
from .step import (
    band_of_queries,
    is_full,
    kept,
    load_tile,
    log_sum,
    not_hidden,
    online_softmax,
    padded,
    place,
    rows_of,
    schedule,
    span,
    store_numbers,
    store_tile,
    stride_of,
    visit,
)

__all__ = ["backward", "forward"]


@triton.jit
def _attend(
    q, i, first, last, keys, values, n_k, sequence, head, band, dilation, bias, dropout, scale,
    D: tl.constexpr, DV: tl.constexpr, BN: tl.constexpr, OFFSET: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """Online softmax of query rows i over the keys their band reaches: (m, total, acc)."""
    factor = factor_of(scale, bias, D, PRECISION)
    q = turned(q, scale, bias, D, PRECISION)
    m = tl.full([i.shape[0]], -float("inf"), tl.float32)
    if D <= 128 and PRECISION is None and bias[0] is None and bias[1] is None and bias[2] is None:
        total = tl.zeros([i.shape[0], 8], tl.float32)
    else:
        total = tl.zeros([i.shape[0]], tl.float32)
    acc = tl.zeros([i.shape[0], padded(DV)], tl.float32)
    if CAREFUL:
        lost = tl.zeros([i.shape[0], padded(DV)], tl.float32)
    tiles, count, start = schedule(first, last, n_k, band, dilation, bias, BN)
    for t in tl.range(0, count, num_stages=STAGES):
        j0, step = visit(t, tiles, start, dilation, bias, BN)
        j = j0 + tl.arange(0, BN) * step
        # (BN, D), (BN, Dv)
        k = load_tile(keys, j0, step, n_k, BN, D, OFFSET)
        v = load_tile(values, j0, step, n_k, BN, DV, OFFSET)
        # (BM, BN)
        s, added = measure(q, k, i[:, None], j[None, :], step, sequence, head, scale, bias, D, PRECISION)
        if CAREFUL:
            keep = not_hidden(kept(i, j, n_k, band, dilation), added, bias)
            s = tl.where(keep, tl.where(unclean_rows(k)[None, :], float("nan"), s), -float("inf"))
            lost = reach(lost, keep, v)
            v = clean(v)
        else:
            full = is_full(first, last, j0, step, n_k, band, dilation, BN)
            masked = s
            if not full:
                masked = tl.where(kept(i, j, n_k, band, dilation), s, -float("inf"))
            # Wide heads have no registers left for all columns of a row in one warp.
            s = one_of(full, s, masked) if padded(DV) <= 64 else masked
        p, alpha, m, total = online_softmax(s, m, total, PRECISION, factor)
        if dropout is not None:
            p = tl.where(survivors(dropout, sequence, head, i, j, j0, 1, dilation is not None), p, 0.0)
        # (BM, Dv)
        acc = accumulate(p.to(v.dtype), v, acc * alpha[:, None], PRECISION)
    if CAREFUL:
        acc = tl.where(lost > 0, float("nan"), acc)
    return m * factor, tl.sum(total, 1) if len(total.shape) == 2 else total, acc


@triton.jit(do_not_specialize=["band", "limits", "dropout", "dilation", "sizes"])
def forward_kernel(
    q, k, v, out, lse, doubts, work, q_spans, k_spans, band, prefix, distance, dense, relative, limits, dropout,
    dilation, scale, sizes, heads, group,
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
    # (OWN, D)
    queries = load_tile(rows_of(q, storage, head, q_first), first, step, n_q, OWN, D, OFFSET)
    lost = unclean_rows(queries)
    queries = clean(queries)
    keys, values = rows_of(k, storage, head // group, k_first), rows_of(v, storage, head // group, k_first)
    m, total, acc = _attend(
        queries, i, first, last, keys, values, n_k, sequence, head, seen, dilation, bias, dropout, scale,
        D, DV, OTHER, OFFSET, PRECISION, STAGES, CAREFUL,
    )  # fmt: skip
    if not CAREFUL:
        report(doubts, acc)
    total = tl.where(lost & (total > 0), float("nan"), total)
    total = tl.where(total == 0, 1.0, total)  # of a row with no key: out 0, lse -inf
    if dropout is not None:
        acc *= dropout[2]
    store_tile(rows_of(out, storage, head, q_first), first, step, n_q, acc / total[:, None], OWN, DV, OFFSET)
    store_numbers(rows_of(lse, storage, head, q_first), first, step, n_q, log_sum(m, total, PRECISION), OWN)


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``."""
    out = rows_like(q, v.shape[-1])
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    if problem.q_spans is not None:  # rows of no sequence
        out.zero_()
        lse.fill_(-torch.inf)
    if out.numel() == 0:
        return out, lse
    q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
    launch = Launch(q, k, v, problem)
    launch.over_queries(
        forward_kernel, launch.choose("forward"), view(q), view(k), view(v), view(out), view(lse[..., None])
    )
    return out, lse
