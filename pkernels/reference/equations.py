"""Attention over any pattern, as the equations stand (Vaswani et al. 2017, arXiv:1706.03762,
section 3.2.1; the backward as in Dao et al. 2022, arXiv:2205.14135, appendix B).

    S  = scale * Q Kᵀ + bias + log count  P  = exp(S - lse) on kept pairs, else 0
    lse = logsumexp(S)                    O  = (P ∘ Z) V,  Z = dropout kept / (1 - dropout)

    dP = (dO Vᵀ) ∘ Z                      delta = rowsum(dO ∘ O) - dlse
    dS = P ∘ (dP - delta)                 dbias = dS, summed where bias was broadcast
    dQ = scale * dS K     dK = scale * dSᵀ Q     dV = (P ∘ Z)ᵀ dO

A relative bias is ``scale * R[i] . T[j - i]``, so that dR = scale * dS T and dT = scale * dSᵀ R,
summed along diagonals. ``count`` is how often the pattern keeps a pair. Memory is O(Sq Sk), whatever the pattern.
A value that is not finite reaches only the rows that keep its pair: products are taken of
cleaned operands, and the rows concerned are set to NaN.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..buckets import Buckets
from ..problem import Problem, accumulator, rows_like
from . import philox


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of shapes ``(B, H, Sq, Dv)`` and ``(B, H, Sq)``."""
    out = rows_like(q, v.shape[-1]).zero_()
    lse = q.new_full(q.shape[:-1], -torch.inf, dtype=accumulator(q))
    for part in _parts(problem, q, k):
        qs, ks, vs = part.queries(q), part.keys(k), part.keys(v)
        s = part.scores(qs, ks)
        row = torch.logsumexp(s, dim=-1)
        p = _probabilities(s, row, part.keep) * part.dropout()
        part.queries(out, raw=True).copy_(_product(p, vs, part.keep))
        part.queries(lse, raw=True).copy_(row)
    return out, lse


def backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, problem: Problem
) -> tuple[Tensor | None, ...]:
    """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; those of biases are None where not asked for."""
    dq, dk, dv = (rows_like(x, x.shape[-1]).zero_() for x in (q, k, v))
    ddistance = _zeros(problem.distance, problem.distance_grad, q)
    ddense = _zeros(problem.dense, problem.dense_grad, q)
    dtable = _zeros(problem.table, problem.table_grad, q)
    dquery = None
    if problem.query is not None and problem.query_grad:
        dquery = rows_like(problem.query, problem.query.shape[-1]).zero_()
    for part in _parts(problem, q, k):
        qs, ks, vs = part.queries(q), part.keys(k), part.keys(v)
        do, o, row = part.queries(dout), part.queries(out), part.queries(lse)
        p = _probabilities(part.scores(qs, ks), row, part.keep)
        z = part.dropout()
        dp = _clean(do) @ _clean(vs).mT
        dp = dp.masked_fill(_bad(do)[..., None] | _bad(vs)[..., None, :], torch.nan) * z
        delta = torch.where(row == -torch.inf, 0, (do * o).sum(-1))
        if dlse is not None:
            delta = delta - part.queries(dlse)
        ds = torch.where(part.keep, p * (dp - delta[..., None]), 0)
        ds = ds if part.own is None else ds.masked_fill(part.own, 0)
        part.queries(dq, raw=True).copy_(problem.scale * ds @ _clean(ks))
        part.keys(dk, raw=True).copy_(problem.scale * part.fold(ds.mT @ _clean(qs)))
        part.keys(dv, raw=True).copy_(part.fold(_product((p * z).mT, do, part.keep.mT)))
        if ddistance is not None:
            ddistance += _diagonals(ds, problem.zero, ddistance.shape[1])
        if ddense is not None:
            part.bias_rows(ddense).add_(ds.sum_to_size(part.bias_rows(ddense).shape))
        if dquery is not None:
            part.queries(dquery, raw=True).copy_(problem.scale * part.relative_products(ds)[0])
        if dtable is not None:
            dtable += problem.scale * part.relative_products(ds)[1]
    return dq, dk, dv, ddistance, ddense, dquery, dtable


class _Part:
    """One sequence of a ragged batch, or the whole of an even one."""

    def __init__(self, problem: Problem, q: Tensor, k: Tensor, batch: slice, rows: slice, columns: slice) -> None:
        self.problem, self.q, self.batch, self.rows, self.columns = problem, q, batch, rows, columns
        self.storage = slice(0, 1) if problem.packed else batch
        self.group = q.shape[1] // k.shape[1] if k.shape[1] else 1
        self.sq, self.sk = rows.stop - rows.start, columns.stop - columns.start
        self.count = problem.pattern.multiplicity(batch, self.sq, self.sk, q.device)
        self.keep = self.count > 0
        # Pairs whose score is given.
        self.given = problem.pattern.own if isinstance(problem.pattern, Buckets) else None
        self.own = None if self.given is None else torch.eye(self.sq, dtype=torch.bool, device=q.device)
        if problem.dense is not None:
            self.keep = self.keep & (self.bias_rows(problem.dense) != -torch.inf)

    def queries(self, x: Tensor, raw: bool = False) -> Tensor:
        x = x[self.storage, :, self.rows]
        return x if raw else x.to(accumulator(self.q))

    def keys(self, x: Tensor, raw: bool = False) -> Tensor:
        x = x[self.storage, :, self.columns]
        return x if raw else x.to(accumulator(self.q)).repeat_interleave(self.group, 1)

    def fold(self, grad: Tensor) -> Tensor:
        """Sum over the query heads that share a key head."""
        return grad if self.group == 1 else grad.unflatten(1, (-1, self.group)).sum(2)

    def bias_rows(self, x: Tensor) -> Tensor:
        """The part of a Dense bias (or its gradient) that this sequence reads."""
        x = x if x.shape[0] == 1 else x[self.batch]
        x = x if x.shape[2] == 1 else x[:, :, : self.sq]
        return x if x.shape[3] == 1 else x[..., : self.sk]

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        problem = self.problem
        s = problem.scale * (_clean(q) @ _clean(k).mT)
        s = s.masked_fill(_bad(q)[..., None] | _bad(k)[..., None, :], torch.nan)
        if problem.distance is not None:
            i = torch.arange(self.sq, device=q.device)[:, None]
            j = torch.arange(self.sk, device=q.device)[None, :]
            s = s + problem.distance[:, j - i + problem.zero]
        if problem.dense is not None:
            s = s + self.bias_rows(problem.dense)
        if problem.query is not None:
            s = s + problem.scale * self.relative()
        if self.own is not None and self.given is not None:
            s = s.masked_fill(self.own, self.given)
        if self.count.dtype != torch.bool:
            s = s + torch.log(self.count.clamp(min=1).to(s.dtype))
        return torch.where(self.keep, s, -torch.inf)

    def _of_pairs(self) -> Tensor:
        """The row of the table of every pair, ``(n_q, n_k)``."""
        i = torch.arange(self.sq, device=self.q.device)[:, None]
        return torch.arange(self.sk, device=self.q.device)[None, :] - i + self.problem.zero

    def relative(self) -> Tensor:
        """``R[i] . T[j - i]``, NaN where either is not finite."""
        query, table = self._relative()
        index = self._of_pairs().expand(*query.shape[:2], -1, -1)
        s = _clean(query) @ _clean(table).mT
        return s.masked_fill(_bad(query)[..., None] | _bad(table)[..., None, :], torch.nan).gather(3, index)

    def relative_products(self, ds: Tensor) -> tuple[Tensor, Tensor]:
        """``dS T`` and ``dSᵀ R``, which has one row for each of the table's."""
        query, table = self._relative()
        by_row = ds.new_zeros(*query.shape[:3], table.shape[1]).scatter(3, self._of_pairs().expand(ds.shape), ds)
        return by_row @ _clean(table), (by_row.mT @ _clean(query)).sum(0)

    def _relative(self) -> tuple[Tensor, Tensor]:
        query, table = self.problem.query, self.problem.table
        assert query is not None and table is not None
        return self.queries(query), table.to(accumulator(self.q))

    def dropout(self) -> Tensor | float:
        """Z: 0 where dropped, else 1 / (1 - dropout)."""
        problem = self.problem
        if problem.dropout == 0 or problem.seed is None:
            return 1.0
        batch = torch.arange(self.batch.start, self.batch.stop, device=self.q.device)
        kept = philox.kept(int(problem.seed), batch, self.q.shape[1], self.sq, self.sk, problem.dropout)
        return kept / (1 - problem.dropout)


def _zeros(of: Tensor | None, wanted: bool, q: Tensor) -> Tensor | None:
    return torch.zeros(of.shape, dtype=accumulator(q), device=q.device) if of is not None and wanted else None


def _parts(problem: Problem, q: Tensor, k: Tensor) -> Iterator[_Part]:
    if problem.q_spans is None and problem.k_spans is None:
        yield _Part(problem, q, k, slice(0, q.shape[0]), slice(0, q.shape[2]), slice(0, k.shape[2]))
        return
    for b, (queries, keys) in enumerate(zip(*problem.span_lists(q, k), strict=True)):
        yield _Part(problem, q, k, slice(b, b + 1), slice(*queries), slice(*keys))


def _probabilities(s: Tensor, lse: Tensor, keep: Tensor) -> Tensor:
    # A row that is NaN stays within its pairs.
    return torch.where(keep, torch.exp(s - torch.where(lse == -torch.inf, 0, lse)[..., None]), 0)


def _clean(x: Tensor) -> Tensor:
    return torch.where(torch.isfinite(x), x, 0)


def _bad(x: Tensor) -> Tensor:
    return ~torch.isfinite(x).all(-1)


def _product(weights: Tensor, x: Tensor, keep: Tensor) -> Tensor:
    y = weights @ _clean(x)
    unclean = ~torch.isfinite(x)
    if not unclean.any():
        return y
    reached = keep.to(x.dtype) @ unclean.to(x.dtype) > 0
    return y.masked_fill(reached, torch.nan)


def _diagonals(ds: Tensor, zero: int, width: int) -> Tensor:
    """Sums of ``ds[b, h, i, i + t - zero]`` over b and i, as ``(H, width)``."""
    sq, sk = ds.shape[-2:]
    i = torch.arange(sq, device=ds.device)[:, None]
    j = torch.arange(width, device=ds.device)[None, :] + i - zero
    inside = (j >= 0) & (j < sk)
    if not sk:
        return ds.new_zeros(ds.shape[1], width)
    index = j.clamp(0, sk - 1).expand(*ds.shape[:2], -1, -1)
    return torch.where(inside, ds.gather(3, index), 0).sum((0, 2))
