"""What an attention call must return, written from the definitions and from nothing else.

No code of the package runs here: a pattern and a bias are read field by field, masks are
built one query at a time, Philox is done in numpy, gradients come from autograd. Run in
float64 it is the truth; run in a narrower dtype it is plain torch, which sets the error
budget (see ``budget.py``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pkernels import Band, Blocks, Buckets, Dense, Distance, Relative

TENSORS = ("out", "lse", "dq", "dk", "dv", "dbias", "dtable")


@dataclass(eq=False)
class Call:
    """The arguments of one ``pkernels.attention``, and the gradients that come back."""

    q: Tensor
    k: Tensor
    v: Tensor
    pattern: Band | Blocks | Buckets = field(default_factory=Band)
    bias: Distance | Dense | Relative | None = None
    scale: float | None = None
    lengths: object = None
    offsets: object = None
    dropout: float = 0.0
    seed: int | None = None
    dout: Tensor | None = None
    dlse: Tensor | None = None

    def leaves(self) -> list[Tensor]:
        """q, k, v and the tensors of the bias, if there is one."""
        if isinstance(self.bias, Relative):
            return [self.q, self.k, self.v, self.bias.query, self.bias.table]
        return [self.q, self.k, self.v, *([] if self.bias is None else [self.bias.values])]


@dataclass(eq=False)
class Result:
    """What a call returned and the gradients; None where there is none. ``dbias`` is that of a
    Relative's query."""

    out: Tensor
    lse: Tensor
    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None
    dbias: Tensor | None = None
    dtable: Tensor | None = None


def softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor, added: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of one sequence, from ``(H, n, D)`` and a mask ``(H, n_q, n_k)``."""
    alive = mask.any(-1, keepdim=True)
    # Pairs masked by a bias of -inf get no score at all, so that gradients stay finite.
    scores = q @ k.mT * scale + torch.where(mask, added, 0)
    scores = torch.where(alive, torch.where(mask, scores, -torch.inf), 0)
    p = torch.where(alive, torch.softmax(scores, -1), 0) * weights
    return p @ v, torch.where(alive[..., 0], torch.logsumexp(scores, -1), -torch.inf)


def evaluate(call: Call, dtype: torch.dtype = torch.float64, attend: Callable = softmax_attention) -> Result:
    """The call in ``dtype`` throughout, with gradients if it has ``dout`` or ``dlse``."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in call.leaves()]
    out, lse = attention(call, attend, *leaves)
    pairs = [(y, dy) for y, dy in ((out, call.dout), (lse, call.dlse)) if dy is not None]
    if not pairs:
        return Result(out.detach(), lse.detach())
    # The zero ties every leaf to the graph, also when no pair is kept at all.
    tie = sum(x.sum() for x in leaves) * 0
    grads = torch.autograd.grad([y + tie for y, _ in pairs], leaves, [dy.to(dtype) for _, dy in pairs])
    return Result(out.detach(), lse.detach(), *grads)


def attention(call: Call, attend: Callable, q: Tensor, k: Tensor, v: Tensor, *bias: Tensor) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of the call with these tensors in place of its own, one sequence at a time."""
    heads = q.shape[1]
    outs = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    lses = torch.full(q.shape[:3], -torch.inf, dtype=q.dtype)
    of_kv = torch.arange(heads) // max(1, heads // max(1, k.shape[1]))
    for b, row, (first, n_q), (start, n_k) in sequences(call):
        if n_q == 0 or n_k == 0 or heads == 0:
            continue
        counts = torch.from_numpy(counts_of(call.pattern, b, heads, n_q, n_k))
        mask = counts > 0
        scale: float | Tensor = q.shape[3] ** -0.5 if call.scale is None else call.scale
        added = torch.zeros((1, 1, 1), dtype=q.dtype)
        if isinstance(call.bias, Distance):
            added = _distance(bias[0], heads, n_q, n_k, q.shape[2] if call.offsets is None else None)
        elif isinstance(call.bias, Dense):
            added = _dense(bias[0], b, n_q, n_k)
            mask = mask & (added != -torch.inf)
        elif isinstance(call.bias, Relative):
            rows = q.shape[2] if call.offsets is None else None
            added = scale * _relative(bias[0][row, :, first : first + n_q], bias[1], n_k, rows)
        if not isinstance(call.pattern, Band):
            added = added + torch.log(counts.clamp(min=1).to(q.dtype))
        if isinstance(call.pattern, Buckets) and call.pattern.own is not None:
            itself = torch.eye(n_q, dtype=torch.bool)
            scale = torch.where(itself, 0, torch.full((n_q, n_k), scale, dtype=q.dtype)).expand(heads, n_q, n_k)
            own = max(call.pattern.own, -6e4 if q.dtype == torch.float16 else -torch.inf)
            added = added + torch.where(itself, own, 0).to(q.dtype)
        weights = torch.ones((1, 1, 1), dtype=q.dtype)
        if call.dropout > 0:
            kept = torch.from_numpy(survivors(call.seed, b, heads, n_q, n_k, call.dropout))
            weights = kept.to(q.dtype) / (1 - call.dropout)
        out, lse = attend(
            q[row, :, first : first + n_q],
            k[row, of_kv, start : start + n_k],
            v[row, of_kv, start : start + n_k],
            scale,
            mask,
            added,
            weights,
        )
        outs[row, :, first : first + n_q] = out
        lses[row, :, first : first + n_q] = lse
    return outs, lses


def sequences(call: Call) -> Iterator[tuple[int, int, tuple[int, int], tuple[int, int]]]:
    """Per sequence: its number, its batch row, and (first row, count) of queries and of keys."""
    sq, sk = call.q.shape[2], call.k.shape[2]
    if call.offsets is not None:
        pair = call.offsets if isinstance(call.offsets, tuple) else (call.offsets, call.offsets)
        ends_q, ends_k = ([int(x) for x in ends] for ends in pair)
        for b in range(len(ends_q) - 1):
            yield b, 0, (ends_q[b], ends_q[b + 1] - ends_q[b]), (ends_k[b], ends_k[b + 1] - ends_k[b])
        return
    lengths = call.lengths
    if not isinstance(lengths, tuple):
        lengths = (lengths if sq == sk else None, lengths)
    for b in range(call.q.shape[0]):
        n_q, n_k = (n if given is None else int(given[b]) for n, given in zip((sq, sk), lengths, strict=True))
        yield b, b, (0, n_q), (0, n_k)


def kept_pairs(call: Call) -> Tensor:
    """``(B, H, Sq, Sk)``: the pairs of rows that meet, hidden ones of a bias left out."""
    kept = torch.zeros(*call.q.shape[:3], call.k.shape[2], dtype=torch.bool)
    for b, row, (first, n_q), (start, n_k) in sequences(call):
        mask = torch.from_numpy(counts_of(call.pattern, b, call.q.shape[1], n_q, n_k)) > 0
        if isinstance(call.bias, Dense):
            mask = mask & (_dense(call.bias.values, b, n_q, n_k) != -torch.inf)
        kept[row, :, first : first + n_q, start : start + n_k] = mask
    return kept


def counts_of(pattern: Band | Blocks | Buckets, b: int, heads: int, n_q: int, n_k: int) -> np.ndarray:
    """How often each query sees each key in batch row ``b``: ``(heads, n_q, n_k)``."""
    if isinstance(pattern, Band):
        return np.broadcast_to(mask_of(pattern, b, n_q, n_k).astype(np.int64), (heads, n_q, n_k)).copy()
    return (_listed if isinstance(pattern, Blocks) else _met)(pattern, b, heads, n_q, n_k)


@functools.lru_cache(maxsize=64)
def _listed(pattern: Blocks, b: int, heads: int, n_q: int, n_k: int) -> np.ndarray:
    offsets, columns, counts = (x.tolist() for x in pattern.lists)
    size, found = pattern.size, np.zeros((heads, n_q, n_k), dtype=np.int64)
    for h in range(heads):
        ends = offsets[h if len(offsets) > 1 else 0]
        for i in range(n_q):
            for e in range(ends[i // size], ends[i // size + 1]):
                found[h, i, columns[e] * size : (columns[e] + 1) * size] += counts[e]
    return found


@functools.lru_cache(maxsize=64)
def _met(pattern: Buckets, b: int, heads: int, n_q: int, n_k: int) -> np.ndarray:
    order = pattern.order.expand(max(b + 1, pattern.order.shape[0]), heads, -1, -1)[b].reshape(heads, -1).tolist()
    chunk, found = pattern.chunk, np.zeros((heads, n_q, n_k), dtype=np.int64)
    for h, rows in enumerate(order):
        chunks = [rows[at : at + chunk] for at in range(0, len(rows), chunk)]
        for c, queries in enumerate(chunks):
            for near in range(c - pattern.before, c + pattern.after + 1):
                for i in queries:
                    for j in chunks[near % len(chunks)]:
                        if 0 <= i < n_q and 0 <= j < n_k and (j <= i or not pattern.causal):
                            found[h, i, j] += 1
    return found


@functools.lru_cache(maxsize=64)
def mask_of(pattern: Band, b: int, n_q: int, n_k: int) -> np.ndarray:
    """Which of ``n_k`` keys each of ``n_q`` queries sees, in batch row ``b``."""
    mask = np.zeros((n_q, n_k), dtype=bool)
    columns = pattern.columns
    columns = int(columns[b]) if isinstance(columns, Tensor) else columns
    for i in range(n_q):
        at = i + n_k - n_q
        if 0 <= at < pattern.rows:
            mask[i] = True
            continue
        mask[i, :columns] = True
        for j in range(at % pattern.dilation, n_k, pattern.dilation):
            steps = (j - at) // pattern.dilation
            mask[i, j] |= -pattern.left <= steps <= pattern.right
    return mask


def _distance(values: Tensor, heads: int, n_q: int, n_k: int, rows: int | None) -> Tensor:
    """``(H, n_q, n_k)``; ``rows`` is Sq, or None for packed sequences."""
    zero = values.shape[1] // 2 if rows is None else rows - 1
    diagonals = [values[:, zero - i : zero - i + n_k] for i in range(n_q)]
    return torch.stack(diagonals, 1).expand(heads, n_q, n_k)


def _relative(query: Tensor, table: Tensor, n_k: int, rows: int | None) -> Tensor:
    """``(H, n_q, n_k)``; ``rows`` is Sq, or None for packed sequences."""
    zero = table.shape[1] // 2 if rows is None else rows - 1
    products = [query[:, i, None] @ table[:, zero - i : zero - i + n_k].mT for i in range(query.shape[1])]
    return torch.cat(products, 1)


def _dense(values: Tensor, b: int, n_q: int, n_k: int) -> Tensor:
    values = values.reshape((1,) * (4 - values.dim()) + tuple(values.shape))
    return values[b if values.shape[0] > 1 else 0, :, :n_q, :n_k]


@functools.lru_cache(maxsize=64)
def survivors(seed: int, b: int, heads: int, n_q: int, n_k: int, dropout: float) -> np.ndarray:
    """Which pairs dropout keeps: ``(heads, n_q, n_k)``."""
    h, i, group = np.meshgrid(np.arange(heads), np.arange(n_q), np.arange((n_k + 7) // 8), indexing="ij")
    words = philox(seed, (i, group, h, np.full_like(h, b)))
    halves = [part for word in words for part in (word & 0xFFFF, word >> 16)]
    bits = np.stack(halves, -1).reshape(heads, n_q, -1)[:, :, :n_k]
    return bits >= round(dropout * 2**16)


def philox(seed: int, counter: tuple[np.ndarray, ...], rounds: int = 7) -> list[np.ndarray]:
    """Philox4x32 (Salmon et al. 2011, section 3.3) of the 64-bit key ``seed``."""
    low = np.uint64(0xFFFFFFFF)
    c = [np.asarray(x).astype(np.uint64) for x in counter]
    key = [seed % 2**32, (seed >> 32) % 2**32]
    for _ in range(rounds):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            (b >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]),
            b & low,
            (a >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]),
            a & low,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return c
