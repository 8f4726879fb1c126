"""The two operators of a pattern's shape: schema, shape inference and autograd, once for all.

``pkernels::<shape>_fwd`` takes q, k, v, the biases, the tensors of the pattern, spans and seed,
then the numbers of the pattern and those of the call; ``<shape>_bwd`` takes ``dout, dlse`` and
``out, lse`` beside them, and whether the biases want gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..checks import check_gradients, check_problem, check_tensors
from ..problem import Pattern, Problem, accumulator, rows_like
from .backends import backend as load
from .backends import choose
from .registration import differentiable

_QKV = 3
_TENSORS = 8  # q, k, v, distance, dense, q_spans, k_spans, seed


@dataclass(frozen=True)
class Shape:
    """What an operator says of one kind of pattern.

    Attributes:
        name: "band" for ``pkernels::band_fwd``; backends have a module of this name.
        tensors, numbers: Schema of what describes a pattern, such as ``("Tensor order",)``.
        pattern: Makes the pattern of those, in this order.
    """

    name: str
    tensors: tuple[str, ...]
    numbers: tuple[str, ...]
    pattern: Callable[..., Pattern]

    def operator(self) -> Callable[..., tuple[Tensor, ...]]:
        """Registers both operators; returns the forward."""
        both = ["Tensor? distance", "Tensor? dense", *self.tensors, "Tensor? q_spans", "Tensor? k_spans"]
        both += ["Tensor? seed", *self.numbers, "SymInt zero", "bool packed", "float? scale", "float dropout"]
        call = ", ".join([*both, "str backend"])
        differentiable(
            f"{self.name}_bwd",
            f"(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, {call}, "
            "bool distance_grad, bool dense_grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
            self.backward,
            _fake_backward,
            lambda ctx, inputs, outputs: None,
            self._refuse,
        )
        return differentiable(
            f"{self.name}_fwd",
            f"(Tensor q, Tensor k, Tensor v, {call}) -> (Tensor, Tensor)",
            self.forward,
            _fake_forward,
            self._save,
            self._differentiate,
        )

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        """``(out, lse)``."""
        problem, backend = self._problem(q, rest), rest[-1]
        return self._ready(backend, q, k, v, problem).forward(q, k, v, problem)

    def backward(
        self, dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        """``(dq, dk, dv, ddistance, ddense)``; the last two are empty if not asked for."""
        *given, distance_grad, dense_grad = rest
        problem, backend = self._problem(q, given, distance_grad, dense_grad), given[-1]
        module = self._ready(backend, q, k, v, problem)
        check_gradients(q, v, dout, dlse, out, lse)
        dq, dk, dv, ddistance, ddense = module.backward(dout, dlse, q, k, v, out, lse, problem)
        return dq, dk, dv, _like(ddistance, problem.distance, q), _like(ddense, problem.dense, q)

    def _problem(self, q: Tensor, rest: Any, distance_grad: bool = False, dense_grad: bool = False) -> Problem:
        tensors, numbers = len(self.tensors), len(self.numbers)
        distance, dense = rest[:2]
        q_spans, k_spans, seed = rest[2 + tensors : 5 + tensors]
        zero, packed, scale, dropout, _ = rest[5 + tensors + numbers :]
        pattern = self.pattern(*rest[2 : 2 + tensors], *rest[5 + tensors : 5 + tensors + numbers])
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return Problem(
            pattern, scale, distance, zero, dense, q_spans, k_spans, packed, dropout, seed, distance_grad, dense_grad
        )

    def _ready(self, backend: str, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> ModuleType:
        """The backend's module, once it may trust its arguments."""
        check_tensors(q, k, v)
        check_problem(q, k, v, problem)
        return load(choose(backend, q, k, v), self.name)

    def _refuse(self, *_: Any) -> tuple:
        raise NotImplementedError(f"a second derivative of attention: {self.name}_bwd has none")

    def _save(self, ctx: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        tensors = _TENSORS + len(self.tensors)
        ctx.save_for_backward(*inputs[:_QKV], *outputs, *inputs[_QKV:tensors])
        ctx.settings = inputs[tensors:]

    def _differentiate(self, ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
        q, k, v, out, lse, distance, dense, *rest = ctx.saved_tensors
        untouched = (None,) * (_TENSORS + len(self.tensors) + len(ctx.settings))
        if dout is None and dlse is None:
            return untouched
        distance_grad = distance is not None and ctx.wanted[3]
        dense_grad = dense is not None and ctx.wanted[4]
        dq, dk, dv, ddistance, ddense = getattr(torch.ops.pkernels, f"{self.name}_bwd")(
            torch.zeros_like(out) if dout is None else dout, dlse, q, k, v, out, lse, distance, dense, *rest,
            *ctx.settings, distance_grad, dense_grad,
        )  # fmt: skip
        biases = (ddistance if distance_grad else None, ddense if dense_grad else None)
        return (dq, dk, dv, *biases, *untouched[5:])


def _like(gradient: Tensor | None, of: Tensor | None, q: Tensor) -> Tensor:
    return q.new_empty(0) if gradient is None or of is None else gradient.to(of.dtype)


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return rows_like(q, v.shape[-1]), q.new_empty(q.shape[:-1], dtype=accumulator(q))


def _fake_backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    distance: Tensor | None, dense: Tensor | None, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    distance_grad, dense_grad = rest[-2:]
    return (
        *(rows_like(x, x.shape[-1]) for x in (q, k, v)),
        q.new_empty(distance.shape, dtype=distance.dtype) if distance_grad and distance is not None else q.new_empty(0),
        q.new_empty(dense.shape, dtype=dense.dtype) if dense_grad and dense is not None else q.new_empty(0),
    )
