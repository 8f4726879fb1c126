"""A bias as the operators take it, checked against the call."""

from __future__ import annotations

import torch
from torch import Tensor

from .bias import Bias, Dense, Distance, Relative, tensors_of
from .problem import accumulator
from .sequences import Spans

Biases = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""``(distance, dense, query, table)``."""


def added(bias: Bias | None, q: Tensor, k: Tensor, rows: Spans, batch: int) -> tuple[Biases, int]:
    """The tensors of a bias, and the column of ``j == i`` of one by distance.

    Raises:
        ValueError: Naming what was given and what is allowed.
    """
    if bias is None:
        return (None,) * 4, 0
    if not isinstance(bias, (Distance, Dense, Relative)):
        raise ValueError(f"bias: a Distance, Dense, Relative or None is allowed, got {type(bias).__name__}")
    for x in tensors_of(bias):
        if x.device != q.device:
            raise ValueError(f"bias: q's device {q.device} is allowed, got {x.device}")
    if isinstance(bias, Dense):
        return (None, _dense(bias, q, k, rows, batch), None, None), 0
    zero = _check_width(bias, q, k, rows)
    if isinstance(bias, Distance):
        return (bias.values.to(accumulator(q)).expand(q.shape[1], -1), None, None, None), zero
    for name, x in (("query", bias.query), ("table", bias.table)):
        if x.dtype != q.dtype:
            raise ValueError(f"bias: a Relative {name} in q's dtype {q.dtype} is allowed, got {x.dtype}")
    if bias.query.shape[:3] != q.shape[:3]:
        want, found = tuple(q.shape[:3]), tuple(bias.query.shape)
        raise ValueError(f"bias: a Relative query of shape {want} and Dr is allowed, got {found}")
    return (None, None, bias.query, bias.table.expand(q.shape[1], -1, -1)), zero


def _check_width(bias: Distance | Relative, q: Tensor, k: Tensor, rows: Spans) -> int:
    """Where ``j == i`` lies along the distances."""
    heads, sq, sk = q.shape[1], q.shape[2], k.shape[2]
    name, values = ("values", bias.values) if isinstance(bias, Distance) else ("table", bias.table)
    width = values.shape[1]
    if values.shape[0] not in (1, heads) or (width % 2 == 0 if rows.packed else width != max(sq + sk - 1, 0)):
        # Not before: a symbolic length that is printed becomes a constant.
        want = f"({heads} or 1, {'an odd number' if rows.packed else max(sq + sk - 1, 0)}{', Dr' * (values.dim() - 2)})"
        of = type(bias).__name__
        raise ValueError(f"bias: {of} {name} of shape {want} are allowed, got {tuple(values.shape)}")
    if rows.packed:
        _check_reach(rows, (width // 2 + 1, width // 2 + 1))
    return width // 2 if rows.packed else max(sq - 1, 0)


def _dense(bias: Dense, q: Tensor, k: Tensor, rows: Spans, batch: int) -> Tensor:
    heads, sq, sk = q.shape[1], q.shape[2], k.shape[2]
    values = bias.values[(None,) * (4 - bias.values.dim())]
    limits = (batch, heads, sq, sk)
    fits = all(
        n in (1, limit) or (rows.packed and i > 1 and n <= limit)
        for i, (n, limit) in enumerate(zip(values.shape, limits, strict=True))
    )
    if not fits:
        raise ValueError(f"bias: Dense values that broadcast to {limits} are allowed, got {tuple(bias.values.shape)}")
    if rows.packed:
        _check_reach(rows, tuple(n if n > 1 else limit for n, limit in zip(values.shape[2:], (sq, sk), strict=True)))
    return values if values.dtype == q.dtype else values.to(accumulator(q))


def _check_reach(rows: Spans, reach: tuple[int, ...]) -> None:
    if torch.compiler.is_compiling():
        return
    for name, span, size in zip(("queries", "keys"), (rows.q, rows.k), reach, strict=True):
        longest = int(span[:, 1].max()) if span is not None and len(span) else 0
        if longest > size:
            raise ValueError(f"bias: must reach the longest sequence, {longest} {name}; its values reach {size}")
