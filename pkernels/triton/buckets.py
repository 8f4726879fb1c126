"""Attention over Buckets, forward and backward (Kitaev et al. 2020, Reformer, arXiv:2001.04451,
section 2; the tile step as in ``band``).

One launch a round, for in a round every row stands at most once: the running softmax of a row,
and its gradients, go on in fp32 memory with a row for each row of the sequence, and nothing has
an element per row and round. Each sum runs in a fixed order, without atomics.

Grids: a program per (sequence, query head, chunk of the round, tile of its entries), flat on
axis 0. It loads its rows through the order and visits the chunks around its own, which may
belong to the rounds before and after. dk/dv are summed per query head, then over the group.
Not supported: biases, and as in ``band``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..buckets import Buckets, numbers_of_rows
from ..problem import Problem, rows_like
from . import tune
from .arguments import View, dense_rows, view
from .careful import clean, unclean_rows
from .gather import gather_numbers, gather_tile, listed_rows, scatter_numbers, scatter_tile
from .philox import survivors
from .products import accumulate, product
from .rounds import Rounds, doubt
from .step import online_softmax, power, rows_of, unit


@triton.jit
def _place(order, chunks, heads, OWN: tl.constexpr):
    """(sequence, head, chunk in the circle, list, first entry, end of the chunk) of this program;
    ``order`` = (pointer, batch stride, head stride), ``chunks`` = (entries of a chunk, chunks of a
    round, of all rounds, the round, chunks before, chunks after)."""
    size, of_round = chunks[0], chunks[1]
    tiles = tl.cdiv(size, OWN)
    program = tl.program_id(0)
    at = program % (of_round * tiles)
    head = program // (of_round * tiles) % heads
    sequence = program // (of_round * tiles) // heads
    chunk = chunks[3] * of_round + at // tiles
    list_ = order[0] + tl.cast(sequence, tl.int64) * order[1] + tl.cast(head, tl.int64) * order[2]
    return sequence, head, chunk, list_, chunk * size + at % tiles * OWN, chunk * size + size


@triton.jit
def _near(t, chunk, chunks, before, OTHER: tl.constexpr):
    """(first entry, end of its chunk) of tile t of the chunks from ``before`` behind on."""
    size, every = chunks[0], chunks[2]
    tiles = tl.cdiv(size, OTHER)
    near = (chunk - before + t // tiles) % every
    near = tl.where(near < 0, near + every, near)
    return near * size + t % tiles * OTHER, near * size + size


@triton.jit
def _scores(a, b, i, j, own, scale, PRECISION: tl.constexpr):
    """scale * a bᵀ, but what was given where a row meets itself; i and j lie along the axes of
    the tile, ``own`` along that of i."""
    s = product(a, b, PRECISION) * (scale * unit(PRECISION))
    if own is not None:
        s = tl.where(i == j, own, s)
    return s


@triton.jit(do_not_specialize=["chunks", "dropout"])
def buckets_forward_kernel(
    q, k, v, acc, top, sum, doubts, order, chunks, own, dropout, scale, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, CAUSAL: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    sequence, head, chunk, list_, first, stop = _place(order, chunks, heads, OWN)
    if CAREFUL and tl.load(doubts + sequence * heads + head) == 0:
        return
    i, mine = listed_rows(list_, first, stop, OWN)
    # (OWN, D)
    queries = gather_tile(rows_of(q, sequence, head, 0), i, mine, D)
    keys, values = rows_of(k, sequence, head // group, 0), rows_of(v, sequence, head // group, 0)
    state, tops, sums = (
        rows_of(acc, sequence, head, 0),
        rows_of(top, sequence, head, 0),
        rows_of(sum, sequence, head, 0),
    )
    # (OWN,), (OWN,), (OWN, Dv)
    m = gather_numbers(tops, i, mine, -float("inf"))
    total = gather_numbers(sums, i, mine, 0.0)
    o = gather_tile(state, i, mine, DV)
    given = None if own is None else own * unit(PRECISION)
    for t in tl.range(0, (chunks[4] + 1 + chunks[5]) * tl.cdiv(chunks[0], OTHER), num_stages=STAGES):
        at, end = _near(t, chunk, chunks, chunks[4], OTHER)
        j, there = listed_rows(list_, at, end, OTHER)
        # (OTHER, D), (OTHER, Dv)
        k_tile, v_tile = gather_tile(keys, j, there, D), gather_tile(values, j, there, DV)
        # (OWN, OTHER)
        s = _scores(queries, k_tile, i[:, None], j[None, :], given, scale, PRECISION)
        keep = there[None, :] & mine[:, None]
        if CAUSAL:
            keep = keep & (j[None, :] <= i[:, None])
        if CAREFUL:
            s = tl.where((unclean_rows(k_tile) | unclean_rows(v_tile))[None, :], float("nan"), s)
            v_tile = clean(v_tile)
        s = tl.where(keep, s, -float("inf"))
        p, alpha, m, total = online_softmax(s, m, total, PRECISION)
        if dropout is not None:
            p = tl.where(survivors(dropout, sequence, head, i, j, 0, 1, True), p, 0.0)
        # (OWN, Dv)
        o = accumulate(p.to(v_tile.dtype), v_tile, o * alpha[:, None], PRECISION)
    if not CAREFUL:
        doubt(doubts, sequence * heads + head, o)
    scatter_numbers(tops, i, mine, m)
    scatter_numbers(sums, i, mine, total)
    scatter_tile(state, i, mine, o, DV)


@triton.jit(do_not_specialize=["chunks", "dropout"])
def buckets_dq_kernel(
    q, k, v, dout, lse, delta, own, dq, doubts, order, chunks, dropout, scale, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, CAUSAL: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    sequence, head, chunk, list_, first, stop = _place(order, chunks, heads, OWN)
    if CAREFUL and tl.load(doubts + sequence * heads + head) == 0:
        return
    i, mine = listed_rows(list_, first, stop, OWN)
    # (OWN, D), (OWN, Dv), (OWN,), (OWN,)
    queries = gather_tile(rows_of(q, sequence, head, 0), i, mine, D)
    do = gather_tile(rows_of(dout, sequence, head, 0), i, mine, DV)
    total = gather_numbers(rows_of(lse, sequence, head, 0), i, mine, 0.0) * unit(PRECISION)
    change = gather_numbers(rows_of(delta, sequence, head, 0), i, mine, 0.0)
    given = None
    if own is not None:
        given = (gather_numbers(rows_of(own, sequence, head, 0), i, mine, 0.0) * unit(PRECISION))[:, None]
    keys, values = rows_of(k, sequence, head // group, 0), rows_of(v, sequence, head // group, 0)
    sums = rows_of(dq, sequence, head, 0)
    acc = gather_tile(sums, i, mine, D)
    for t in tl.range(0, (chunks[4] + 1 + chunks[5]) * tl.cdiv(chunks[0], OTHER), num_stages=STAGES):
        at, end = _near(t, chunk, chunks, chunks[4], OTHER)
        j, there = listed_rows(list_, at, end, OTHER)
        # (OTHER, D), (OTHER, Dv)
        k_tile, v_tile = gather_tile(keys, j, there, D), gather_tile(values, j, there, DV)
        # (OWN, OTHER)
        p = power(_scores(queries, k_tile, i[:, None], j[None, :], given, scale, PRECISION) - total[:, None], PRECISION)
        dp = product(do, v_tile, PRECISION)
        if dropout is not None:
            dp = tl.where(survivors(dropout, sequence, head, i, j, 0, 1, True), dp * dropout[2], 0.0)
        ds = p * (dp - change[:, None])
        keep = there[None, :] & mine[:, None]
        if CAUSAL:
            keep = keep & (j[None, :] <= i[:, None])
        if CAREFUL:
            ds = tl.where((unclean_rows(k_tile) | unclean_rows(v_tile))[None, :], float("nan"), ds)
            k_tile = clean(k_tile)
        if own is not None:
            keep = keep & (i[:, None] != j[None, :])
        ds = tl.where(keep, ds, 0.0) * scale
        # (OWN, D)
        acc = accumulate(ds.to(k_tile.dtype), k_tile, acc, PRECISION)
    if not CAREFUL:
        doubt(doubts, sequence * heads + head, acc)
    scatter_tile(sums, i, mine, acc, D)


@triton.jit(do_not_specialize=["chunks", "dropout"])
def buckets_dkv_kernel(
    q, k, v, dout, lse, delta, own, dk, dv, doubts, order, chunks, dropout, scale, heads, group,
    D: tl.constexpr, DV: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, CAUSAL: tl.constexpr,
    OFFSET: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    sequence, head, chunk, list_, first, stop = _place(order, chunks, heads, OWN)
    if CAREFUL and tl.load(doubts + sequence * heads + head) == 0:
        return
    j, mine = listed_rows(list_, first, stop, OWN)
    # (OWN, D), (OWN, Dv)
    keys = gather_tile(rows_of(k, sequence, head // group, 0), j, mine, D)
    values = gather_tile(rows_of(v, sequence, head // group, 0), j, mine, DV)
    queries, outs = rows_of(q, sequence, head, 0), rows_of(dout, sequence, head, 0)
    totals, changes = rows_of(lse, sequence, head, 0), rows_of(delta, sequence, head, 0)
    of_k, of_v = rows_of(dk, sequence, head, 0), rows_of(dv, sequence, head, 0)
    sum_k, sum_v = gather_tile(of_k, j, mine, D), gather_tile(of_v, j, mine, DV)
    # A chunk is seen by those that have it before or after them.
    for t in tl.range(0, (chunks[4] + 1 + chunks[5]) * tl.cdiv(chunks[0], OTHER), num_stages=STAGES):
        at, end = _near(t, chunk, chunks, chunks[5], OTHER)
        i, there = listed_rows(list_, at, end, OTHER)
        # (OTHER, D), (OTHER, Dv), (OTHER,), (OTHER,)
        q_tile, do = gather_tile(queries, i, there, D), gather_tile(outs, i, there, DV)
        total = gather_numbers(totals, i, there, 0.0) * unit(PRECISION)
        change = gather_numbers(changes, i, there, 0.0)
        given = None
        if own is not None:
            given = (gather_numbers(rows_of(own, sequence, head, 0), i, there, 0.0) * unit(PRECISION))[None, :]
        # (OWN, OTHER)
        p = power(_scores(keys, q_tile, i[None, :], j[:, None], given, scale, PRECISION) - total[None, :], PRECISION)
        dp = product(values, do, PRECISION)
        keep = there[None, :] & mine[:, None]
        if CAUSAL:
            keep = keep & (j[:, None] <= i[None, :])
        if CAREFUL:
            p = tl.where((unclean_rows(q_tile) | unclean_rows(do))[None, :], float("nan"), p)
            q_tile, do = clean(q_tile), clean(do)
        p = tl.where(keep, p, 0.0)
        weights = p
        if dropout is not None:
            stay = survivors(dropout, sequence, head, i, j, 0, 0, True)
            weights = tl.where(stay, p * dropout[2], 0.0)
            dp = tl.where(stay, dp * dropout[2], 0.0)
        ds = tl.where(keep, p * (dp - change[None, :]), 0.0) * scale
        if own is not None:
            ds = tl.where(i[None, :] != j[:, None], ds, 0.0)
        # (OWN, Dv), (OWN, D)
        sum_v = accumulate(weights.to(do.dtype), do, sum_v, PRECISION)
        sum_k = accumulate(ds.to(q_tile.dtype), q_tile, sum_k, PRECISION)
    if not CAREFUL:
        doubt(doubts, sequence * heads + head, tl.sum(sum_k, 1) + tl.sum(sum_v, 1))
    scatter_tile(of_k, j, mine, sum_k, D)
    scatter_tile(of_v, j, mine, sum_v, DV)


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, S, Dv)`` and ``(B, H, S)``."""
    q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
    acc = torch.zeros(*q.shape[:3], v.shape[3], dtype=torch.float32, device=q.device)
    top = torch.full(q.shape[:3], -torch.inf, dtype=torch.float32, device=q.device)
    total = torch.zeros_like(top)
    pattern: Buckets = problem.pattern  # type: ignore[assignment]
    config = tune.choose("buckets_forward", q, v, problem)
    sums = [(acc, 0.0), (top[..., None], -torch.inf), (total[..., None], 0.0)]
    Rounds(q, k, v, problem).run(buckets_forward_kernel, config, [view(x) for x in (q, k, v)], sums, pattern.own)
    share = torch.where(total == 0, 1, total)
    out = rows_like(q, v.shape[-1])
    out.copy_(acc * ((1 / (1 - problem.dropout)) / share)[..., None])
    if tune.precision(q, config) is None:
        top = top * 0.6931471805599453  # scores were counted in units of log 2
    return out, torch.where(total == 0, -torch.inf, top + torch.log(share))


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> tuple[Tensor | None, ...]:
    """``(dq, dk, dv)`` and None for each bias."""
    q, k, v, dout = (dense_rows(x) for x in (q, k, v, dout))
    pattern: Buckets = problem.pattern  # type: ignore[assignment]
    total, own, delta = numbers_of_rows(dout, dlse, out, lse, pattern.own)
    widths = (q.shape[3], q.shape[3], v.shape[3])
    sum_q, sum_k, sum_v = (torch.zeros(*q.shape[:3], d, dtype=torch.float32, device=q.device) for d in widths)
    numbers: list[View | None] = [view(x.contiguous()[..., None]) for x in (total, delta)]
    numbers.append(None if own is None else view(own[..., None]))
    rounds = Rounds(q, k, v, problem)
    tensors = [*(view(x) for x in (q, k, v, dout)), *numbers]
    rounds.run(buckets_dq_kernel, tune.choose("buckets_dq", q, v, problem), tensors, [(sum_q, 0.0)])
    rounds.run(buckets_dkv_kernel, tune.choose("buckets_dkv", q, v, problem), tensors, [(sum_k, 0.0), (sum_v, 0.0)])
    dq, dk, dv = (rows_like(x, x.shape[-1]) for x in (q, k, v))
    dq.copy_(sum_q)
    for grad, of in ((dk, sum_k), (dv, sum_v)):
        grad.copy_(of.unflatten(1, (k.shape[1], rounds.heads // max(1, k.shape[1]))).sum(2))
    return dq, dk, dv, None, None, None, None
