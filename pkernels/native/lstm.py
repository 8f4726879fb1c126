"""The ``cpu`` backend of the LSTM with a projected state.

The kernel wants sizes that are multiples of its lanes, and weights in the order in which it reads
them; both are done here, once a call, and cost as much as a step or two.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..recurrence import Recurrence
from . import operators

_LANES, _GROUP = 16, 64  # csrc/cpu/kernels.h: lstm_lanes, lstm_group


def forward(
    x: Tensor, recurrent: Tensor, projection: Tensor, h: Tensor, c: Tensor, call: Recurrence, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As :func:`pkernels.reference.lstm.forward`, of float32."""
    (batch, steps, _), (width, cells) = x.shape, projection.shape
    x = _padded(x.unflatten(-1, (4, cells)))
    h, c = _padded(h).clone(), _padded(c).clone()
    out = x.new_zeros(batch, steps, h.shape[1])
    gates, memory = (torch.zeros_like(x), x.new_zeros(batch, steps, c.shape[1])) if keep else (None, None)
    recurrent = _recurrent(recurrent, cells)
    panels = recurrent.unflatten(1, (-1, _LANES)).permute(1, 3, 0, 2).contiguous()
    settings = _settings(call, batch, steps)
    operators().lstm_forward(x, panels, _padded(_padded(projection).t()), *settings, h, c, out, gates, memory)
    kept = (x.new_empty(0),) * 2 if gates is None or memory is None else (
        _cut(gates, cells).flatten(-2), _cut(memory, cells)
    )  # fmt: skip
    return _cut(out, width), _cut(h, width), _cut(c, cells), *kept


def backward(
    dout: Tensor, dh: Tensor, dc: Tensor, recurrent: Tensor, projection: Tensor, c: Tensor,
    out: Tensor, gates: Tensor, cells: Tensor, call: Recurrence,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As :func:`pkernels.reference.lstm.backward`, of float32."""
    width, count = projection.shape
    gates, memory, out, dout, c = _padded(gates.unflatten(-1, (4, count))), *map(_padded, (cells, out, dout, c))
    dh, dc = _padded(dh).clone(), _padded(dc).clone()
    dx, dstate, hidden = (torch.zeros_like(y) for y in (gates, out, memory))
    groups = torch.cat([part.flatten() for part in _padded(_padded(projection.t()).t()).split(_GROUP, 1)])
    settings = _settings(call, *out.shape[:2])
    operators().lstm_backward(
        dout, _recurrent(recurrent, count), groups, *settings, c, out, gates, memory, dh, dc, dx, dstate, hidden
    )
    return (
        _cut(dx, count).flatten(-2), _cut(dstate, width), _cut(hidden, count), _cut(dh, width), _cut(dc, count)
    )  # fmt: skip


def _padded(x: Tensor) -> Tensor:
    """The last dimension up to a multiple of the lanes; contiguous."""
    return F.pad(x, (0, -x.shape[-1] % _LANES)).contiguous() if x.shape[-1] % _LANES else x.contiguous()


def _recurrent(x: Tensor, cells: int) -> Tensor:
    """``(4C, P)`` -> ``(4, C, P)``, the last two padded."""
    rows, columns = -cells % _LANES, -x.shape[1] % _LANES
    x = x.unflatten(0, (4, cells))
    return (F.pad(x, (0, columns, 0, rows)) if rows or columns else x).contiguous()


def _cut(x: Tensor, width: int) -> Tensor:
    return x[..., :width].contiguous()


def _settings(call: Recurrence, batch: int, steps: int) -> tuple[list[int], list[int], float, float, bool]:
    """``(order, lengths, ...)``: rows by falling length, as the kernel asks for."""
    lengths = [steps] * batch if call.lengths is None else call.lengths.tolist()
    if any(not 0 <= length <= steps for length in lengths):
        raise ValueError(f"lengths: between 0 and {steps} is allowed, got {lengths}")
    order = sorted(range(batch), key=lambda row: -lengths[row])
    cell, projection = (math.inf if bound is None else bound for bound in (call.cell_clip, call.projection_clip))
    return order, [lengths[row] for row in order], cell, projection, call.reverse
