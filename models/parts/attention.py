"""Multi-head attention on top of :func:`pkernels.attention`."""

from __future__ import annotations

from torch import Tensor, nn

from ...bias import Dense, Distance
from ...patterns import Band, dense
from .layouts import Whole
from .linear import Linear


class SelfAttention(nn.Module):
    """Multi-head self-attention over a pattern (Vaswani et al. 2017, arXiv:1706.03762,
    section 3.2.2).

    Args:
        width: Size of a token. Each of the ``heads`` heads has ``width // heads`` of it.
        dropout: Probability of dropping an attention weight while training; it happens
            inside the kernel.
        pattern: Which pairs are kept.
        head: Width of a head, if it is another.
        scale: Of the scores, if not ``head ** -0.5``.
        bias: Whether the projections have one; ``out_bias``: that of the output, if it differs.

    Queries, keys and values come out of one matrix product. The kernel reads them as strided
    views, and its output lies in memory so that joining the heads copies nothing.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 5, 12)
        >>> SelfAttention(12, heads=3)(x, Whole(2, 5, x.device)).shape
        torch.Size([2, 5, 12])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        pattern: Band = dense,
        head: int | None = None,
        scale: float | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.pattern, self.scale = heads, dropout, pattern, scale
        inner = width if head is None else heads * head
        self.qkv = Linear(width, 3 * inner, bias=bias)
        self.out = Linear(inner, width, bias=bias if out_bias is None else out_bias)

    def forward(
        self, x: Tensor, layout: Whole, bias: Distance | Dense | None = None, pattern: Band | None = None
    ) -> Tensor:
        """``pattern`` stands for the module's own in this call."""
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        pattern = self.pattern if pattern is None else pattern
        mixed = layout.attend(q, k, v, pattern, bias, self.dropout if self.training else 0.0, self.scale)
        return self.out(join_heads(mixed))


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """``(B, S, parts * W)`` -> ``parts`` views ``(B, heads, S, W / heads)``."""
    # Apart before they are transposed: the gradient is then put together by one copy.
    return tuple(y.transpose(1, 2) for y in x.unflatten(-1, (parts, heads, -1)).unbind(2))


def join_heads(x: Tensor) -> Tensor:
    """``(B, heads, S, D)`` -> ``(B, S, heads * D)``, of the kernels' outputs a view."""
    return x.transpose(1, 2).flatten(2)
