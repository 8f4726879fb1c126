"""``pkernels::projected_lstm_fwd`` and ``_bwd``: an LSTM with a projected state over all steps.

The steps are the backend's; the gradients of both matrices are two products over all steps at
once, here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..recurrence import Recurrence
from .backends import backend as load
from .registration import REGISTERED, differentiable

_SETTINGS = "float? cell_clip, float? projection_clip, bool reverse"


def _forward(
    x: Tensor, recurrent: Tensor, projection: Tensor, h: Tensor, c: Tensor, lengths: Tensor | None,
    cell_clip: float | None, projection_clip: float | None, reverse: bool, keep: bool, backend: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    call = Recurrence(lengths, cell_clip, projection_clip, reverse)
    with torch.autocast(x.device.type, enabled=False):
        return load(backend, "lstm").forward(x, recurrent, projection, h, c, call, keep)


def _backward(
    dout: Tensor, dh: Tensor, dc: Tensor, recurrent: Tensor, projection: Tensor, h: Tensor, c: Tensor,
    lengths: Tensor | None, out: Tensor, gates: Tensor, cells: Tensor,
    cell_clip: float | None, projection_clip: float | None, reverse: bool, backend: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    call = Recurrence(lengths, cell_clip, projection_clip, reverse)
    with torch.autocast(out.device.type, enabled=False):
        dx, dstate, hidden, dh, dc = load(backend, "lstm").backward(
            dout, dh, dc, recurrent, projection, c, out, gates, cells, call
        )
        drecurrent = dx.flatten(0, 1).mT @ call.previous(out, h).flatten(0, 1)
        return dx, drecurrent, dstate.flatten(0, 1).mT @ hidden.flatten(0, 1), dh, dc


def _fake_forward(
    x: Tensor, recurrent: Tensor, projection: Tensor, h: Tensor, c: Tensor, *settings: Any
) -> tuple[Tensor, ...]:
    keep = settings[-2]
    return (
        x.new_empty((*x.shape[:2], projection.shape[0])),
        torch.empty_like(h, memory_format=torch.contiguous_format),
        torch.empty_like(c, memory_format=torch.contiguous_format),
        x.new_empty(x.shape if keep else 0),
        x.new_empty((*x.shape[:2], c.shape[1]) if keep else 0),
    )


def _fake_backward(
    dout: Tensor, dh: Tensor, dc: Tensor, recurrent: Tensor, projection: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    gates = rest[4]
    return tuple(x.new_empty(x.shape) for x in (gates, recurrent, projection, dh, dc))


def _save(ctx: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
    _, recurrent, projection, h, c, lengths, *settings, keep, backend = inputs
    out, _, _, gates, cells = outputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(gates, cells)
    ctx.save_for_backward(recurrent, projection, h, c, lengths, out, gates, cells)
    ctx.settings, ctx.keep = (*settings, backend), keep


def _differentiate(ctx: Any, dout: Tensor | None, dh: Tensor | None, dc: Tensor | None, *_: Any) -> tuple:
    if not ctx.keep:
        raise RuntimeError("projected_lstm_fwd: keep=True is needed for a derivative")
    recurrent, projection, h, c, lengths, out, gates, cells = ctx.saved_tensors
    gradients = (torch.zeros_like(like) if given is None else given
                 for given, like in ((dout, out), (dh, h), (dc, c)))  # fmt: skip
    found = REGISTERED.projected_lstm_bwd(
        *gradients, recurrent, projection, h, c, lengths, out, gates, cells, *ctx.settings
    )
    return (*found, *(None,) * 6)


def _refuse(*_: Any) -> tuple:
    raise NotImplementedError("a second derivative of projected_lstm: there is none")


differentiable(
    "projected_lstm_bwd",
    "(Tensor dout, Tensor dh, Tensor dc, Tensor recurrent, Tensor projection, Tensor h, Tensor c, Tensor? lengths, "
    f"Tensor out, Tensor gates, Tensor cells, {_SETTINGS}, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
    lambda ctx, inputs, outputs: None,
    _refuse,
)
projected_lstm = differentiable(
    "projected_lstm_fwd",
    "(Tensor x, Tensor recurrent, Tensor projection, Tensor h, Tensor c, Tensor? lengths, "
    f"{_SETTINGS}, bool keep, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _forward,
    _fake_forward,
    _save,
    _differentiate,
)
