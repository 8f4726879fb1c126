"""The two operators of a pattern's shape: schema, shape inference and autograd, once for all.

``pkernels::<shape>_fwd`` takes q, k, v, the biases, the tensors of the pattern, spans and seed,
then the numbers of the pattern and those of the call; ``<shape>_bwd`` takes ``dout, dlse`` and
``out, lse`` beside them, and whether the biases want gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..bias import Relative
from ..checks import check_gradients, check_problem, check_tensors
from ..problem import Pattern, Problem, accumulator, rows_like
from .backends import backend as load
from .backends import choose
from .registration import REGISTERED, differentiable

_QKV = 3
_BIASES = 4  # distance, dense, query, table
_MOST_KNOWN = 1000
_TENSORS = _QKV + _BIASES + 3  # and q_spans, k_spans, seed


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
    known: dict[tuple, tuple[Problem, ModuleType]] = field(default_factory=dict, repr=False, compare=False)

    def operator(self) -> Callable[..., tuple[Tensor, ...]]:
        """Registers both operators; returns the forward."""
        both = ["Tensor? distance", "Tensor? dense", "Tensor? query", "Tensor? table", *self.tensors]
        both += [
            "Tensor? q_spans",
            "Tensor? k_spans",
            "Tensor? seed",
            *self.numbers,
            "SymInt zero",
            "bool packed",
            "float? scale",
            "float dropout",
        ]
        call = ", ".join([*both, "str backend"])
        differentiable(
            f"{self.name}_bwd",
            f"(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, {call}, "
            "bool distance_grad, bool dense_grad, bool query_grad, bool table_grad) -> "
            "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
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
        problem, module = self._prepared(q, k, v, rest)
        return module.forward(q, k, v, problem)

    def _prepared(
        self, q: Tensor, k: Tensor, v: Tensor, rest: Any, wanted: tuple[bool, ...] = (False,) * _BIASES
    ) -> tuple[Problem, ModuleType]:
        """What a call asks for, checked, and the module that does it. A call without other tensors is a
        matter of sizes and numbers: what was found once is found again."""
        tensors = _BIASES + len(self.tensors) + 3
        if any(x is not None for x in rest[:tensors]):
            problem = self._problem(q, rest, wanted)
            return problem, self._ready(rest[-1], q, k, v, problem)
        facts = (*((x.shape, x.dtype, x.device) for x in (q, k, v)), rest[tensors:])
        found = self.known.get(facts)
        if found is None:
            problem = self._problem(q, rest, wanted)
            found = problem, self._ready(rest[-1], q, k, v, problem)
            if len(self.known) == _MOST_KNOWN:
                self.known.clear()
            self.known[facts] = found
        return found

    def backward(
        self, dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        """``(dq, dk, dv, ddistance, ddense, dquery, dtable)``; those of biases are empty if not asked for."""
        given, wanted = rest[:-_BIASES], rest[-_BIASES:]
        problem, module = self._prepared(q, k, v, given, wanted)
        check_gradients(q, v, dout, dlse, out, lse)
        dq, dk, dv, *dbiases = module.backward(dout, dlse, q, k, v, out, lse, problem)
        return dq, dk, dv, *(_like(dx, x, q) for dx, x in zip(dbiases, given[:_BIASES], strict=True))

    def _problem(self, q: Tensor, rest: Any, wanted: tuple[bool, ...]) -> Problem:
        tensors, numbers = _BIASES + len(self.tensors), len(self.numbers)
        distance, dense, query, table = rest[:_BIASES]
        q_spans, k_spans, seed = rest[tensors : tensors + 3]
        zero, packed, scale, dropout, _ = rest[tensors + 3 + numbers :]
        pattern = self.pattern(*rest[_BIASES:tensors], *rest[tensors + 3 : tensors + 3 + numbers])
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        return Problem(
            pattern, scale, distance, zero, dense, query, table, q_spans, k_spans, packed, dropout, seed, *wanted
        )

    def _ready(self, backend: str, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> ModuleType:
        """The backend's module, once it may trust its arguments."""
        check_tensors(q, k, v)
        check_problem(q, k, v, problem)
        both = problem.query is not None and problem.table is not None
        relative = Relative(problem.query, problem.table) if both else None  # type: ignore[arg-type]
        return load(choose(backend, q, k, v, problem.pattern, relative), self.name)

    def _refuse(self, *_: Any) -> tuple:
        raise NotImplementedError(f"a second derivative of attention: {self.name}_bwd has none")

    def _save(self, ctx: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        tensors = _TENSORS + len(self.tensors)
        ctx.save_for_backward(*inputs[:_QKV], *outputs, *inputs[_QKV:tensors])
        ctx.settings = inputs[tensors:]

    def _differentiate(self, ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
        q, k, v, out, lse, *rest = ctx.saved_tensors
        untouched = (None,) * (_TENSORS + len(self.tensors) + len(ctx.settings))
        if dout is None and dlse is None:
            return untouched
        wanted = [x is not None and asked for x, asked in zip(rest[:_BIASES], ctx.wanted[_QKV:], strict=False)]
        dq, dk, dv, *dbiases = getattr(REGISTERED, f"{self.name}_bwd")(
            torch.zeros_like(out) if dout is None else dout, dlse, q, k, v, out, lse, *rest, *ctx.settings, *wanted
        )
        biases = (dx if asked else None for dx, asked in zip(dbiases, wanted, strict=True))
        return (dq, dk, dv, *biases, *untouched[_QKV + _BIASES :])


def _like(gradient: Tensor | None, of: Tensor | None, q: Tensor) -> Tensor:
    return q.new_empty(0) if gradient is None or of is None else gradient.to(of.dtype)


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return rows_like(q, v.shape[-1]), q.new_empty(q.shape[:-1], dtype=accumulator(q))


def _fake_backward(
    dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    distance, dense, query, table = (
        x if asked else None for x, asked in zip(rest[:_BIASES], rest[-_BIASES:], strict=True)
    )
    sums = (q.new_empty(0 if x is None else x.shape, dtype=(q if x is None else x).dtype) for x in (distance, dense))
    return (
        *(rows_like(x, x.shape[-1]) for x in (q, k, v)),
        *sums,
        q.new_empty(0) if query is None else rows_like(query, query.shape[-1]),
        q.new_empty(0 if table is None else table.shape),
    )
