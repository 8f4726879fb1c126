"""Words by how often they occur: the frequent ones in wide vectors and at little cost, the rare ones in
narrow vectors (Grave et al. 2017, arXiv:1609.04309; Baevski and Auli 2019, arXiv:1809.10853, section 3).

Words are numbered by frequency and cut into clusters. The first is scored together with one column
for each of the others, so a rare word's probability is its cluster's times its own within it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .heads import States, labels_of
from .layouts import IGNORED
from .linear import linear
from .outputs import AdaptivePrediction

Tables = tuple[tuple[Tensor, Tensor | None], ...]
"""For each cluster vectors ``(words, narrow)`` and their projection ``(width, narrow)``, if any."""


def clusters(cutoffs: tuple[int, ...], words: int) -> tuple[tuple[int, int], ...]:
    """First and last (excluded) word of each.

    Example:
        >>> clusters((4, 6), 9)
        ((0, 4), (4, 6), (6, 9))
    """
    return tuple(pairwise((0, *cutoffs, words)))


@dataclass
class AdaptiveStates(States):
    """A body's, with the embedding's tables."""

    tables: Tables = ()


class AdaptiveEmbedding(nn.Module):
    """Vectors of words times the root of ``width``.

    Args:
        width: Of what comes out; ``narrow`` that of the first cluster's vectors, each further
            cluster's being ``div`` times narrower. With ``div`` 1 there is one table for all.

    Attributes:
        tables: Of the clusters; ``projections`` ``(width, narrow)``: of each, none where all vectors
            are ``width`` wide.

    Example:
        >>> AdaptiveEmbedding((4, 6), 9, width=8, narrow=8, div=2)(torch.tensor([[0, 5, 8]])).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, cutoffs: tuple[int, ...], words: int, *, width: int, narrow: int, div: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = words, width  # as nn.Embedding has them
        self.clusters = clusters(cutoffs, words) if div > 1 else ((0, words),)
        sizes = [narrow // div**i for i in range(len(self.clusters))]
        self.tables = nn.ModuleList(
            nn.Embedding(last - first, size) for (first, last), size in zip(self.clusters, sizes, strict=True)
        )
        projected = div > 1 or narrow != width
        self.projections = nn.ParameterList(nn.Parameter(torch.empty(width, size)) for size in sizes if projected)

    def forward(self, ids: Tensor) -> Tensor:
        """``ids`` of any shape -> ``(..., width)``."""
        parts = self.parts()
        if len(parts) == 1:
            table, projection = parts[0]
            x = F.embedding(ids, table)
            return (x if projection is None else linear(x, projection)) * self.embedding_dim**0.5
        # The vectors of all clusters side by side, 0 but for the word's own: one product, whatever the words.
        # The narrow ones add little to its size.
        pieces = []
        for (first, last), (table, _) in zip(self.clusters, parts, strict=True):
            inside = (ids >= first) & (ids < last)
            pieces.append(F.embedding((ids - first).where(inside, 0), table) * inside[..., None])
        return linear(torch.cat(pieces, -1), torch.cat(list(self.projections), 1)) * self.embedding_dim**0.5

    def parts(self) -> Tables:
        """Tables and projections, to which a softmax may be tied."""
        projections = list(self.projections) or [None] * len(self.tables)
        return tuple((table.weight, projection) for table, projection in zip(self.tables, projections, strict=True))  # type: ignore[misc]


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of words, by tables that are the embedding's.

    Args:
        cutoffs, words, width, narrow, div: As :class:`AdaptiveEmbedding` has them.
        tied: For each cluster whether its projection is the embedding's too. (Of a model whose
            embedding has no projections neither has the softmax.)

    The clusters' columns stand behind the first cluster's words in the order of the clusters: that of
    the authors' TensorFlow program and of the published weights. (Their PyTorch program takes them in
    reverse.)
    """

    def __init__(
        self, cutoffs: tuple[int, ...], words: int, *, width: int, narrow: int, div: int, tied: tuple[bool, ...]
    ) -> None:
        super().__init__()
        self.clusters = clusters(cutoffs, words)
        self.one = div == 1
        sizes = [narrow // div**i for i in range(len(self.clusters))]
        projected = div > 1 or narrow != width
        self.projections = nn.ParameterDict({
            str(i): nn.Parameter(torch.empty(width, size))
            for i, size in enumerate(sizes)
            if projected and not tied[i]
        })  # fmt: skip
        lengths = [words] if self.one else [last - first for first, last in self.clusters]
        self.outs = nn.ModuleList(nn.ParameterDict({"bias": nn.Parameter(torch.zeros(n))}) for n in lengths)
        others = len(self.clusters) - 1
        self.columns = nn.Parameter(torch.zeros(others, narrow)) if others else None
        self.column_bias = nn.Parameter(torch.zeros(others)) if others else None

    def forward(self, states: AdaptiveStates) -> Tensor:
        """``(B, S, words)`` of states ``(B, S, width)``."""
        x, tables = states.last, states.tables
        head = self._head(x, tables)
        size = self.clusters[0][1]
        parts = [head[..., :size]]
        for i in range(1, len(self.clusters)):
            inside = _log_softmax(self._scores(x, tables, i))
            parts.append(head[..., size + i - 1, None] + inside)
        return torch.cat(parts, -1)

    def losses(self, states: AdaptiveStates, labels: Tensor) -> Tensor:
        """Negative log-probabilities ``(B * S,)`` of ``labels (B * S,)``, 0 where one is -100. Words of the
        rare clusters are scored where a label is one of them, nowhere else."""
        x, tables = states.last.flatten(0, 1), states.tables
        head, size = self._head(x, tables), self.clusters[0][1]
        # In the head, a rare word stands for its cluster.
        column = labels
        for i, (first, last) in enumerate(self.clusters[1:]):
            column = torch.where((labels >= first) & (labels < last), size + i, column)
        losses = F.nll_loss(head, column, ignore_index=IGNORED, reduction="none")
        for i, (first, last) in enumerate(self.clusters[1:], 1):
            rows = ((labels >= first) & (labels < last)).nonzero().squeeze(1)
            inside = _log_softmax(self._scores(x[rows], tables, i))
            losses = losses.index_add(0, rows, F.nll_loss(inside, labels[rows] - first, reduction="none"))
        return losses

    def _head(self, x: Tensor, tables: Tables) -> Tensor:
        return _log_softmax(self._scores(x, tables, 0))

    def _scores(self, x: Tensor, tables: Tables, i: int) -> Tensor:
        table, projection = tables[0 if self.one else i]
        bias: Tensor = self.outs[0 if self.one else i]["bias"]  # type: ignore[index]
        if self.one:
            table, bias = (y[slice(*self.clusters[i])] for y in (table, bias))
        if i == 0 and self.columns is not None and self.column_bias is not None:
            table, bias = torch.cat([table, self.columns]), torch.cat([bias, self.column_bias])
        projection = self.projections.get(str(i), projection)
        return linear(x if projection is None else linear(x, projection.t()), table, bias)


class NextWord(nn.Module):
    """The next word: ``labels (B, S)`` as :class:`heads.CausalLM` has them. With labels no score of a word
    that is not asked for leaves the softmax: there are ``losses`` then, and no ``logits``."""

    targets = ("labels",)

    def __init__(self, words: AdaptiveSoftmax) -> None:
        super().__init__()
        self.words = words

    def forward(self, states: AdaptiveStates, labels: Tensor | None = None) -> AdaptivePrediction:
        layout = states.layout
        if labels is None:
            logits = layout.unpack(self.words(states))
            return AdaptivePrediction(None, None, logits, states.hidden_states, states.mems)
        words = self.words.clusters[-1][1]
        following = layout.following(labels_of(layout, labels, words))
        losses = self.words.losses(states, following.flatten()).view(following.shape)
        loss = losses.sum() / (following != IGNORED).sum()
        return AdaptivePrediction(loss, losses[:, :-1], None, states.hidden_states, states.mems)


def _log_softmax(scores: Tensor) -> Tensor:
    return scores.log_softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
