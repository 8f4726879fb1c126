"""Linear maps, by whichever library of torch's multiplies faster here.

torch multiplies float32 on x86 by MKL, which on processors that are not Intel's uses half of the width of their
vectors: 105 GFLOP/s of the 262 that a core of a Zen 5 can do. oneDNN, which torch has for its compiled models, does
220 there, forward and backward, without repacking what is stored. Everything else is torch's as ever: other dtypes and
devices, autocast, `torch.func`, graphs that are compiled or exported, and products so small that choosing takes longer.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    if torch.compiler.is_compiling() or not _suits(x, weight) or not onednn_is_faster():
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(y is not None and y.requires_grad for y in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


def _suits(x: Tensor, weight: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and type(x) is Tensor
    large = x.dim() > 1 and x.numel() * weight.shape[0] >= LEAST and x.shape[-1] == weight.shape[1]
    as_ever = torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active()
    return plain and large and bool(torch.backends.mkldnn.enabled) and not as_ever


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
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        of_x, of_weight, of_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        rows = dy.flatten(0, -2)
        return (
            _product(dy, weight.t()) if of_x else None,
            _product(rows.t(), x.flatten(0, -2).t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
