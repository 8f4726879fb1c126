"""LSH attention of the Reformer (Kitaev et al. 2020, arXiv:2001.04451)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import ops
from .attention import Result, attention
from .buckets import LAST_RESORT, Buckets
from .checks import check_tensors

_ANY = Buckets(torch.zeros(1, 1, 1, 0, dtype=torch.int32), 1)


def lsh_order(
    x: Tensor,
    *,
    rounds: int,
    buckets: int | Sequence[int],
    chunk: int,
    seed: int | None = None,
    mask: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Rows in the order of their hashes, for :class:`pkernels.Buckets`.

    A row's hash is ``argmax([x R; -x R])`` with a random R per head and round; rows of one hash
    keep their order. Rows that are not real have a bucket of their own, the last. Nothing is
    differentiated: an order is kept beside activations that are rebuilt, not made again.

    Args:
        x: ``(B, H, S, D)``, the shared queries and keys.
        rounds: Independent hashes of each row.
        buckets: How many, an even number; or even factors of that number, which take
            ``sum(buckets) / 2`` products a row and round instead of ``prod(buckets) / 2``.
        chunk: Entries are filled up with -1 to a multiple of this.
        seed: Of R, normally distributed; drawn from torch's generator if not given.
        mask: ``(B, S)`` booleans: the real rows.

    Returns:
        ``(B, H, rounds, N)`` int32, N the multiple of ``chunk`` at or above S.

    Raises:
        ValueError: Naming the argument, what was given and what is allowed.

    Example:
        >>> lsh_order(torch.randn(1, 2, 10, 8), rounds=3, buckets=4, chunk=4, seed=0).shape
        torch.Size([1, 2, 3, 12])
    """
    check_tensors(x, x, x)
    for name, value in (("rounds", rounds), ("chunk", chunk)):
        if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or value < 1:
            raise ValueError(f"{name}: a positive int is allowed, got {value!r}")
    factors = [buckets] if isinstance(buckets, (int, torch.SymInt)) else list(buckets)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 2 or n % 2 for n in factors) or not factors:
        raise ValueError(f"buckets: an even number of at least 2, or several, are allowed, got {buckets!r}")
    shape = (x.shape[1], x.shape[3], rounds, sum(factors) // 2)
    rotations = (torch.randn(shape) if seed is None else ops.lsh_rotations(seed, shape)).to(x.device)
    entries = -(-x.shape[2] // chunk) * chunk
    mask = None if mask is None else mask.to(device=x.device)
    return ops.lsh_order(x.detach(), rotations, mask, factors, entries, ops.choose(backend, x, x, x, _ANY))


def lsh_attention(
    qk: Tensor,
    v: Tensor,
    *,
    rounds: int = 1,
    buckets: int | Sequence[int] = 2,
    chunk: int = 64,
    causal: bool = False,
    before: int = 1,
    after: int = 0,
    seed: int | None = None,
    lengths: Tensor | None = None,
    order: Tensor | None = None,
    **options: Any,
) -> Result:
    """Self-attention within buckets of similar rows (section 2).

    Queries are ``qk``; keys are ``qk`` over its length, so that scores are ``q·k / (|k| sqrt(D))``
    times ``sqrt(D)`` as in the authors' Trax code and in transformers: ``key = qk /
    sqrt(mean(qk**2) + 1e-6) / sqrt(D)`` and no other scale. Rows are sorted by bucket, cut into
    chunks and attend to their own chunk and its neighbours, circularly over all rounds, whatever
    the buckets. A row sees itself as a last resort. Rounds are combined by their log-sum-exps.
    Up to one chunk of rows, all see all.

    Args:
        qk: ``(B, H, S, D)``.
        v: ``(B, H, S, Dv)``.
        rounds, buckets, seed: See :func:`lsh_order`.
        chunk, causal, before, after: See :class:`pkernels.Buckets`.
        lengths: ``(B,)`` real rows; the others give 0.
        order: Of an earlier call; nothing is hashed then.
        options: ``dropout``, ``return_lse`` and ``backend`` as for :func:`pkernels.attention`;
            its ``seed`` of dropout is drawn from torch's generator.

    Returns:
        ``(B, H, S, Dv)``, or ``(out, lse)``.

    Time and memory are linear in S: no tensor has an element per pair, or per row and round,
    but for the order.

    Example:
        >>> qk, v = torch.randn(2, 1, 2, 100, 16)
        >>> lsh_attention(qk, v, rounds=2, buckets=4, chunk=16, causal=True).shape
        torch.Size([1, 2, 100, 16])
    """
    check_tensors(qk, qk, v)
    size = qk.shape[2]
    key = unit_length(qk)
    if size <= chunk:
        rows = torch.arange(size, dtype=torch.int32, device=qk.device).view(1, 1, 1, size)
        pattern = Buckets(rows, max(1, size), causal, 0, 0, LAST_RESORT)
    else:
        if order is None:
            mask = None
            if lengths is not None:
                mask = torch.arange(size, device=qk.device) < lengths.to(qk.device)[:, None]
            order = lsh_order(
                qk, rounds=rounds, buckets=buckets, chunk=chunk, seed=seed, mask=mask, backend=options.get("backend")
            )
        pattern = Buckets(order, chunk, causal, before, after, LAST_RESORT)
    return attention(qk, key, v, pattern, scale=1.0, lengths=lengths, **options)


def unit_length(x: Tensor) -> Tensor:
    """``x / sqrt(mean(x**2) + 1e-6) / sqrt(D)``: rows of length 1.

    Example:
        >>> unit_length(torch.tensor([[3.0, 4.0]])).norm(dim=-1).round(decimals=4).tolist()
        [1.0]
    """
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * x.shape[-1] ** -0.5).to(x.dtype)


def local_order(rows: int, chunk: int, mask: Tensor | None = None, device: torch.device | None = None) -> Tensor:
    """Rows as they stand, for chunked local attention: ``(B or 1, 1, 1, N)`` int32.

    Args:
        mask: ``(B, rows)`` booleans: the real rows, which keep their places.

    Example:
        >>> local_order(3, 2).tolist()
        [[[[0, 1, 2, -1]]]]
    """
    device = mask.device if mask is not None else device
    order = torch.arange(rows, dtype=torch.int32, device=device)[None]
    order = order if mask is None else torch.where(mask, order, -1).to(torch.int32)
    return torch.nn.functional.pad(order, (0, -rows % chunk), value=-1)[:, None, None]
