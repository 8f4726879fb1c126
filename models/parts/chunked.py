"""Attention in chunks, of hashed tokens or of the text as it stands (Kitaev et al. 2020, Reformer,
arXiv:2001.04451, section 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ...attention import attention
from ...buckets import LAST_RESORT, Buckets
from ...lsh import local_order, lsh_order, unit_length
from ...reversible import kept
from .attention import join_heads, split_heads
from .linear import Linear


@dataclass(frozen=True)
class Text:
    """What layers must know of a batch: ``real (B, S)``, None if all tokens are, and how many
    rounds of hashing there are, None for the layer's own number."""

    real: Tensor | None
    rounds: int | None = None


@dataclass(frozen=True)
class Chunks:
    """``size`` tokens each, which see so many chunks ``before`` and ``after`` theirs; with
    ``causal``, no later token. A text of up to one chunk sees all of itself."""

    size: int
    before: int
    after: int
    causal: bool

    def pattern(self, rows: int, make: Callable[[int], Tensor], own: float | None) -> Buckets:
        """Of ``make(size of a chunk)``, an order of the rows."""
        if rows <= self.size:
            return Buckets(make(rows), rows, self.causal, 0, 0, own)
        return Buckets(make(self.size), self.size, self.causal, self.before, self.after, own)


class LSHAttention(nn.Module):
    """Among tokens of near hashes, itself as a last resort; queries are keys.

    Args:
        buckets: From the length of a text to :func:`pkernels.lsh_order`'s ``buckets``.
        rounds, seed: See there.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head: int,
        chunks: Chunks,
        *,
        dropout: float,
        buckets: Callable[[int], int | tuple[int, ...]],
        rounds: int,
        seed: int | None,
    ) -> None:
        super().__init__()
        self.heads, self.chunks, self.dropout = heads, chunks, dropout
        self.buckets, self.rounds, self.seed = buckets, rounds, seed
        self.query_key = Linear(width, heads * head, bias=False)
        self.value = Linear(width, heads * head, bias=False)
        self.out = Linear(heads * head, width, bias=False)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        (qk,), (v,) = (split_heads(project(x), 1, self.heads) for project in (self.query_key, self.value))
        pattern = self.chunks.pattern(x.shape[1], lambda chunk: self._order(qk, text, chunk), LAST_RESORT)
        dropout = self.dropout if self.training else 0.0
        mixed = attention(qk, unit_length(qk), v, pattern, scale=1.0, dropout=dropout)
        return self.out(join_heads(mixed))  # type: ignore[arg-type]

    def _order(self, qk: Tensor, text: Text, chunk: int) -> Tensor:
        rows = qk.shape[2]
        if rows == chunk:
            return local_order(rows, rows, text.real, qk.device)
        rounds = self.rounds if text.rounds is None else text.rounds
        sizes = {"rounds": rounds, "buckets": self.buckets(rows), "chunk": chunk}
        return kept(lambda: lsh_order(qk, seed=self.seed, mask=text.real, **sizes))  # type: ignore[arg-type]


class LocalAttention(nn.Module):
    """Within a token's chunk of the text and the chunks beside it, in a circle."""

    def __init__(self, width: int, heads: int, head: int, chunks: Chunks, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.chunks, self.dropout = heads, chunks, dropout
        self.qkv = Linear(width, 3 * heads * head, bias=False)
        self.out = Linear(heads * head, width, bias=False)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        q, k, v = split_heads(self.qkv(x), 3, self.heads)
        rows = x.shape[1]
        pattern = self.chunks.pattern(rows, lambda chunk: local_order(rows, chunk, text.real, x.device), None)
        dropout = self.dropout if self.training else 0.0
        return self.out(join_heads(attention(q, k, v, pattern, dropout=dropout)))  # type: ignore[arg-type]
