"""``pkernels::band_fwd`` and ``pkernels::band_bwd``."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..checks import check_gradients, check_problem, check_tensors
from ..problem import Problem, accumulator, rows_like
from .backends import backend as load
from .backends import choose
from .registration import differentiable


def band_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    distance: Tensor | None,
    dense: Tensor | None,
    prefix: Tensor | None,
    q_spans: Tensor | None,
    k_spans: Tensor | None,
    seed: Tensor | None,
    left: int,
    right: int,
    columns: int,
    rows: int,
    dilation: int,
    zero: int,
    packed: bool,
    scale: float | None,
    dropout: float,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Attention over a Band: ``(out, lse)``. Arguments as in :class:`pkernels.problem.Problem`."""
    problem = Problem(
        left, right, columns, rows, dilation, _scale(scale, q), prefix, distance, zero, dense, q_spans, k_spans,
        packed, dropout, seed,
    )  # fmt: skip
    return _ready(backend, q, k, v, problem).forward(q, k, v, problem)


def _fake(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return rows_like(q, v.shape[-1]), q.new_empty(q.shape[:-1], dtype=accumulator(q))


@torch.library.custom_op("pkernels::band_bwd", mutates_args=())
def band_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    distance: Tensor | None,
    dense: Tensor | None,
    prefix: Tensor | None,
    q_spans: Tensor | None,
    k_spans: Tensor | None,
    seed: Tensor | None,
    left: int,
    right: int,
    columns: int,
    rows: int,
    dilation: int,
    zero: int,
    packed: bool,
    scale: float | None,
    dropout: float,
    backend: str,
    distance_grad: bool,
    dense_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients ``(dq, dk, dv, ddistance, ddense)``; the last two are empty if not asked for."""
    problem = Problem(
        left, right, columns, rows, dilation, _scale(scale, q), prefix, distance, zero, dense, q_spans, k_spans,
        packed, dropout, seed, distance_grad, dense_grad,
    )  # fmt: skip
    module = _ready(backend, q, k, v, problem)
    check_gradients(q, v, dout, dlse, out, lse)
    dq, dk, dv, ddistance, ddense = module.backward(dout, dlse, q, k, v, out, lse, problem)
    none = q.new_empty(0)
    return (
        dq,
        dk,
        dv,
        none if ddistance is None else ddistance.to(distance.dtype),  # type: ignore[union-attr]
        q.new_empty(0) if ddense is None else ddense.to(dense.dtype),  # type: ignore[union-attr]
    )


@band_backward.register_fake
def _(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    distance: Tensor | None, dense: Tensor | None, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    distance_grad, dense_grad = rest[-2:]
    return (
        *(rows_like(x, x.shape[-1]) for x in (q, k, v)),
        q.new_empty(distance.shape, dtype=distance.dtype) if distance_grad and distance is not None else q.new_empty(0),
        q.new_empty(dense.shape, dtype=dense.dtype) if dense_grad and dense is not None else q.new_empty(0),
    )


def _ready(backend: str, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> ModuleType:
    """The backend's module, once it may trust its arguments."""
    check_tensors(q, k, v)
    check_problem(q, k, v, problem)
    return load(choose(backend, q, k, v), "band")


def _scale(scale: float | None, q: Tensor) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _save(ctx: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], *outputs, *inputs[3:9])
    ctx.settings = inputs[9:]


def _differentiate(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
    q, k, v, out, lse, distance, dense, *rest = ctx.saved_tensors
    untouched = (None,) * (3 + 6 + len(ctx.settings))
    if dout is None and dlse is None:
        return untouched
    distance_grad = distance is not None and ctx.wanted[3]
    dense_grad = dense is not None and ctx.wanted[4]
    dq, dk, dv, ddistance, ddense = band_backward(
        torch.zeros_like(out) if dout is None else dout, dlse, q, k, v, out, lse, distance, dense, *rest,
        *ctx.settings, distance_grad, dense_grad,
    )  # fmt: skip
    biases = (ddistance if distance_grad else None, ddense if dense_grad else None)
    return (dq, dk, dv, *biases, *untouched[5:])


band = differentiable(band_fwd, _fake, _save, _differentiate)
