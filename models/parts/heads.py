"""Tasks on top of a body: each takes the body's ``States`` and its own labels.

A label of -100, and any label of a padding token, carries no loss. Dimensions that a head
needs come in through its parts, so a family composes heads out of its own pieces.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .layers import ACTIVATIONS
from .layouts import IGNORED, Whole
from .linear import Linear, linear
from .outputs import Encoding, Prediction, PreTraining, Span


@dataclass
class States:
    """What a body hands to its head.

    Args:
        last: Hidden states of the layout's tokens.
        words: ``(V, width)``, the table of word embeddings, to which word predictors are tied;
            None of bodies that read no words.
        hidden_states: Unpacked states of all layers, if asked for.
        mems: Memories for the next segment (:mod:`recurrence`).
    """

    last: Tensor
    layout: Whole
    words: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None
    mems: tuple[Tensor, ...] | None = field(default=None, kw_only=True)

    @property
    def table(self) -> Tensor:
        """``words``, of a body that reads some."""
        if self.words is None:
            raise TypeError("a word predictor stands on a body that reads words")
        return self.words


class Pooler(nn.Module):
    """``act(dense(first token))``, one vector per sequence, of ``out`` numbers if not of as many as
    a token."""

    def __init__(self, width: int, act: str = "tanh", out: int | None = None) -> None:
        super().__init__()
        self.dense = Linear(width, out or width)
        self.act = ACTIVATIONS[act]

    def forward(self, states: States) -> Tensor:
        return self.act(self.dense(states.layout.first(states.last)))


class First(nn.Module):
    """The first token itself, one vector per sequence."""

    def forward(self, states: States) -> Tensor:
        return states.layout.first(states.last)


class LastScore(nn.Module):
    """Scores of classes from the last token, which has seen all others where none sees later ones."""

    def __init__(self, width: int, labels: int) -> None:
        super().__init__()
        self.score = Linear(width, labels, bias=False)

    def forward(self, states: States) -> Tensor:
        return self.score(states.layout.last(states.last))


class TiedWords(nn.Module):
    """Scores of every word for each token: the state times the word embeddings."""

    def forward(self, states: States) -> Tensor:
        return linear(states.last, states.table)


class Classifier(nn.Module):
    """``out_proj(dropout(act(dense(x))))``: RoBERTa's classes (fairseq, ``RobertaClassificationHead``);
    ``inner``: the width in between, by default the same."""

    def __init__(self, width: int, labels: int, *, dropout: float, act: str = "tanh", inner: int | None = None) -> None:
        super().__init__()
        inner = width if inner is None else inner
        self.dense = Linear(width, inner)
        self.act = ACTIVATIONS[act]
        self.dropout = nn.Dropout(dropout)
        self.out_proj = Linear(inner, labels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.act(self.dense(x))))


class WordPredictor(nn.Module):
    """Scores of every word for each token: ``norm(act(dense(x)))`` times the word embeddings,
    plus a bias of its own.

    Args:
        width: Of the hidden states.
        table: Width of the word embeddings.
    """

    def __init__(self, width: int, table: int, words: int, *, act: str, eps: float) -> None:
        super().__init__()
        self.dense = Linear(width, table)
        self.act = ACTIVATIONS[act]
        self.norm = nn.LayerNorm(table, eps=eps)
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, states: States) -> Tensor:
        return linear(self.norm(self.act(self.dense(states.last))), states.table, self.bias)


class Bare(nn.Module):
    """No task: hidden states and, of families that have a pooler, the pooled first token."""

    targets = ()

    def __init__(self, pooler: nn.Module | None = None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, states: States) -> Encoding:
        pooled = None if self.pooler is None else self.pooler(states)
        return Encoding(states.layout.unpack(states.last), pooled, states.hidden_states, states.mems)


class MaskedLM(nn.Module):
    """Cloze: ``labels (B, S)`` hold the true word where it is to be predicted, else -100."""

    targets = ("labels",)

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self.words = words

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.words(states)
        loss = token_loss(states.layout, logits, labels)
        return Prediction(loss, states.layout.unpack(logits), states.hidden_states, states.mems)


class CausalLM(nn.Module):
    """The next word: ``labels (B, S)`` are the words themselves, or -100 for those that are not to
    be predicted; what a token predicts is the label of the one after it."""

    targets = ("labels",)

    def __init__(self, words: nn.Module) -> None:
        super().__init__()
        self.words = words

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        layout, logits = states.layout, self.words(states)
        loss = None
        if labels is not None:
            following = layout.following(labels_of(layout, labels, logits.shape[-1]))
            loss = F.cross_entropy(logits.flatten(0, 1), following.flatten())
        return Prediction(loss, layout.unpack(logits), states.hidden_states, states.mems)


class PairRelation(nn.Module):
    """How the two segments relate: ``labels (B,)``, for BERT 0 if the second follows the first."""

    targets = ("labels",)

    def __init__(self, pooler: nn.Module, relation: nn.Linear) -> None:
        super().__init__()
        self.pooler, self.relation = pooler, relation

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.relation(self.pooler(states))
        return Prediction(class_loss("labels", logits, labels), logits, states.hidden_states, states.mems)


class WordsAndRelation(nn.Module):
    """Cloze and pair relation at once; the losses add up."""

    targets = ("labels", "next_sentence_label")

    def __init__(self, words: nn.Module, pooler: nn.Module, relation: nn.Linear, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.words, self.pooler, self.relation = words, pooler, relation
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, states: States, labels: Tensor | None = None, next_sentence_label: Tensor | None = None
    ) -> PreTraining:
        logits = self.words(states)
        relation = self.relation(self.dropout(self.pooler(states)))
        losses = (
            token_loss(states.layout, logits, labels),
            class_loss(self.targets[1], relation, next_sentence_label),
        )
        both = None if losses[0] is None or losses[1] is None else losses[0] + losses[1]
        return PreTraining(both, states.layout.unpack(logits), relation, states.hidden_states)


PROBLEMS = ("single_label_classification", "multi_label_classification", "regression")


class SequenceClassification(nn.Module):
    """Classes of a whole sequence. The loss is cross-entropy of ``labels (B,)``, or binary
    cross-entropy or squared error of ``labels (B, n)``, by ``problem``, one of ``PROBLEMS``;
    by default what the labels suggest, as in transformers."""

    targets = ("labels",)

    def __init__(self, pooler: nn.Module, classifier: nn.Module, *, dropout: float, problem: str | None) -> None:
        super().__init__()
        self.pooler, self.classifier = pooler, classifier
        self.dropout = nn.Dropout(dropout)
        self.problem = problem

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.classifier(self.dropout(self.pooler(states)))
        return Prediction(self._loss(logits, labels), logits, states.hidden_states, states.mems)

    def _loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        if labels is None:
            return None
        problem = self.problem or _problem(logits, labels)
        if problem == "single_label_classification":
            return class_loss("labels", logits, labels)
        if labels.numel() != logits.numel():
            raise ValueError(f"labels: {problem} wants shape {tuple(logits.shape)}, got {tuple(labels.shape)}")
        measure = F.mse_loss if problem == "regression" else F.binary_cross_entropy_with_logits
        return measure(logits, labels.reshape(logits.shape).to(logits.dtype))


class MultipleChoice(nn.Module):
    """Which of several texts fits: ``labels (B,)``. The body's rows are the texts, ``choices`` of
    them for each label (see :func:`flat_choices`)."""

    targets = ("labels", "choices")

    def __init__(self, pooler: nn.Module, classifier: nn.Module, *, dropout: float) -> None:
        super().__init__()
        self.pooler, self.classifier = pooler, classifier
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: States, labels: Tensor | None = None, choices: int = 1) -> Prediction:
        logits = self.classifier(self.dropout(self.pooler(states))).reshape(-1, choices)
        return Prediction(class_loss("labels", logits, labels), logits, states.hidden_states, states.mems)


def flat_choices(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of shape ``(B, choices, ...)`` as those of ``B * choices`` texts, and ``choices``."""
    name, dims = ("input_ids", 3) if arguments.get("input_ids") is not None else ("inputs_embeds", 4)
    x = arguments.get(name)
    if not isinstance(x, Tensor) or x.dim() != dims or x.shape[1] == 0:
        given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: shape (B, choices, S{', width' * (dims - 3)}) is allowed, got {given}")
    of_texts = {n: y for n, y in arguments.items() if isinstance(y, Tensor) and y.shape[:2] == x.shape[:2]}
    return {**arguments, **{n: y.flatten(0, 1) for n, y in of_texts.items()}, "choices": x.shape[1]}


class TokenClassification(nn.Module):
    """A class for each token: ``labels (B, S)``, -100 where there is none."""

    targets = ("labels",)

    def __init__(self, classifier: nn.Linear, *, dropout: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        logits = self.classifier(self.dropout(states.last))
        loss = token_loss(states.layout, logits, labels)
        return Prediction(loss, states.layout.unpack(logits), states.hidden_states, states.mems)


class QuestionAnswering(nn.Module):
    """Where an answer starts and ends: ``start_positions`` and ``end_positions (B,)``; places
    outside the text carry no loss. The softmax runs over real tokens alone (in transformers
    over padding too, so there the loss depends on how far a batch is padded), and where
    ``questions (B, S)`` is true the logits are 1e6 less."""

    targets = ("start_positions", "end_positions", "questions")

    def __init__(self, spans: nn.Module, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.spans = spans
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        states: States,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        questions: Tensor | None = None,
    ) -> Span:
        scores = states.layout.unpack(self.spans(self.dropout(states.last)), fill=float("-inf"))
        start, end = (scores if questions is None else scores - 1e6 * questions[..., None]).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (place_loss(start, start_positions) + place_loss(end, end_positions)) / 2
        return Span(loss, start, end, states.hidden_states, states.mems)


def token_loss(layout: Whole, logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Mean cross-entropy over labelled tokens; ``logits`` of the layout's tokens."""
    if labels is None:
        return None
    return F.cross_entropy(logits.flatten(0, 1), labels_of(layout, labels, logits.shape[-1]).flatten())


def labels_of(layout: Whole, labels: Tensor, classes: int) -> Tensor:
    """``labels (B, S)`` of the layout's tokens, -100 or below ``classes``."""
    if tuple(labels.shape) != tuple(layout.shape):
        raise ValueError(f"labels: shape {tuple(layout.shape)} is allowed, got {tuple(labels.shape)}")
    return _checked("labels", layout.labels(labels), classes)


def class_loss(name: str, logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Mean cross-entropy of one label per row of ``logits (B, n)``."""
    if labels is None:
        return None
    if labels.numel() != logits.shape[0]:
        raise ValueError(f"{name}: shape ({logits.shape[0]},) is allowed, got {tuple(labels.shape)}")
    return F.cross_entropy(logits, _checked(name, labels.reshape(-1), logits.shape[-1]))


def _checked(name: str, labels: Tensor, classes: int) -> Tensor:
    look = labels.device.type == "cpu" and labels.numel() > 0 and not torch.compiler.is_compiling()
    if look and bool((((labels < 0) & (labels != IGNORED)) | (labels >= classes)).any()):
        raise ValueError(
            f"{name}: {IGNORED} and 0 to {classes - 1} are allowed, got {int(labels.min())} to {int(labels.max())}"
        )
    return labels.long()


def _problem(logits: Tensor, labels: Tensor) -> str:
    if logits.shape[-1] == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def place_loss(logits: Tensor, places: Tensor) -> Tensor:
    """Mean cross-entropy of ``logits (B, S)``; ``places (B,)`` outside the text carry none."""
    inside = (places >= 0) & (places < logits.shape[1])
    return F.cross_entropy(logits, places.where(inside, IGNORED))
