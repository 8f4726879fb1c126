"""XLNet's layers (Yang et al. 2019, arXiv:1906.08237): Transformer-XL's attention, with what segments add,
for one stream or two (:mod:`streams`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .attention import join_heads
from .layers import FeedForward, PostNorm
from .layouts import hiding
from .linear import linear
from .recurrence import Biases, Sliding, with_memory
from .streams import Queries, Stream, segment_features, segment_queries


@dataclass
class Sight:
    """What the layers of a call share.

    Args:
        content, query: The streams; without the second there is one.
        steps: Encodings of distances between the tokens and all keys.
        real: ``(B, Sk)``: the keys that are none of padding's, or None if all are or no key is padding.
        segments: Of all keys ``(B, Sk)``, of the queries of both streams, and how many there are.
        kept: How many of the tokens a cache is to keep.
    """

    content: Stream
    query: Stream | None
    steps: Tensor
    real: Tensor | None = None
    segments: tuple[Tensor, Tensor, Tensor | None, int] | None = None
    kept: int = 0


@dataclass
class Seen:
    """Keys with their features, values, and the projection of the distances."""

    k: Tensor
    v: Tensor
    table: Tensor


class Attention(nn.Module):
    """Sections 2.5 and 2.6. Its matrices are ``(width, heads, head)``, as in the files.

    Attributes:
        q, k, v, o, r: Of queries, keys, values, the output, and distances.
        biases: For the query's place, as Transformer-XL has them; ``segment_bias`` that for
            segments, ``segments (2, heads, head)``: of the same one, of another.
    """

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        head = width // heads
        self.scale, self.dropout = head**-0.5, dropout
        self.q, self.k, self.v, self.o, self.r = (nn.Parameter(torch.empty(width, heads, head)) for _ in range(5))
        self.biases = Biases(heads, head)
        self.segment_bias = nn.Parameter(torch.zeros(heads, head))
        self.segments = nn.Parameter(torch.empty(2, heads, head))

    def see(self, h: Tensor, sight: Sight, memory: Tensor | None, cache: Sliding | None) -> Seen:
        """What both streams look at: memories and the content stream."""
        x = with_memory(h, memory)
        k, v = _heads(x, self.k), _heads(x, self.v)
        if sight.segments is not None:
            k = _beside(k, segment_features(sight.segments[0], sight.segments[3], k.dtype))
        if sight.real is not None:
            k = _beside(k, hiding(sight.real, k.dtype, self.scale))
        if cache is not None:
            new, (k, v) = (k, v), cache.beside(k, v)
            cache.append(*(y[:, :, : y.shape[2] - h.shape[1] + sight.kept] for y in new))
        return Seen(k, v, self.project(sight.steps))

    def project(self, steps: Tensor) -> Tensor:
        """Encodings ``(n, width)`` -> ``(H, n, D)``."""
        return (steps @ self.r.flatten(1)).unflatten(-1, self.r.shape[1:]).transpose(0, 1)

    def forward(self, x: Tensor, seen: Seen, sight: Sight, stream: Stream, segments: Tensor | None) -> Tensor:
        q = _heads(x, self.q)
        content, position = self.biases(q)
        if sight.segments is not None and segments is not None:
            gain = (q + self.segment_bias[:, None]) @ (self.segments[0] - self.segments[1])[:, :, None]
            content = torch.cat([content, segment_queries(gain.squeeze(-1), segments, sight.segments[3])], -1)
        if sight.real is not None:
            content = F.pad(content, (0, 1), value=1.0)
        queries = Queries(content, position, self.scale, self.dropout if self.training else 0.0)
        table = seen.table if stream.steps is None else self.project(stream.steps)
        return linear(join_heads(stream.attend(queries, seen.k, seen.v, table)), self.o.flatten(1))


class Layer(nn.Module):
    """Attention and a feed-forward network of both streams, which share all weights (equations 1 and 2 of
    section 2.3)."""

    def __init__(self, width: int, heads: int, inner: int, *, act: str, dropout: float, eps: float) -> None:
        super().__init__()
        attention = Attention(width, heads, dropout=dropout)
        network = FeedForward(width, inner, act, dropout=dropout)
        self.attention = PostNorm(attention, width, eps=eps, dropout=dropout)
        self.feed_forward = PostNorm(network, width, eps=eps, dropout=dropout)

    def forward(
        self, h: Tensor, g: Tensor | None, sight: Sight, memory: Tensor | None = None, cache: Sliding | None = None,
        *, ends: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """``ends``: nobody asks for the content stream behind this layer, if there is another."""
        inner: Attention = self.attention.inner  # type: ignore[assignment]
        seen = inner.see(h, sight, memory, cache)
        segments = sight.segments
        if g is not None and sight.query is not None:
            g = self._through(g, seen, sight, sight.query, None if segments is None else segments[2])
            if ends:
                return h, g
        return self._through(h, seen, sight, sight.content, None if segments is None else segments[1]), g

    def _through(self, x: Tensor, seen: Seen, sight: Sight, stream: Stream, segments: Tensor | None) -> Tensor:
        return self.feed_forward(self.attention(x, seen, sight, stream, segments))


def _heads(x: Tensor, weight: Tensor) -> Tensor:
    """``(B, S, width)`` -> ``(B, H, S, D)``."""
    return (x @ weight.flatten(1)).unflatten(-1, weight.shape[1:]).transpose(1, 2)


def _beside(k: Tensor, features: Tensor) -> Tensor:
    """``features (B, Sk, F)`` behind those of all heads' keys ``(B, H, Sk, D)``."""
    return torch.cat([k, features[:, None].expand(-1, k.shape[1], -1, -1)], -1)
