"""Multi-head attention on top of :func:`pkernels.attention`."""

from __future__ import annotations

from torch import Tensor, nn

from ...bias import Dense, Distance
from ...patterns import Band, dense
from .layouts import Whole


class SelfAttention(nn.Module):
    """Multi-head self-attention over a pattern (Vaswani et al. 2017, arXiv:1706.03762,
    section 3.2.2).

    Args:
        width: Size of a token. Each of the ``heads`` heads has ``width // heads`` of it.
        dropout: Probability of dropping an attention weight while training; it happens
            inside the kernel.
        pattern: Which pairs are kept.

    Queries, keys and values come out of one matrix product. The kernel reads them as strided
    views, and its output lies in memory so that joining the heads copies nothing.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 5, 12)
        >>> SelfAttention(12, heads=3)(x, Whole(2, 5, x.device)).shape
        torch.Size([2, 5, 12])
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, pattern: Band = dense) -> None:
        super().__init__()
        self.heads, self.dropout, self.pattern = heads, dropout, pattern
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, layout: Whole, bias: Distance | Dense | None = None) -> Tensor:
        # (B, S, 3W) -> three times (B, heads, S, W / heads)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = layout.attend(q, k, v, self.pattern, bias, self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).flatten(2))
