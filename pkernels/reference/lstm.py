"""LSTM with a projected state (Sak, Senior, Beaufays 2014, arXiv:1402.1128, section 2.1, without
peepholes), both clipped as TensorFlow's LSTMCell does.

    [i f g o] = x_t + U h_{t-1}                        x_t: W x + b of all gates, computed before
    c_t = clip(sigmoid(f) c_{t-1} + sigmoid(i) tanh(g), cell_clip)
    h_t = clip(P (sigmoid(o) tanh(c_t)), projection_clip)

``reverse`` begins at the last step of each row. A row that has ended, or has not begun, keeps its
state and gives 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..recurrence import Recurrence


def forward(
    x: Tensor, recurrent: Tensor, projection: Tensor, h: Tensor, c: Tensor, call: Recurrence, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``(out, h, c, gates, cells)`` of shapes ``(B, S, P)``, ``(B, P)``, ``(B, C)``, ``(B, S, 4C)`` and
    ``(B, S, C)``; the last two, which the derivative needs, are empty unless to be kept."""
    out = x.new_zeros(*x.shape[:2], projection.shape[0])
    gates, cells = (torch.zeros_like(x), x.new_zeros(*x.shape[:2], c.shape[1])) if keep else (x.new_empty(0),) * 2
    h, c = h.clone(), c.clone()
    for t, active in call.steps(x):
        i, f, g, o = (x[:, t] + h @ recurrent.mT).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        cell = _clip(f * c + i * g, call.cell_clip)
        state = _clip((o * cell.tanh()) @ projection.mT, call.projection_clip)
        h, c = h.where(~active, state), c.where(~active, cell)
        out[:, t] = state.where(active, 0)
        if keep:
            gates[:, t], cells[:, t] = torch.cat([i, f, g, o], -1).where(active, 0), cell.where(active, 0)
    return out, h, c, gates, cells


def backward(
    dout: Tensor, dh: Tensor, dc: Tensor, recurrent: Tensor, projection: Tensor, c: Tensor,
    out: Tensor, gates: Tensor, cells: Tensor, call: Recurrence,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``(dx, dstate, hidden, dh, dc)``: of the gates before their functions ``(B, S, 4C)``; of the
    projection's result ``(B, S, P)`` and what it was computed from, ``(B, S, C)``; of the first state."""
    dx, dstate, hidden = torch.zeros_like(gates), torch.zeros_like(out), torch.zeros_like(cells)
    before = call.previous(cells, c)
    for t, active in call.steps(out, backward=True):
        i, f, g, o = gates[:, t].chunk(4, -1)
        cell, tanh = cells[:, t], cells[:, t].tanh()
        dp = _unclipped(dh + dout[:, t], out[:, t], call.projection_clip).where(active, 0)
        dm = dp @ projection
        dcell = _unclipped(dc + dm * o * (1 - tanh * tanh), cell, call.cell_clip)
        di, df = dcell * g * i * (1 - i), dcell * before[:, t] * f * (1 - f)
        dg, do = dcell * i * (1 - g * g), dm * tanh * o * (1 - o)
        dz = torch.cat([di, df, dg, do], -1).where(active, 0)
        dx[:, t], dstate[:, t], hidden[:, t] = dz, dp, (o * tanh).where(active, 0)
        dh, dc = (dz @ recurrent).where(active, dh), (dcell * f).where(active, dc)
    return dx, dstate, hidden, dh, dc


def _clip(x: Tensor, bound: float | None) -> Tensor:
    return x if bound is None else x.clamp(-bound, bound)


def _unclipped(gradient: Tensor, result: Tensor, bound: float | None) -> Tensor:
    """Nothing comes through where a result was clipped."""
    return gradient if bound is None else gradient.where(result.abs() < bound, 0)
