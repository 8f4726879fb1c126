"""Linear maps, by whichever library of torch's multiplies faster here.

torch multiplies float32 on x86 by MKL, which on processors that are not Intel's uses half of the width of their
vectors: 105 GFLOP/s of the 262 that a core of a Zen 5 can do. oneDNN, which torch has for its compiled models, does
220 there, forward and backward, without repacking what is stored. Everything else is torch's as ever: other dtypes and
devices, autocast, `torch.func`, forward-mode derivatives, graphs that are compiled, traced or exported, weights that
are more than tensors, and products so small that choosing takes longer.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import forward_ad

LEAST = 1 << 22
"""Multiplications below which a product is left to torch: 80 microseconds of a core, 10 of them for oneDNN's call."""


class Linear(nn.Linear):
    """``nn.Linear``, and its parameters.

    Example:
        >>> import torch
        >>> Linear(3, 5)(torch.zeros(2, 7, 3)).shape
        torch.Size([2, 7, 5])
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``: ``x (..., K)``, ``weight (N, K)`` and ``bias (N,)`` -> ``(..., N)``."""
    if torch.compiler.is_compiling() or not _suits(x, weight, bias) or not onednn_is_faster():
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(y is not None and y.requires_grad for y in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """oneDNN checks none of this: of a bias elsewhere it reads what lies there."""
    if torch.jit.is_tracing() or x.dim() < 2 or x.numel() * len(weight) < LEAST:
        return False
    fits = weight.dim() == 2 and x.shape[-1] == weight.shape[1] and (bias is None or bias.shape == weight.shape[:1])
    return fits and all(y is None or _plain(y) for y in (x, weight, bias)) and not _watched()


def _plain(x: Tensor) -> bool:
    """What a subclass (of a sharded or quantized weight) does with a product is its own."""
    of_strides = x.device.type == "cpu" and x.layout == torch.strided
    return of_strides and x.dtype == torch.float32 and type(x) in (Tensor, nn.Parameter)


def _watched() -> bool:
    """Whether someone else decides how products are taken."""
    derived = forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()
    return derived or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.enabled


@functools.cache
def onednn_is_faster() -> bool:
    """Whether torch would multiply by MKL on a processor that is not Intel's, and has oneDNN."""
    have = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return have and hasattr(torch.ops.mkldnn, "_linear_pointwise") and not _intel(Path("/proc/cpuinfo"))


def _intel(cpuinfo: Path) -> bool:
    """Where nobody says who made the processor, it is taken for Intel's."""
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return "vendor_id" not in text or "GenuineIntel" in text


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = torch.ops.mkldnn._linear_pointwise(x.flatten(0, -2), weight, bias, "none", [], "")
    # As F.linear does: autograd lets nobody change a view of a Function in place.
    return torch.ops.aten._unsafe_view(rows, (*x.shape[:-1], len(weight)))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Its products have derivatives too."""
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        of_x, of_weight, of_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        rows = dy.flatten(0, -2)
        return (
            _Linear.apply(dy, weight.t(), None) if of_x else None,
            _Linear.apply(rows.t(), x.flatten(0, -2).t(), None) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
