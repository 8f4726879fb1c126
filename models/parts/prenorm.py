"""The encoder whose norms stand before the sublayers, which images brought to the fore
(Dosovitskiy et al. 2020, arXiv:2010.11929, equations 2 and 3; Radford et al. 2021, arXiv:2103.00020)."""

from __future__ import annotations

from collections import deque

from torch import Tensor, nn

from .attention import SelfAttention
from .layers import FeedForward, PreNorm
from .layouts import Whole


class Layer(nn.Module):
    """Self-attention, then a feed-forward network, each on normed input and beside a residual.

    Args:
        width, inner: Sizes of a token, and within the feed-forward network.
        dropout: Of both sublayers.
    """

    def __init__(
        self, attention: SelfAttention, width: int, inner: int, *, act: str, eps: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        norms = (nn.LayerNorm(width, eps=eps) for _ in range(2))
        self.attention = PreNorm(attention, next(norms), dropout=dropout)
        self.feed_forward = PreNorm(FeedForward(width, inner, act), next(norms), dropout=dropout)

    def forward(self, x: Tensor, layout: Whole) -> Tensor:
        return self.feed_forward(self.attention(x, layout))


class Stack(nn.ModuleList):
    """Layers one after the other.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 5, 12)
        >>> stack = Stack(Layer(SelfAttention(12, 3), 12, 24, act="gelu", eps=1e-6) for _ in range(2))
        >>> last, states = stack(x, Whole(2, 5, x.device), keep=True)
        >>> last.shape, len(states)
        (torch.Size([2, 5, 12]), 3)
    """

    def forward(self, x: Tensor, layout: Whole, *, keep: bool) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """The last states, and, if they are to be kept, unpacked ones: what came in and what each
        layer made of it."""
        trace = deque([x], maxlen=None if keep else 1)
        for layer in self:
            trace.append(layer(trace[-1], layout))
        return trace[-1], tuple(layout.unpack(x) for x in trace) if keep else None
