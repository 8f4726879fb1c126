"""The LSTM of ELMo: a projected state, and clips that torch's has none of."""

from __future__ import annotations

import torch
from torch import Tensor

from .ops.backends import settle, why_not_kernels
from .ops.lstm import projected_lstm as _operator

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def projected_lstm(
    x: Tensor,
    recurrent: Tensor,
    projection: Tensor,
    state: tuple[Tensor, Tensor] | None = None,
    *,
    lengths: Tensor | None = None,
    cell_clip: float | None = None,
    projection_clip: float | None = None,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """An LSTM layer with a projected state (Sak, Senior, Beaufays 2014, arXiv:1402.1128, section 2.1,
    without peepholes)::

        [i f g o] = x_t + recurrent h_{t-1}
        c_t = clip(sigmoid(f) c_{t-1} + sigmoid(i) tanh(g), cell_clip)
        h_t = clip(projection (sigmoid(o) tanh(c_t)), projection_clip)

    Args:
        x: ``(B, S, 4C)``, the inputs' share of the gates with their bias: one product of all steps.
        recurrent: ``(4C, P)``.
        projection: ``(P, C)``.
        state: ``(h, c)`` of shapes ``(B, P)`` and ``(B, C)`` before the first step; zeros by default.
        lengths: ``(B,)`` steps of each row. A row that ended keeps its state, and gives 0.
        cell_clip, projection_clip: Bounds of c and of h. No gradient comes through a clipped value.
        reverse: From each row's last step to its first.
        backend: "reference", "cpu" or "triton"; by default the best one.

    Returns:
        ``(out, (h, c))``: all h ``(B, S, P)``, and the state after the last step. All of them are
        differentiable, in all tensors. bfloat16 and float16 are computed in float32.

    Raises:
        ValueError: For shapes, dtypes, devices and bounds that do not fit, by name.
        NotImplementedError: With the reason, if a named backend cannot do it.

    Example:
        >>> x, recurrent, projection = torch.randn(2, 5, 12), torch.randn(12, 2), torch.randn(2, 3)
        >>> out, (h, c) = projected_lstm(x, recurrent, projection, lengths=torch.tensor([5, 2]), cell_clip=3.0)
        >>> out.shape, h.shape, c.shape
        (torch.Size([2, 5, 2]), torch.Size([2, 2]), torch.Size([2, 3]))
        >>> torch.equal(h[1], out[1, 1]) and not out[1, 2:].any()
        True
    """
    h, c = _state(x, recurrent, projection, state)
    _check_tensors(x, recurrent, projection, h, c)
    lengths = _lengths(lengths, x)
    for name, bound in (("cell_clip", cell_clip), ("projection_clip", projection_clip)):
        if bound is not None and not bound > 0:
            raise ValueError(f"{name}: more than 0 is allowed, or None, got {bound}")
    backend = settle(backend, x, lambda one: why_not_kernels(one, "lstm", x))
    tensors = (x, recurrent, projection, h, c)
    wide = [y.float() if y.dtype in (torch.bfloat16, torch.float16) else y for y in tensors]
    keep = torch.is_grad_enabled() and any(y.requires_grad for y in tensors)
    out, h, c, _, _ = _operator(*wide, lengths, cell_clip, projection_clip, reverse, keep, backend)
    return out.to(x.dtype), (h.to(x.dtype), c.to(x.dtype))


def _state(
    x: Tensor, recurrent: Tensor, projection: Tensor, state: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    for name, y, dims, shape in (("x", x, 3, "(B, S, 4C)"), ("recurrent", recurrent, 2, "(4C, P)"),
                                 ("projection", projection, 2, "(P, C)")):  # fmt: skip
        if not isinstance(y, Tensor) or y.dim() != dims:
            given = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"{name}: a tensor of shape {shape} is allowed, got {given}")
    if state is None:
        return tuple(x.new_zeros(x.shape[0], width) for width in projection.shape)  # type: ignore[return-value]
    if not isinstance(state, (tuple, list)) or len(state) != 2 or not all(isinstance(y, Tensor) for y in state):
        raise ValueError(f"state: a pair (h, c) of tensors is allowed, got {type(state).__name__}")
    return state[0], state[1]


def _check_tensors(x: Tensor, recurrent: Tensor, projection: Tensor, h: Tensor, c: Tensor) -> None:
    if x.dtype not in _DTYPES:
        raise ValueError(f"x: float32, bfloat16, float16 or float64 is allowed, got {x.dtype}")
    (width, cells), batch = projection.shape, x.shape[0]
    if x.shape[2] != 4 * cells or not width or not cells:
        raise ValueError(f"x: shape (B, S, {4 * cells}), four gates for each cell of projection, is allowed, "
                         f"got {tuple(x.shape)}")  # fmt: skip
    wanted = {"recurrent": (recurrent, (4 * cells, width)), "state, h": (h, (batch, width)),
              "state, c": (c, (batch, cells)), "projection": (projection, (width, cells))}  # fmt: skip
    for name, (y, shape) in wanted.items():
        if tuple(y.shape) != shape:
            raise ValueError(f"{name}: shape {shape} is allowed, got {tuple(y.shape)}")
        if y.dtype != x.dtype or y.device != x.device:
            raise ValueError(
                f"{name}: x's dtype and device are allowed, got {y.dtype} on {y.device} beside {x.dtype} on {x.device}"
            )


def _lengths(lengths: Tensor | None, x: Tensor) -> Tensor | None:
    if lengths is None:
        return None
    if not isinstance(lengths, Tensor) or lengths.dtype not in (torch.int64, torch.int32):
        given = lengths.dtype if isinstance(lengths, Tensor) else type(lengths).__name__
        raise ValueError(f"lengths: a tensor of int64 or int32 is allowed, got {given}")
    if tuple(lengths.shape) != (x.shape[0],):
        raise ValueError(f"lengths: shape ({x.shape[0]},) is allowed, got {tuple(lengths.shape)}")
    if not torch.compiler.is_compiling() and bool(((lengths < 0) | (lengths > x.shape[1])).any()):
        raise ValueError(f"lengths: between 0 and {x.shape[1]} is allowed, got {lengths.tolist()}")
    return lengths
