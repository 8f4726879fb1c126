"""Feed-forward networks, the ways to wrap a sublayer, initial values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .linear import Linear

_tanh_gelu = partial(F.gelu, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


# By the names that config.json files use.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_fast": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class FeedForward(nn.Module):
    """``down(dropout(act(up(x))))`` (Vaswani et al. 2017, section 3.3)."""

    def __init__(self, width: int, inner: int, act: str, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(width, inner, bias=bias)
        self.down = Linear(inner, width, bias=bias)
        self.act = ACTIVATIONS[act]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(self.act(self.up(x))))


class PostNorm(nn.Module):
    """``norm(x + dropout(inner(x)))``: the residual wrapper of Vaswani et al. 2017, section 3.1."""

    def __init__(self, inner: nn.Module, width: int, *, eps: float, dropout: float) -> None:
        super().__init__()
        self.inner = inner
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return self.norm(x + self.dropout(self.inner(x, *context)))


class PreNorm(nn.Module):
    """``x + dropout(inner(norm(x)))``: the norm stands before the sublayer, and the residual has
    none (Wang et al. 2019, arXiv:1906.01787, section 2.1)."""

    def __init__(self, inner: nn.Module, norm: nn.Module, *, dropout: float) -> None:
        super().__init__()
        self.inner, self.norm = inner, norm
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        return x + self.dropout(self.inner(self.norm(x), *context))


def in_chunks(f: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """``f(x)``, of ``size`` tokens at a time if that is not 0 (Kitaev et al. 2020,
    section 3.1)."""
    return torch.cat([f(some) for some in x.split(size, 1)], 1) if size else f(x)


def initialise(model: nn.Module, std: float) -> None:
    """Weights from a normal distribution cut at two standard deviations, biases and padding
    rows 0: how BERT and most after it start (google-research/bert, ``create_initializer``)."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()
