"""Layers that see a segment and the memories before it (Dai et al. 2019, arXiv:1901.02860, section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from ...bias import Relative
from ...patterns import Band
from .attention import join_heads, split_heads
from .layers import PostNorm, PreNorm
from .layouts import Whole
from .linear import Linear, linear
from .recurrence import Biases, with_memory


class Attention(nn.Module):
    """Multi-head attention by content and distance.

    Args:
        width: Size of a token.
        biases: The papers' u and v, of which several layers may have the same; they say the heads.
        dropout: Of attention's weights.
        pattern: What a token sees, of itself and what is before.

    Attributes:
        qkv, distances, out: W_q, W_kE and W_v in one; W_kR; and of the output.
    """

    def __init__(self, width: int, biases: Biases, *, dropout: float, pattern: Band) -> None:
        super().__init__()
        self.heads, head = biases.content.shape
        self.dropout, self.pattern, self.inner = dropout, pattern, self.heads * head
        self.qkv = Linear(width, 3 * self.inner, bias=False)
        self.distances = Linear(width, self.inner, bias=False)
        self.out = Linear(self.inner, width, bias=False)
        self.biases = biases

    def forward(self, x: Tensor, layout: Whole, steps: Tensor, memory: Tensor | None = None) -> Tensor:
        """``x (B, S, width)`` sees itself and ``memory (M, B, width)``; ``steps``: encodings of distances."""
        q, k, v = self._projected(x, memory)
        content, position = self.biases(q)
        table = self.distances(steps).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        dropout = self.dropout if self.training else 0.0
        return self.out(join_heads(layout.attend(content, k, v, self.pattern, Relative(position, table), dropout)))

    def _projected(self, x: Tensor, memory: Tensor | None) -> tuple[Tensor, ...]:
        if memory is None:
            return split_heads(self.qkv(x), 3, self.heads)
        to_q, to_kv = self.qkv.weight.split((self.inner, 2 * self.inner))
        (q,) = split_heads(linear(x, to_q), 1, self.heads)
        return q, *split_heads(linear(with_memory(x, memory), to_kv), 2, self.heads)


class Layer(nn.Module):
    """Attention and a feed-forward network, both in a residual of the same kind."""

    def __init__(self, attention: PreNorm | PostNorm, feed_forward: PreNorm | PostNorm) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, x: Tensor, layout: Whole, steps: Tensor, memory: Tensor | None = None) -> Tensor:
        if memory is not None and isinstance(self.attention, PreNorm):
            memory = self.attention.norm(memory)  # as what it stands beside
        return self.feed_forward(self.attention(x, layout, steps, memory))
