"""The public op and its named forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import ops
from .added import added
from .bias import Bias, tensors_of
from .blocks import Blocks
from .buckets import Buckets
from .checks import check_numbers, check_tensors
from .merge import merge
from .patterns import INF, Band, window
from .patterns import causal as _causal
from .patterns import dense as _dense
from .problem import Pattern
from .sequences import Spans, spans

Result = Tensor | tuple[Tensor, Tensor]
"""``out``, or ``(out, lse)`` where the LSE is asked for."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern = _dense,
    bias: Bias | None = None,
    *,
    scale: float | None = None,
    lengths: object = None,
    offsets: object = None,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Result:
    """Fused attention over a pattern, differentiable in q, k, v, the bias and the LSE.

    Args:
        q: ``(B, H, Sq, D)``, float32, bfloat16 or float16 (float64 in the reference), any
            strides. D from 1 to 256.
        k: ``(B, Hkv, Sk, D)``; H is a multiple of Hkv (grouped queries: query head h reads
            key head ``h // (H // Hkv)``).
        v: ``(B, Hkv, Sk, Dv)``; Dv may differ from D.
        pattern: Which pairs are kept: a ``Band``, on positions aligned bottom-right; ``Blocks``,
            on raw rows; or ``Buckets``, for Sq == Sk.
        bias: Added to the scaled scores: a ``Distance``, a ``Dense`` or, but not with ``Buckets``,
            a ``Relative``.
        scale: Factor of q·k, ``1 / sqrt(D)`` if not given.
        lengths: ``(B,)`` integers: the real keys of each batch row, and the real queries too
            if Sq == Sk. Or a pair ``(query_lengths, key_lengths)``.
        offsets: ``(B + 1,)`` integers, or a pair: packed sequences; q, k and v then have
            batch size 1 and all rows in one dimension.
        dropout: Probability in [0, 1) of dropping an attention weight (in steps of 2**-16);
            kept ones are divided by ``1 - dropout``.
        seed: Seed of the dropout; drawn from torch's generator if not given. Same seed, same
            bits, on every backend.
        return_lse: Also return the natural log-sum-exp of the scores.
        backend: "reference", "cpu", "triton" or "cuda"; by default the best that supports the call.

    Returns:
        ``out`` of shape ``(B, H, Sq, Dv)`` in q's dtype; with ``return_lse`` also ``lse`` of
        shape ``(B, H, Sq)``, float32. Rows that keep no key give 0, ``-inf`` and zero
        gradients.

    Raises:
        ValueError: Naming the argument, what was given and what is allowed.
        NotImplementedError: If the named backend cannot do it, with the reason.

    The softmax and all sums run in float32. Results are deterministic: repeated runs are
    bitwise equal (on the CPU, for a given number of threads).

    Algorithm: FlashAttention (Dao et al. 2022, arXiv:2205.14135; Dao 2023,
    arXiv:2307.08691).

    Example:
        >>> q, k, v = (torch.randn(2, 4, 100, 64) for _ in range(3))
        >>> attention(q, k, v, window(16), lengths=torch.tensor([100, 37])).shape
        torch.Size([2, 4, 100, 64])
    """
    if bias is None and lengths is None and offsets is None and dropout == 0:
        done = ops.plain(q, k, v, pattern, scale, backend)
        if done is not None:
            return done if return_lse else done[0]
    check_tensors(q, k, v)
    if not isinstance(pattern, (Band, Blocks, Buckets)):
        raise ValueError(f"pattern: a Band, Blocks or Buckets is allowed, got {pattern!r}")
    check_numbers(scale, dropout)
    rows = spans(q, k, lengths, offsets)
    batch = rows.batch(q.shape[0])
    biases, zero = added(bias, q, k, rows, batch)
    _refuse_forward_mode(q, k, v, *(() if bias is None else tensors_of(bias)))
    chosen = ops.choose(backend, q, k, v, pattern, bias)
    operator, tensors, numbers, rows = _described(pattern, q, k, rows, batch, chosen)
    out, lse = operator(
        q, k, v, *biases, *tensors, rows.q, rows.k, _seed(seed, q) if dropout > 0 else None, *numbers,
        zero, rows.packed, scale, dropout, chosen,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def _described(
    pattern: Pattern, q: Tensor, k: Tensor, rows: Spans, batch: int, backend: str
) -> tuple[Any, tuple, tuple, Spans]:
    """The pattern's operator, its tensors and its numbers, and the spans that are left to say."""
    if isinstance(pattern, Band):
        columns = 0 if isinstance(pattern.columns, Tensor) else pattern.columns
        numbers = (pattern.left, pattern.right, columns, pattern.rows, pattern.dilation)
        return ops.band, (_prefix(pattern, q, batch),), numbers, rows
    if rows.packed:
        raise ValueError(f"offsets: packed sequences are allowed with a Band alone, got {type(pattern).__name__}")
    pattern = pattern.on(q.device)
    if isinstance(pattern, Blocks):
        pattern.check(q.shape[1], q.shape[2], k.shape[2])
        back = pattern.transposed(-(-k.shape[2] // pattern.size)) if backend in ("triton", "cuda") else (None,) * 3
        return ops.blocks, (*pattern.lists, *back), (pattern.size,), rows
    pattern.check(batch, q.shape[1], q.shape[2], k.shape[2])
    for spans_ in (rows.q, rows.k):
        pattern = pattern if spans_ is None else pattern.within(spans_[:, 1])
    chunks = (pattern.chunk, pattern.causal, pattern.before, pattern.after, pattern.own)
    return ops.buckets, (pattern.order,), chunks, Spans(None, None, False)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, **options: Any) -> Result:
    """Dense or causal attention (Dao et al. 2022, arXiv:2205.14135).

    ``options`` and shapes as for :func:`attention`. ``causal`` is aligned bottom-right.

    Example:
        >>> q = torch.randn(1, 2, 5, 16)
        >>> flash_attention(q, q, q, causal=True).shape
        torch.Size([1, 2, 5, 16])
    """
    return attention(q, k, v, _causal if causal else _dense, **options)


def sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int | None = None, **options: Any
) -> Result:
    """Attention to ``left`` keys back and ``right`` ahead (``left`` if not given), the query's
    own included (Beltagy et al. 2020, arXiv:2004.05150, section 3.1).

    Example:
        >>> q = torch.randn(1, 2, 50, 16)
        >>> sliding_window_attention(q, q, q, 8).shape
        torch.Size([1, 2, 50, 16])
    """
    return attention(q, k, v, window(left, right), **options)


def dilated_attention(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int | None = None, *, dilation: int, **options: Any
) -> Result:
    """A sliding window whose steps are ``dilation`` apart: ``left`` keys back reach
    ``left * dilation`` positions (Beltagy et al. 2020, section 3.1, "Dilated sliding window").

    Example:
        >>> q = torch.randn(1, 2, 50, 16)
        >>> dilated_attention(q, q, q, 4, dilation=3).shape
        torch.Size([1, 2, 50, 16])
    """
    return attention(q, k, v, window(left, right, dilation=dilation), **options)


def _refuse_forward_mode(*tensors: Tensor) -> None:
    # The operators have no forward-mode formula, and torch would take their tangents for zero.
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return
    if any(forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError("forward-mode differentiation (jvp): attention has reverse mode alone")


def _prefix(pattern: Band, q: Tensor, batch: int) -> Tensor | None:
    columns = pattern.columns
    if not isinstance(columns, Tensor):
        return None
    if columns.shape != (batch,):
        raise ValueError(f"pattern: columns of shape ({batch},) are allowed, got {tuple(columns.shape)}")
    if not torch.compiler.is_compiling() and bool((columns < 0).any()):
        raise ValueError(f"pattern: columns must not be negative, got {columns.tolist()}")
    return columns.to(device=q.device, dtype=torch.int32)


def _seed(seed: int | Tensor | None, q: Tensor) -> Tensor:
    if seed is None:
        return torch.randint(2**62, (1,), dtype=torch.int64, device=q.device)
    if isinstance(seed, Tensor):
        if seed.numel() != 1 or seed.dtype != torch.int64:
            raise ValueError(f"seed: an int64 tensor of one element is allowed, got {seed.dtype}, {tuple(seed.shape)}")
        return seed.reshape(1).to(q.device)
    if isinstance(seed, bool) or not isinstance(seed, (int, torch.SymInt)) or not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed: an int of 64 bits is allowed, got {seed!r}")
    return torch.full((1,), seed, dtype=torch.int64, device=q.device)


__all__ = [
    "INF",
    "attention",
    "dilated_attention",
    "flash_attention",
    "merge",
    "sliding_window_attention",
]
