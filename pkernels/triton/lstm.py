"""An LSTM with a projected state (see ``pkernels/reference/lstm.py`` for the equations), step by step:
both products of a step are torch's, and all between them is one kernel each.

A step's rows share every weight, so a kernel over all steps would have to wait for all of the
GPU twice a step; launches do that at the price of a few microseconds.

Grid of every kernel: (row, block of N columns). Numbers are float32.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..recurrence import Recurrence

N = 256


@triton.jit
def _tanh(x):
    """Near 0, where 1 - exp cancels, x + x**3 q(x**2) with q fitted to (tanh(x) - x) / x**3 on [0, 5/8]."""
    size = tl.abs(x)
    power = tl.exp(-2.0 * size)
    far = (1.0 - power) / (1.0 + power)
    s = x * x
    q = (((-5.704986397e-3 * s + 2.063908614e-2) * s - 5.373971537e-2) * s + 1.333144158e-1) * s - 3.333328068e-1
    return tl.where(size < 0.625, x + x * s * q, tl.where(x < 0, -far, far))


@triton.jit
def _sigmoid(x):
    power = tl.exp(-tl.abs(x))
    y = 1.0 / (1.0 + power)
    return tl.where(x < 0, power * y, y)


@triton.jit
def _clipped(x, bound):
    low = tl.where(x < -bound, -bound, x)
    return tl.where(low > bound, bound, low)


@triton.jit
def _place(columns, N: tl.constexpr):
    """(row, columns of this program, which of them exist)."""
    j = tl.program_id(1) * N + tl.arange(0, N)
    return tl.program_id(0).to(tl.int64), j, j < columns


@triton.jit(do_not_specialize=["step"])
def cell_kernel(
    z, c, m, gates, memory, lengths, step, steps, cells, clip, KEEP: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """Gates ``z (B, 4C)`` before their functions -> the memory c, in place, and what is to be projected."""
    row, j, there = _place(cells, N)
    there = there & (step < tl.load(lengths + row))
    at = z + row * 4 * cells + j
    i = _sigmoid(tl.load(at, mask=there, other=0.0))
    f = _sigmoid(tl.load(at + cells, mask=there, other=0.0))
    g = _tanh(tl.load(at + 2 * cells, mask=there, other=0.0))
    o = _sigmoid(tl.load(at + 3 * cells, mask=there, other=0.0))
    cell = _clipped(f * tl.load(c + row * cells + j, mask=there, other=0.0) + i * g, clip)
    tl.store(c + row * cells + j, cell, mask=there)
    tl.store(m + row * cells + j, tl.where(there, o * _tanh(cell), 0.0), mask=j < cells)
    if KEEP:
        kept = row * steps + step
        to = gates + kept * 4 * cells + j
        tl.store(to, i, mask=there)
        tl.store(to + cells, f, mask=there)
        tl.store(to + 2 * cells, g, mask=there)
        tl.store(to + 3 * cells, o, mask=there)
        tl.store(memory + kept * cells + j, cell, mask=there)


@triton.jit(do_not_specialize=["step"])
def state_kernel(p, h, out, lengths, step, steps, width, clip, N: tl.constexpr):
    """What was projected ``p (B, P)`` -> the state h, in place, and the step's output."""
    row, j, there = _place(width, N)
    there = there & (step < tl.load(lengths + row))
    state = _clipped(tl.load(p + row * width + j, mask=there, other=0.0), clip)
    tl.store(h + row * width + j, state, mask=there)
    tl.store(out + (row * steps + step) * width + j, state, mask=there)


@triton.jit(do_not_specialize=["step"])
def dstate_kernel(dh, dout, out, dp, lengths, step, steps, width, clip, N: tl.constexpr):
    """The gradient of what was projected, from those of the state and the output; the former is used up."""
    row, j, inside = _place(width, N)
    there = inside & (step < tl.load(lengths + row))
    at = (row * steps + step) * width + j
    total = tl.load(dh + row * width + j, mask=there, other=0.0) + tl.load(dout + at, mask=there, other=0.0)
    result = tl.load(out + at, mask=there, other=0.0)
    gradient = tl.where(there & (tl.abs(result) < clip), total, 0.0)
    tl.store(dh + row * width + j, tl.zeros([N], tl.float32), mask=there)
    tl.store(dp + at, gradient, mask=inside)


@triton.jit(do_not_specialize=["step"])
def dcell_kernel(
    dm, dc, gates, memory, first, dx, hidden, lengths, step, steps, cells, clip, REVERSE: tl.constexpr, N: tl.constexpr
):  # fmt: skip
    """Gradients of the gates, and of the memory dc, in place; what was projected, once more."""
    row, j, inside = _place(cells, N)
    length = tl.load(lengths + row)
    there = inside & (step < length)
    at = row * steps + step
    of = gates + at * 4 * cells + j
    i = tl.load(of, mask=there, other=0.0)
    f = tl.load(of + cells, mask=there, other=0.0)
    g = tl.load(of + 2 * cells, mask=there, other=0.0)
    o = tl.load(of + 3 * cells, mask=there, other=0.0)
    cell = tl.load(memory + at * cells + j, mask=there, other=0.0)
    if REVERSE:
        begins, neighbour = step == length - 1, at + 1
    else:
        begins, neighbour = step == 0, at - 1
    before = tl.load(first + row * cells + j, mask=there & begins, other=0.0) + tl.load(
        memory + neighbour * cells + j, mask=there & (begins == 0), other=0.0
    )
    squashed = _tanh(cell)
    gradient = tl.load(dm + row * cells + j, mask=there, other=0.0)
    total = tl.load(dc + row * cells + j, mask=there, other=0.0) + gradient * o * (1.0 - squashed * squashed)
    dcell = tl.where(tl.abs(cell) < clip, total, 0.0)
    to = dx + at * 4 * cells + j
    tl.store(to, dcell * g * i * (1.0 - i), mask=inside)
    tl.store(to + cells, dcell * before * f * (1.0 - f), mask=inside)
    tl.store(to + 2 * cells, dcell * i * (1.0 - g * g), mask=inside)
    tl.store(to + 3 * cells, gradient * squashed * o * (1.0 - o), mask=inside)
    tl.store(dc + row * cells + j, dcell * f, mask=there)
    tl.store(hidden + at * cells + j, o * squashed, mask=inside)


def forward(
    x: Tensor, recurrent: Tensor, projection: Tensor, h: Tensor, c: Tensor, call: Recurrence, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As :func:`pkernels.reference.lstm.forward`, of float32."""
    (batch, steps, _), (width, cells) = x.shape, projection.shape
    out, h, c = x.new_zeros(batch, steps, width), _copy(h), _copy(c)
    gates, memory = x.new_zeros(x.shape if keep else 0), x.new_zeros((batch, steps, cells) if keep else 0)
    z, m, p = x.new_empty(batch, 4 * cells), torch.empty_like(c), torch.empty_like(h)
    lengths, cell_clip, clip = _settings(x, call)
    of_cells, of_states = (batch, triton.cdiv(cells, N)), (batch, triton.cdiv(width, N))
    for step in call.order(steps) if batch else ():
        torch.addmm(x[:, step], h, recurrent.mT, out=z)
        with _on(x):
            cell_kernel[of_cells](z, c, m, gates, memory, lengths, step, steps, cells, cell_clip, KEEP=keep, N=N)
        torch.mm(m, projection.mT, out=p)
        with _on(x):
            state_kernel[of_states](p, h, out, lengths, step, steps, width, clip, N=N)
    return out, h, c, gates, memory


def backward(
    dout: Tensor, dh: Tensor, dc: Tensor, recurrent: Tensor, projection: Tensor, c: Tensor,
    out: Tensor, gates: Tensor, cells: Tensor, call: Recurrence,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As :func:`pkernels.reference.lstm.backward`, of float32."""
    (batch, steps, width), count = out.shape, cells.shape[2]
    dout, out, gates, memory, first = (x.contiguous() for x in (dout, out, gates, cells, c))
    dh, dc = _copy(dh), _copy(dc)
    dx, dp, hidden, dm = (torch.empty_like(x) for x in (gates, out, memory, dc))
    lengths, cell_clip, clip = _settings(out, call)
    of_cells, of_states = (batch, triton.cdiv(count, N)), (batch, triton.cdiv(width, N))
    for step in reversed(call.order(steps)) if batch else ():
        with _on(out):
            dstate_kernel[of_states](dh, dout, out, dp, lengths, step, steps, width, clip, N=N)
        torch.mm(dp[:, step], projection, out=dm)
        with _on(out):
            dcell_kernel[of_cells](
                dm, dc, gates, memory, first, dx, hidden, lengths, step, steps, count, cell_clip,
                REVERSE=call.reverse, N=N,
            )  # fmt: skip
        dh.addmm_(dx[:, step], recurrent)
    return dx, dp, hidden, dh, dc


def _copy(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _settings(x: Tensor, call: Recurrence) -> tuple[Tensor, float, float]:
    """``(lengths, cell_clip, projection_clip)``, where None is all steps or infinity."""
    full = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
    lengths = full if call.lengths is None else call.lengths.to(x.device, torch.int64).contiguous()
    cell_clip, clip = (float("inf") if bound is None else bound for bound in (call.cell_clip, call.projection_clip))
    return lengths, cell_clip, clip


def _on(x: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
