"""Rows of a batch that see all tokens, with projections of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...globals import Globals
from .attention import split_heads
from .layouts import Packed, Whole
from .linear import Linear


class GlobalRows(nn.Module):
    """Attention of the global rows (Longformer: Beltagy et al. 2020, arXiv:2004.05150, section 3.1,
    "Linear Projections for Global Attention").

    Args:
        width: Size of a token, of which each of the ``heads`` heads has ``width // heads``.
        dropout: Probability of dropping an attention weight while training.

    Where there are fewer rows than a head has dimensions, keys and values of all tokens are not
    made: with ``q K^T = q (X W^T)^T = (q W) X^T`` the rows go through the projections instead of
    the text, and all heads read the tokens themselves. A key's bias adds the same to all scores
    of a row, which softmax does not see.

    Example:
        >>> x, layout = torch.randn(2, 6, 12), Whole(2, 6, torch.device("cpu"))
        >>> GlobalRows(12, heads=3)(x, layout, layout.globals(torch.tensor([0, 4]))).shape
        torch.Size([2, 3, 2, 4])
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)

    def forward(self, x: Tensor, layout: Whole, found: Globals) -> Tensor:
        """``(B, heads, G, width // heads)`` of ``x (B, S, width)``."""
        (q,) = split_heads(self.q(found.pick(x, 1)), 1, self.heads)
        # Packed sequences differ in which keys a row sees.
        if q.shape[2] < q.shape[3] and not isinstance(layout, Packed):
            return self._folded(q, x, getattr(layout, "real", None))
        k, v = split_heads(self.kv(x), 2, self.heads)
        return layout.attend_from(q, k, v, found, self.dropout if self.training else 0.0)

    def _folded(self, q: Tensor, x: Tensor, real: Tensor | None) -> Tensor:
        rows, size = q.shape[2:]
        of_keys, of_values = self.kv.weight.to(q.dtype).unflatten(0, (2, self.heads, size))
        folded = torch.einsum("bhgd,hdw->bhgw", q * size**-0.5, of_keys).flatten(1, 2)
        scores = (folded @ x.to(q.dtype).transpose(1, 2)).float()
        if real is not None:
            scores = scores.masked_fill(~real[:, None], torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, -1)
        if real is not None:  # a text without tokens gives 0
            weights = weights * real[:, None]
        weights = nn.functional.dropout(weights, self.dropout, self.training).to(q.dtype)
        seen = (weights @ x.to(q.dtype)).unflatten(1, (self.heads, rows))
        bias = self.kv.bias[self.heads * size :].to(q.dtype).view(self.heads, 1, size)
        return torch.einsum("bhgw,hdw->bhgd", seen, of_values) + bias * weights.sum(-1).view(-1, self.heads, rows, 1)
