"""Tasks of UNITER beside pre-training (Chen et al. 2019, arXiv:1909.11740, section 4.1): answers to questions, captions
and pictures ranked, statements about two pictures, the region that an expression means."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..attention import attention
from ..bias import Dense
from .parts.attention import join_heads, split_heads
from .parts.heads import Pooler, States, class_loss
from .parts.joint import JointStates, real_places
from .parts.layouts import Packed, Whole
from .parts.linear import Linear, linear
from .parts.outputs import Prediction
from .parts.region_heads import part


class Answers(nn.Module):
    """``out(norm(gelu(dense(x))))``, in between twice as wide (the authors' ``vqa_output``)."""

    def __init__(self, width: int, answers: int, *, eps: float) -> None:
        super().__init__()
        self.dense, self.norm = Linear(width, 2 * width), nn.LayerNorm(2 * width, eps=eps)
        self.out = Linear(2 * width, answers)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(F.gelu(self.dense(x))))


class QuestionAnswering(nn.Module):
    """Visual question answering, and visual entailment, where the answers are its three relations: ``labels (B,
    answers)``, how right each answer is, 0 to 1. The loss is binary cross-entropy, summed over answers, mean over
    the batch."""

    targets = ("labels",)

    def __init__(self, pooler: Pooler, answers: Answers) -> None:
        super().__init__()
        self.pooler, self.answers = pooler, answers

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.answers(self.pooler(states))
        loss = None
        if labels is not None:
            if labels.shape != logits.shape or not labels.is_floating_point():
                seen = f"{labels.dtype} of {tuple(labels.shape)}"
                raise ValueError(f"labels: floats of shape {tuple(logits.shape)} are allowed, got {seen}")
            each = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none")
            loss = each.sum(1).mean()
        return Prediction(loss, logits, states.hidden_states)


class Retrieval(nn.Module):
    """Image-text retrieval: ``logits (B, 1)``, the higher the better a text and a picture fit.

    With ``candidates``, n, the rows are groups of n pairs, of which the first belongs together. The loss is
    ``max(0, margin + sigmoid(other) - sigmoid(right))``, mean over all others.
    """

    targets = ("candidates",)

    def __init__(self, pooler: Pooler, width: int, margin: float) -> None:
        super().__init__()
        self.pooler, self.ranking, self.margin = pooler, Linear(width, 1), margin

    def forward(self, states: States, candidates: int | None = None) -> Prediction:
        logits = self.ranking(self.pooler(states))
        loss = None
        if candidates is not None:
            if candidates < 2 or len(logits) % candidates:
                raise ValueError(
                    f"candidates: 2 or more, of which the {len(logits)} rows are a multiple, are allowed, "
                    f"got {candidates}"
                )
            score = logits.float().sigmoid().reshape(-1, candidates)
            loss = (self.margin + score[:, 1:] - score[:, :1]).clamp(min=0).mean()
        return Prediction(loss, logits, states.hidden_states)


class Expression(nn.Module):
    """Referring expression comprehension: ``logits (B, R)`` of regions, -inf in padding; ``labels (B,)``, which one
    is meant."""

    targets = ("labels",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = Linear(width, 1)

    def forward(self, states: JointStates, labels: Tensor | None = None) -> Prediction:
        regions = part("regions", states)
        logits = regions.layout.unpack(self.score(regions.last), fill=float("-inf"))[..., 0]
        loss = class_loss("labels", logits, labels)
        look = loss is not None and logits.device.type == "cpu" and not torch.compiler.is_compiling()
        if look and bool(torch.isinf(loss)):  # type: ignore[arg-type]
            raise ValueError(f"labels: numbers of real regions are allowed, got {labels.tolist()}")  # type: ignore[union-attr]
        return Prediction(loss, logits, states.hidden_states)


# NLVR2: whether a statement is true of two pictures --------------------------------------


class Triplet(nn.Module):
    """Rows have the statement and the regions of both pictures: ``logits (B, 2)``, ``labels (B,)``, 1 for true."""

    targets = ("labels",)

    def __init__(self, pooler: Pooler, width: int) -> None:
        super().__init__()
        self.pooler, self.answer = pooler, Linear(width, 2)

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.answer(self.pooler(states))
        return Prediction(class_loss("labels", logits, labels), logits, states.hidden_states)


class Paired(nn.Module):
    """Rows ``2 i`` and ``2 i + 1`` have the statement, each with one of the pictures: ``logits (B / 2, 2)`` from both
    pooled vectors."""

    targets = ("labels",)

    def __init__(self, pooler: Pooler, width: int) -> None:
        super().__init__()
        self.pooler, self.answer = pooler, Linear(2 * width, 2)

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        vectors = self.pooler(states)
        _check_pairs(len(vectors))
        logits = self.answer(vectors.reshape(len(vectors) // 2, -1))
        return Prediction(class_loss("labels", logits, labels), logits, states.hidden_states)


class Crossed(nn.Module):
    """Attention of tokens to those of another row (the authors' ``MultiheadAttention``)."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)

    def forward(self, x: Tensor, other: Tensor, **rows: object) -> Tensor:
        """``rows``: :func:`pkernels.attention`'s arguments about padding."""
        weight, bias = self.qkv.weight, self.qkv.bias
        width = x.shape[-1]
        [q] = split_heads(linear(x, weight[:width], bias[:width]), 1, self.heads)
        k, v = split_heads(linear(other, weight[width:], bias[width:]), 2, self.heads)
        dropout = self.dropout if self.training else 0.0
        return self.out(join_heads(attention(q, k, v, dropout=dropout, **rows)))  # type: ignore[arg-type]


class PairedAttention(nn.Module):
    """As :class:`Paired`, but each row's tokens, words and regions, look at the other row's before they are pooled by
    learned weights ("Pair-biattn")."""

    targets = ("labels",)

    def __init__(self, width: int, heads: int, *, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.left, self.right = (Crossed(width, heads, dropout=attention_dropout) for _ in range(2))
        self.both, self.dropout = Linear(2 * width, width), nn.Dropout(dropout)
        self.weigh, self.pool_dropout = Linear(width, 1), nn.Dropout(attention_dropout)
        self.answer = Linear(2 * width, 2)

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        real = real_places(states.layout)
        _check_pairs(len(real))
        x, z = self._looked(states)
        both = self.dropout(F.relu(self.both(torch.cat([z, x], -1))))
        scores = F.relu(self.weigh(both))[..., 0].masked_fill(~real, float("-inf"))
        shares = self.pool_dropout(scores.softmax(1))
        pooled = (shares[:, None] @ both)[:, 0]
        logits = self.answer(pooled.reshape(len(pooled) // 2, -1))
        return Prediction(class_loss("labels", logits, labels), logits, states.hidden_states)

    def _looked(self, states: States) -> tuple[Tensor, Tensor]:
        """``(B, S, width)``: tokens, and what they found in the other row; 0 in padding."""
        layout, last = states.layout, states.last
        if isinstance(layout, Packed):
            row = torch.bucketize(torch.arange(last.shape[1], device=last.device), layout.offsets[1:], right=True)
            here = (row % 2 == 0).nonzero()[:, 0], (row % 2 == 1).nonzero()[:, 0]
            sizes = layout.offsets.diff()
            starts = [F.pad(sizes[side::2].cumsum(0), (1, 0)).to(layout.offsets.dtype) for side in range(2)]
            one, two = (last[:, places] for places in here)
            seen = self.left(one, two, offsets=tuple(starts)), self.right(two, one, offsets=tuple(starts[::-1]))
            found = torch.cat(seen, 1)
            looked = torch.empty_like(found).index_copy(1, torch.cat(here), found)
            return layout.unpack(last), layout.unpack(looked)
        x, keys = layout.unpack(last), _hidden(layout)
        found = torch.stack([
            self.left(x[::2], x[1::2], bias=None if keys is None else Dense(keys[1::2])),
            self.right(x[1::2], x[::2], bias=None if keys is None else Dense(keys[::2])),
        ], 1)  # fmt: skip
        return x, found.flatten(0, 1)


def _hidden(layout: Whole) -> Tensor | None:
    """``(B, 1, 1, S)``: -inf for padding; None where there is none."""
    if type(layout) is Whole:
        return None
    real = real_places(layout)
    return torch.zeros(real.shape, device=real.device).masked_fill(~real, float("-inf"))[:, None, None]


def _check_pairs(rows: int) -> None:
    if rows % 2:
        raise ValueError(f"input_ids, regions: an even number of rows, two for each statement, is allowed, got {rows}")
