"""How the tokens of a segment see one another where the words are predicted in any order: XLNet's two
streams (Yang et al. 2019, arXiv:1906.08237, section 2.3). The content stream knows each token's word; the
query stream, which predicts it, only its place.

A stream says which keys its queries see and what stands between them; the projections are the layer's.
All are bidirectional over the memories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...attention import attention
from ...bias import Dense, Relative
from ...merge import merge
from ...patterns import Band, dense
from .layouts import Whole, hiding


@dataclass
class Queries:
    """What a stream's queries are compared with keys and distances by.

    Args:
        content: ``(B, H, n, D + F)``, with the features of keys behind.
        position: ``(B, H, n, D)``, for the distances.
        scale: Of both products.
        dropout: Of attention's weights.
    """

    content: Tensor
    position: Tensor
    scale: float
    dropout: float


class Stream(Protocol):
    """Which keys the queries see.

    Attributes:
        steps: Encodings of distances, if they are not the content stream's.
    """

    steps: Tensor | None

    def attend(self, q: Queries, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        """``k (B, H, Sk, D + F)``, ``v (B, H, Sk, D)``, ``table (H, S + Sk - 1, D)`` of the distances between
        the S tokens and all keys -> ``(B, H, n, D)``."""


@dataclass
class InOrder:
    """All tokens one after the other, over a pattern; no matrix of pairs."""

    layout: Whole
    pattern: Band
    steps: Tensor | None = None

    def attend(self, q: Queries, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        return self.layout.attend(
            q.content, k, v, self.pattern, Relative(q.position, table), dropout=q.dropout, scale=q.scale
        )


@dataclass
class Written:
    """Tokens at any ``places (B, n)``, or all in order, and any pairs ``hidden (B, n, Sk)`` or none: the bias is
    written out, which takes the memory of ``(B, H, n, Sk)`` numbers.

    A token that sees nothing gets 0 (in transformers the mean of what it must not see).
    """

    hidden: Tensor | None
    places: Tensor | None = None
    steps: Tensor | None = None

    def attend(self, q: Queries, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        size = table.shape[1] - k.shape[2] + 1
        places = torch.arange(size, device=k.device)[None] if self.places is None else self.places
        bias = q.scale * by_distance(q.position, table, places, torch.arange(k.shape[2], device=k.device)[None], size)
        if self.hidden is not None:
            bias = bias.masked_fill(self.hidden[:, None], float("-inf"))
        return attention(q.content, k, v, dense, Dense(bias), scale=q.scale, dropout=q.dropout)  # type: ignore[return-value]


class Ranked:
    """The content stream of an order of prediction.

    Most tokens are there from the start, those of rank -1. One that is predicted, or waits for
    others, has a rank; it is seen by itself and by those of higher rank. So it is two attentions
    put together (:func:`pkernels.merge`): of all tokens over the first kind of keys, without a
    matrix of pairs, and of ranked tokens over one another, a small matrix.

    Args:
        ranks: ``(B, S)`` integers.
        split: The first ``split`` tokens see none behind them, and are all seen by those behind.
        memories: Keys before the tokens.

    Example:
        >>> stream = Ranked(torch.tensor([[-1, 1, 0]]), memories=2)
        >>> stream.hidden()[0].int()  # which tokens each token does not see
        tensor([[0, 1, 1],
                [0, 0, 0],
                [0, 1, 0]], dtype=torch.int32)
    """

    steps: Tensor | None = None

    def __init__(self, ranks: Tensor, *, split: int = 0, memories: int = 0) -> None:
        self.ranks, self.memories = ranks, memories
        size = ranks.shape[1]
        self.parts = [(0, split), (split, size)] if 0 < split < size else [(0, size)]

    def hidden(self, *, itself: bool = False) -> Tensor:
        """``(B, S, S)``: what each token does not see; ``itself``: nor its own, if it has a rank (the
        query stream)."""
        mine, its = self.ranks[:, :, None], self.ranks[:, None, :]
        same = torch.eye(self.ranks.shape[1], dtype=torch.bool, device=self.ranks.device)
        hidden = (its >= 0) & (its >= mine) & (~same if not itself else torch.ones_like(same))
        for first, last in self.parts:
            hidden[:, first:last, :first] = False
            hidden[:, first:last, last:] = True
        return hidden

    def attend(self, q: Queries, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        return torch.cat([self._part(first, last, q, k, v, table) for first, last in self.parts], 2)

    def _part(self, first: int, last: int, q: Queries, k: Tensor, v: Tensor, table: Tensor) -> Tensor:
        """Tokens ``first`` to ``last``, over the keys up to there."""
        size, end, start = self.ranks.shape[1], self.memories + last, self.memories + first
        content, position = (x[:, :, first:last] for x in (q.content, q.position))
        k, v = k[:, :, :end], v[:, :, :end]
        table = table[:, size - last : size - first + end - 1]
        ranks = self.ranks[:, first:last]
        known = F.pad(ranks < 0, (start, 0), value=True)
        column = hiding(known, k.dtype, q.scale)[:, None].expand(-1, k.shape[1], -1, -1)
        some = attention(
            torch.cat([content, torch.ones_like(content[..., :1])], -1), torch.cat([k, column], -1), v, dense,
            Relative(position, table), scale=q.scale, dropout=q.dropout, return_lse=True,
        )  # fmt: skip
        out, lse = some
        # Where no key is known, the feature left the score near the lowest.
        lse = lse.masked_fill(~known.any(1)[:, None, None], float("-inf"))
        count = int((ranks >= 0).sum(1).max())
        if count == 0:
            return out
        places = (ranks < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :count]
        mine = ranks.gather(1, places)
        hidden = (mine[:, None, :] < 0) | (mine[:, :, None] <= mine[:, None, :])
        hidden &= ~torch.eye(count, dtype=torch.bool, device=k.device) | (mine < 0)[:, None, :]
        rows, small_k, small_v = (_at(x, places) for x in (position, k[:, :, start:], v[:, :, start:]))
        bias = q.scale * by_distance(rows, table, places, places + start, last - first)
        more = attention(
            _at(content, places), small_k, small_v, dense, Dense(bias.masked_fill(hidden[:, None], float("-inf"))),
            scale=q.scale, dropout=q.dropout, return_lse=True,
        )  # fmt: skip
        lses = lse.gather(2, places[:, None].expand(-1, lse.shape[1], -1)), more[1]
        both = merge([_at(out, places), more[0]], lses)[0]
        return out.scatter(2, places[:, None, :, None].expand(both.shape), both)


def by_distance(query: Tensor, table: Tensor, places: Tensor, keys: Tensor, size: int) -> Tensor:
    """What :class:`pkernels.Relative` adds, before the scale, written out for some pairs.

    Args:
        query: ``(B, H, n, D)``.
        table: ``(H, size + Sk - 1, D)``, for all ``size`` tokens and all keys.
        places: ``(B, n)`` of the queries among the tokens.
        keys: ``(B or 1, m)`` of the keys.

    Returns:
        ``(B, H, n, m)``.

    Example:
        >>> table = torch.tensor([[[10.0], [20.0], [30.0]]])  # of 2 tokens and 2 keys
        >>> by_distance(torch.ones(1, 1, 1, 1), table, torch.tensor([[1]]), torch.tensor([[0, 1]]), 2)
        tensor([[[[10., 20.]]]])
    """
    columns = keys[:, None, :] - places[:, :, None] + size - 1
    scores = query @ table.transpose(1, 2)
    return scores.gather(3, columns[:, None].expand(len(query), query.shape[1], -1, -1))


def segment_features(ids: Tensor, segments: int, dtype: torch.dtype) -> Tensor:
    """Features of keys by which queries know their segment: ``ids (B, S)`` -> ``(B, S, segments - 1)``.

    Whether a pair is of one segment decides which of two numbers its score gains. A softmax does
    not mind what it gains in all of a row, so the difference of the two, for keys of the query's
    segment, is enough; and the last segment is known by not being another.
    """
    return F.one_hot(ids.long(), segments)[..., :-1].to(dtype)


def segment_queries(gain: Tensor, ids: Tensor, segments: int) -> Tensor:
    """``gain (B, H, n)`` of keys in the query's segment -> what queries have for those features,
    ``(B, H, n, segments - 1)``.

    Example:
        >>> ids = torch.tensor([[0, 1, 2]])
        >>> q = segment_queries(torch.ones(1, 1, 3), ids, 3)
        >>> scores = q @ segment_features(ids, 3, q.dtype)[:, None].transpose(2, 3)
        >>> (scores - scores.amin(-1, keepdim=True))[0, 0].int()
        tensor([[1, 0, 0],
                [0, 1, 0],
                [0, 0, 1]], dtype=torch.int32)
    """
    signs = segment_features(ids, segments, gain.dtype) - (ids == segments - 1)[..., None].to(gain.dtype)
    return gain[..., None] * signs[:, None]


def _at(x: Tensor, places: Tensor) -> Tensor:
    """``x (B, H, S, D)`` at ``places (B, n)``."""
    return x.gather(2, places[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
