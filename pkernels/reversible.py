"""Reversible residual layers: activations are rebuilt in the backward instead of kept
(Gomez et al. 2017, arXiv:1707.04585, section 3; Kitaev et al. 2020, arXiv:2001.04451, section 3).

    y1 = x1 + f(x2)      y2 = x2 + g(y1)
    x2 = y2 - g(y1)      x1 = y1 - f(x2)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

T = TypeVar("T")


class Reversible(nn.Module):
    """A stack of reversible layers, whose memory for activations does not grow with its depth.

    Args:
        layers: Pairs ``(f, g)`` of modules. Each takes a tensor and the context, and returns a
            tensor of the same shape.

    Called with ``(x1, x2, *context, **context)``, returns ``(y1, y2)``; x1 and x2 have one shape,
    the context goes to every f and g as it is. Gradients flow to x1, x2, the parameters and the
    tensors of the context, through autograd: hooks, ``torch.autograd.grad`` and DDP see them.

    The backward calls f and g again on rebuilt inputs, with the state of the random generators
    and of autocast that they met in the forward; what must not be decided anew on inputs that are
    equal but for rounding, such as the order of LSH buckets, is to be wrapped in :func:`kept`.
    Buffers that f and g change in training mode are changed twice.

    Raises:
        ValueError: Naming the argument, what was given and what is allowed.
        NotImplementedError: If torch.compile traces the stack (compile f and g themselves), if it
            is differentiated with ``create_graph``, or if FSDP2 shards an f or g by itself (call
            ``fully_shard`` on the stack, or on a module around it).

    Example:
        >>> stack = Reversible([(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)) for _ in range(3)])
        >>> y1, y2 = stack(torch.randn(2, 4), torch.randn(2, 4))
        >>> (y1 + y2).sum().backward()
    """

    def __init__(self, layers: Iterable[tuple[nn.Module, nn.Module]]) -> None:
        super().__init__()
        pairs = [tuple(layer) for layer in layers]
        if not pairs or any(len(pair) != 2 or not all(isinstance(m, nn.Module) for m in pair) for pair in pairs):
            raise ValueError(f"layers: one or more pairs (f, g) of modules are allowed, got {pairs!r}")
        self.layers = nn.ModuleList(nn.ModuleList(pair) for pair in pairs)

    def forward(self, x1: Tensor, x2: Tensor, *context: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """See the class."""
        if x1.shape != x2.shape or x1.device != x2.device:
            raise ValueError(
                f"x2: x1's shape and device are allowed, got {tuple(x2.shape)} on {x2.device} beside "
                f"{tuple(x1.shape)} on {x1.device}"
            )
        if torch.compiler.is_compiling():
            raise NotImplementedError(
                "torch.compile: a Reversible rebuilds activations in a backward of its own, which cannot be traced; "
                "compile its f and g instead"
            )
        modules = [module for pair in self.layers for module in cast(nn.ModuleList, pair)]
        if any(map(_sharded, modules)):
            raise NotImplementedError(
                "fully_shard: the Reversible or a module around it is allowed, not its f and g: their parameters "
                "come together after the stack has taken note of them"
            )
        halves = [_Half(module) for module in modules]
        call = _Call(halves, list(context), named)
        tensors = call.tensors()
        if not (torch.is_grad_enabled() and any(x.requires_grad for x in (x1, x2, *tensors))):
            return call.run(x1, x2)
        return _Rebuilt.apply(call, x1, x2, *tensors)


def kept(make: Callable[[], T]) -> T:
    """What ``make()`` returns; inside a :class:`Reversible`, the backward gets the same again.

    Example:
        >>> kept(lambda: torch.tensor([2.0, 1.0]).argsort())
        tensor([1, 0])
    """
    tape = _TAPE.get()
    return make() if tape is None else tape.take(make)


def _sharded(module: nn.Module) -> bool:
    """Whether FSDP2 manages parameters of the module, or of one in it, by themselves."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(inner, FSDPModule) for inner in module.modules())


@dataclass
class _Tape:
    """Results of ``kept`` in the order of their making."""

    outer: _Tape | None = None
    results: list[Any] = field(default_factory=list)
    replay: Iterator[Any] | None = None

    def take(self, make: Callable[[], Any]) -> Any:
        if self.replay is not None:
            return next(self.replay)
        self.results.append(make() if self.outer is None else self.outer.take(make))
        return self.results[-1]


_TAPE: ContextVar[_Tape | None] = ContextVar("tape", default=None)


class _Half:
    """f or g, and what it met in the forward."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def record(self, x: Tensor, context: list[Any], named: dict[str, Any]) -> Tensor:
        kinds = dict.fromkeys(("cpu", x.device.type))
        self.autocast = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
        self.devices = [x.device] if x.is_cuda else []
        self.random = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in self.devices]
        self.tape = _Tape(_TAPE.get())
        with _taping(self.tape):
            y = self.module(x, *context, **named)
        if not isinstance(y, Tensor) or y.shape != x.shape:
            given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"layers: a module that returns shape {tuple(x.shape)} is allowed, got {given}")
        return y

    def again(self, x: Tensor, parameters: dict[str, Tensor], context: list[Any], named: dict[str, Any]) -> Tensor:
        # Parameters are replaced by copies: the hooks of the real ones must run once.
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(self.devices))
            stack.enter_context(_taping(_Tape(replay=iter(self.tape.results))))
            for kind, enabled, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            torch.set_rng_state(self.random[0])
            for device, state in zip(self.devices, self.random[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            return functional_call(self.module, parameters, (x, *context), named)


@contextlib.contextmanager
def _taping(tape: _Tape) -> Iterator[None]:
    token = _TAPE.set(tape)
    try:
        yield
    finally:
        _TAPE.reset(token)


@dataclass
class _Call:
    """One pass through the stack."""

    halves: list[_Half]
    context: list[Any]
    named: dict[str, Any]

    def tensors(self) -> list[Tensor]:
        """Everything that may want a gradient: parameters, each once, and the context."""
        found = [p for half in self.halves for p in half.parameters.values()]
        return list({id(x): x for x in [*found, *self._context_tensors()]}.values())

    def _context_tensors(self) -> list[Tensor]:
        return [x for x in (*self.context, *self.named.values()) if isinstance(x, Tensor) and x.requires_grad]

    def run(self, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
        for f, g in zip(self.halves[::2], self.halves[1::2], strict=True):
            x1 = x1 + f.record(x2, self.context, self.named)
            x2 = x2 + g.record(x1, self.context, self.named)
        return x1, x2

    def undo(self, half: _Half, x: Tensor, dy: Tensor, copies: dict[int, Tensor], sums: dict[int, Tensor]) -> tuple:
        """``(half(x), gradient of x)``; adds the other gradients to ``sums``."""

        def copy(value: Any) -> Any:
            return copies.get(id(value), value) if isinstance(value, Tensor) else value

        context, named = [copy(v) for v in self.context], {key: copy(v) for key, v in self.named.items()}
        ids = [*map(id, half.parameters.values()), *map(id, self._context_tensors())]
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            y = half.again(leaf, {name: copy(p) for name, p in half.parameters.items()}, context, named)
            if not y.requires_grad:  # of nothing that was given
                return y, None
            dx, *rest = torch.autograd.grad(y, [leaf, *(copies[i] for i in ids)], dy.to(y.dtype), allow_unused=True)
        for i, gradient in zip(ids, rest, strict=True):
            if gradient is not None:
                sums[i] = sums[i] + gradient if i in sums else gradient
        return y.detach(), dx


class _Rebuilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, x1: Tensor, x2: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        y1, y2 = call.run(x1, x2)
        ctx.call = call
        ctx.save_for_backward(y1, y2, *tensors)
        return y1, y2

    @staticmethod
    def backward(ctx: Any, dy1: Tensor, dy2: Tensor) -> tuple:
        if torch.is_grad_enabled():
            raise NotImplementedError("create_graph: a Reversible can be differentiated once, its backward has none")
        y1, y2, *_tensors = ctx.saved_tensors
        call: _Call = ctx.call
        copies = {id(x): x.detach().requires_grad_() for x in call.tensors()}
        sums: dict[int, Tensor] = {}
        for f, g in reversed(list(zip(call.halves[::2], call.halves[1::2], strict=True))):
            y, dx = call.undo(g, y1, dy2, copies, sums)
            y2, dy1 = y2 - y, dy1 if dx is None else dy1 + dx
            y, dx = call.undo(f, y2, dy1, copies, sums)
            y1, dy2 = y1 - y, dy2 if dx is None else dy2 + dx
        return None, dy1, dy2, *(sums.get(id(x)) for x in call.tensors())
