"""A small flash attention, to test the tools that judge kernels: causal, one head a program row."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def attend(
    Q,
    K,
    V,
    Out,
    LSE,
    scale,
    N,
    stride_q,
    stride_k,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):
    """Out = softmax(scale QKᵀ) V over keys up to the query's own position; LSE in base 2."""
    head = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BM
    i = first + tl.arange(0, BM)
    d = tl.arange(0, D)
    q = tl.load(Q + head * stride_q + i[:, None] * D + d[None, :], mask=i[:, None] < N, other=0.0)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    for start in tl.range(0, tl.minimum(N, first + BM), BN):
        j = start + tl.arange(0, BN)
        k = tl.load(K + head * stride_k + j[None, :] * D + d[:, None], mask=j[None, :] < N, other=0.0)
        s = tl.dot(q, k, input_precision=PRECISION) * (scale * 1.44269504)
        s = tl.where(j[None, :] <= i[:, None], s, float("-inf"))
        new = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new[:, None])
        shrink = tl.exp2(top - new)
        total = total * shrink + tl.sum(p, 1)
        v = tl.load(V + head * stride_k + j[:, None] * D + d[None, :], mask=j[:, None] < N, other=0.0)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        top = new
    out = (acc / total[:, None]).to(Out.dtype.element_ty)
    tl.store(Out + head * stride_q + i[:, None] * D + d[None, :], out, mask=i[:, None] < N)
    tl.store(LSE + head * N + i, top + tl.log2(total), mask=i < N)


def attention(q: Tensor, k: Tensor, v: Tensor, bm: int = 32, bn: int = 32, **options: Any) -> tuple[Tensor, Tensor]:
    """``(out, lse)`` of q, k, v of shape ``(H, N, D)``, contiguous, D a power of two.

    ``options`` are those of a Triton launch: ``num_warps``, ``num_stages``,
    and ``PRECISION``, that of fp32 products.
    """
    heads, n, d = q.shape
    out, lse = torch.empty_like(q), torch.empty(heads, n)
    grid = (heads, triton.cdiv(n, bm))
    attend[grid](q, k, v, out, lse, d**-0.5, n, q.stride(0), k.stride(0), D=d, BM=bm, BN=bn, **options)
    return out, lse
