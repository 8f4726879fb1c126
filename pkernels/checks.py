"""What every backend may rely on: checked once, before any of them runs.

Shapes, dtypes and devices only, so nothing here waits for a GPU; the values of spans are
checked where they are read (:meth:`pkernels.problem.Problem.span_lists`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .blocks import Blocks
from .patterns import Band
from .problem import Problem, accumulator

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTEGERS = (torch.int32, torch.int64)


def check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q, k and v of one call.

    Raises:
        ValueError: Naming the tensor, what was given and what is allowed.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}: a tensor is allowed, got {type(x).__name__}")
        if x.dim() != 4:
            raise ValueError(f"{name}: shape (B, H, S, D) is allowed, got {tuple(x.shape)}")
        if x.dtype not in DTYPES:
            raise ValueError(f"{name}: float32, bfloat16, float16 or float64 is allowed, got {x.dtype}")
        if x.dtype != q.dtype or x.device != q.device:
            raise ValueError(
                f"{name}: q's dtype and device are allowed, got {x.dtype} on {x.device} beside {q.dtype} on {q.device}"
            )
    (b, h, _, d), (kb, kh, rows, kd), (vb, vh, vrows, vd) = q.shape, k.shape, v.shape
    wrong = None
    if (kb, kh, rows) != (vb, vh, vrows):
        wrong = "v: k's batch, heads and rows are allowed"
    elif b != kb:
        wrong = "k: q's batch size is allowed"
    elif d != kd:
        wrong = "k: q's head dimension is allowed"
    elif d == 0 or vd == 0:
        wrong = "q, v: a head dimension of at least 1 is allowed"
    elif (kh == 0 and h != 0) or (kh and h % kh):
        wrong = "k: a number of heads that divides q's is allowed"
    if wrong:
        raise ValueError(f"{wrong}, got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}")


def check_numbers(scale: float | None, dropout: float) -> None:
    """The numbers of one call.

    Raises:
        ValueError: Naming the number, what was given and what is allowed.
    """
    numbers = (int, float, torch.SymInt, torch.SymFloat)
    if scale is not None and not (isinstance(scale, numbers) and -math.inf < scale < math.inf):
        raise ValueError(f"scale: a finite number is allowed, got {scale!r}")
    if not (isinstance(dropout, numbers) and 0.0 <= dropout < 1.0):
        raise ValueError(f"dropout: in [0, 1) is allowed, got {dropout!r}")


def check_problem(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> None:
    """Everything of a call beside q, k and v.

    Raises:
        ValueError: Naming the argument, what was given and what is allowed.
    """
    batch = problem.batch(q)
    _check_pattern(q, k, problem, batch)
    if problem.packed and (q.shape[0] != 1 or problem.q_spans is None or problem.k_spans is None):
        raise ValueError(
            f"packed: spans of queries and keys in one batch row are allowed, got {q.shape[0]} batch rows, "
            f"q_spans {_shape(problem.q_spans)}, k_spans {_shape(problem.k_spans)}"
        )
    for name in ("q_spans", "k_spans"):
        _check(name, getattr(problem, name), q, (torch.int32,), [(batch,), (2,)])
    wide = accumulator(q)
    heads, sq, sk = q.shape[1], q.shape[2], k.shape[2]
    _check("distance", problem.distance, q, (wide,), [(heads,), None])
    rows, columns = (None, None) if problem.packed else ((1, sq), (1, sk))
    _check("dense", problem.dense, q, (q.dtype, wide), [(1, batch), (1, heads), rows, columns])
    _check_relative(q, problem)
    if not problem.packed:
        problem.check_reach(sq, sk)
    check_numbers(problem.scale, problem.dropout)
    if problem.dropout > 0 and problem.seed is None:
        raise ValueError("seed: an int64 tensor of one element is needed for dropout, got None")
    _check("seed", problem.seed, q, (torch.int64,), [(1,)])


def _check_pattern(q: Tensor, k: Tensor, problem: Problem, batch: int) -> None:
    pattern, heads, sq, sk = problem.pattern, q.shape[1], q.shape[2], k.shape[2]
    if isinstance(pattern, Band):
        if isinstance(pattern.columns, Tensor):
            _check("prefix", pattern.columns, q, _INTEGERS, [(batch,)])
        return
    if problem.packed:
        raise ValueError(f"offsets: packed sequences are allowed with a Band alone, got {type(pattern).__name__}")
    if isinstance(pattern, Blocks):
        pattern.check(heads, sq, sk)
        for name, x in pattern.lists._asdict().items():
            _check(name, x, q, (torch.int32,), [None] * x.dim())
        return
    pattern.check(batch, heads, sq, sk)
    _check("order", pattern.order, q, (torch.int32,), [None] * 4)
    if any(x is not None for x in (problem.distance, problem.dense, problem.query, problem.table)):
        raise ValueError("bias: none is allowed with Buckets")
    if problem.q_spans is not None or problem.k_spans is not None:
        raise ValueError("spans: none are allowed with Buckets; rows that are not real are -1 in the order")


def _check_relative(q: Tensor, problem: Problem) -> None:
    query, table = problem.query, problem.table
    _check("query", query, q, (q.dtype,), [*((size,) for size in q.shape[:3]), None])
    _check("table", table, q, (q.dtype,), [(q.shape[1],), None, None])
    width, rows = (None if x is None else x.shape[-1] for x in (query, table))
    if width != rows or width == 0:
        raise ValueError(
            "query, table: both or none, of the same last dimension, are allowed, got "
            f"query {_shape(query)}, table {_shape(table)}"
        )
    if sum(x is not None for x in (problem.distance, problem.dense, query)) > 1:
        raise ValueError("distance, dense, query: one bias is allowed, got more")


def check_gradients(q: Tensor, v: Tensor, dout: Tensor, dlse: Tensor | None, out: Tensor, lse: Tensor) -> None:
    """The outputs of a call and their gradients.

    Raises:
        ValueError: Naming the tensor, what was given and what is allowed.
    """
    rows = [(size,) for size in q.shape[:3]]
    for name, x in (("dout", dout), ("out", out)):
        _check(name, x, q, (q.dtype,), [*rows, (v.shape[3],)])
    for name, y in (("dlse", dlse), ("lse", lse)):
        _check(name, y, q, (accumulator(q),), rows)


def _check(
    name: str, x: Tensor | None, q: Tensor, dtypes: tuple[torch.dtype, ...], sizes: Sequence[tuple[int, ...] | None]
) -> None:
    """``sizes``: the numbers allowed of each dimension, None for any."""
    if x is None:
        return
    if x.dtype not in dtypes or x.device != q.device:
        allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(dtypes))
        raise ValueError(f"{name}: {allowed} on {q.device} is allowed, got {x.dtype} on {x.device}")
    fits = x.dim() == len(sizes) and all(s is None or n in s for n, s in zip(x.shape, sizes, strict=True))
    if not fits:
        allowed = ", ".join("any" if s is None else " or ".join(map(str, dict.fromkeys(s))) for s in sizes)
        raise ValueError(f"{name}: shape ({allowed}) is allowed, got {tuple(x.shape)}")


def _shape(x: Tensor | None) -> str:
    return "None" if x is None else str(tuple(x.shape))
