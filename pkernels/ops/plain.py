"""A Band and nothing else, on the CPU: in one step from tensors to the kernel, and back.

Through the operator the same call goes into Python four times, and its derivative six, which takes 0.2 ms
where the caches hold something else: as long as the kernel itself for some hundred rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import native
from ..checks import check_numbers, check_tensors
from ..patterns import Band
from ..problem import Pattern
from .backends import choose
from .registration import REGISTERED

_MOST_KNOWN = 1000
_Call = tuple[list[int], int, float]
_known: dict[tuple, _Call | None] = {}


def plain(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float | None, backend: str | None
) -> tuple[Tensor, Tensor] | None:
    """``(out, lse)``; None where more is to be done: a check fails, or somebody looks on."""
    if torch.compiler.is_compiling() or not (type(q) is type(k) is type(v) is Tensor) or _watched():
        return None
    if not (q.is_cpu and k.is_cpu and v.is_cpu):
        return None
    facts = (q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, pattern, scale, backend)
    try:
        call = _known[facts]
    except KeyError:
        if len(_known) == _MOST_KNOWN:
            _known.clear()
        call = _known[facts] = _call(q, k, v, pattern, scale, backend)
    except TypeError:  # no number, pattern or name at all
        return None
    if call is None or not (q.stride(3) == k.stride(3) == v.stride(3) == 1):
        return None
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _Plain.apply(call, q, k, v)
    return native.operators().plain_forward(q, k, v, *call)


class _Plain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = native.operators().plain_forward(q, k, v, *call)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.call = call
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        if dout is None and dlse is None:
            return (None,) * 4
        q, k, v, out, lse = ctx.saved_tensors
        if dout is None:
            dout = torch.zeros_like(out)
        elif dout.stride(3) != 1:
            dout = dout.contiguous()
        if torch.is_grad_enabled():  # to be differentiated again: the operator says what there is to say
            return None, *_through_the_operator(dout, dlse, q, k, v, out, lse, *ctx.call)
        return None, *native.operators().plain_backward(dout, dlse, q, k, v, out, lse, *ctx.call)


def _through_the_operator(*given: Any) -> tuple[Tensor, ...]:
    *tensors, (left, right, rows, dilation), columns, scale = given
    nothing, numbers = (None,) * 8, (left, right, columns, rows, dilation)
    backward = REGISTERED.band_bwd
    return backward(*tensors, *nothing, *numbers, 0, False, scale, 0.0, "cpu", False, False, False, False)[:3]


def _watched() -> bool:
    """Whether a mode, a transform or a tangent of torch is to see the operator."""
    return (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
    )


def _call(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float | None, backend: str | None) -> _Call | None:
    """The kernel's numbers, or None if it is not to have the call."""
    if not isinstance(pattern, Band) or isinstance(pattern.columns, Tensor):
        return None
    check_tensors(q, k, v)
    check_numbers(scale, 0.0)
    if q.numel() == 0 or k.numel() == 0 or choose(backend, q, k, v, pattern) != "cpu":
        return None
    band = [pattern.left, pattern.right, pattern.rows, pattern.dilation]
    return band, pattern.columns, q.shape[-1] ** -0.5 if scale is None else scale
