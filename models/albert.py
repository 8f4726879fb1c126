"""ALBERT: A Lite BERT for Self-supervised Learning of Language Representations
(Lan, Chen, Goodman, Gimpel, Sharma, Soricut 2020, arXiv:1909.11942).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805):

- Section 3.1, "Factorized embedding parameterization": embeddings of size E, E smaller than H,
  and a matrix from E to H; the word predictor goes back from H to E.
- Section 3.1, "Cross-layer parameter sharing": one layer works L times. (The authors' code,
  google-research/albert, can share within groups of layers, and repeat several layers.)
- Section 3.1, "Inter-sentence coherence loss": whether two consecutive segments stand in their
  order (class 0) or are swapped, instead of next sentence prediction.
- Section 4.1: masked n-grams; GELU in its tanh form is the authors' code.

Names are those of transformers, its defaults ALBERT-xxlarge's.

Example:
    >>> import torch
    >>> from pkernels.models import albert, build
    >>> sizes = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 24, "num_hidden_layers": 4}
    >>> model = build("AlbertForPreTraining", albert.Config(embedding_size=8, **sizes))
    >>> model(torch.tensor([[2, 4, 3]])).sop_logits.shape
    torch.Size([1, 2])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .parts.encoder import Encoder, EncoderConfig, embeddings_of, layer_of
from .parts.heads import (
    Bare,
    MaskedLM,
    MultipleChoice,
    Pooler,
    QuestionAnswering,
    SequenceClassification,
    States,
    TokenClassification,
    WordPredictor,
    WordsAndRelation,
    flat_choices,
)
from .parts.keys import KeyMap, Same, Stacked, embeddings_rules, tied_words
from .parts.layers import initialise
from .parts.linear import Linear
from .parts.model import Family
from .parts.outputs import OrderPreTraining


@dataclass(frozen=True)
class Config(EncoderConfig):
    """Section 3.2, table 1.

    Args:
        embedding_size: E.
        num_hidden_groups: Layers of the same group share their parameters.
        inner_group_num: Layers in a group, of which each has its own; all of them work in
            each of the ``num_hidden_layers`` steps.
    """

    model_type: ClassVar[str] = "albert"

    vocab_size: int = 30000
    embedding_size: int = 128
    hidden_size: int = 4096
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    num_attention_heads: int = 64
    intermediate_size: int = 16384
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("embedding_size", "num_hidden_groups", "inner_group_num")
        self.check_probability("classifier_dropout_prob")
        if self.num_hidden_groups > self.num_hidden_layers:
            raise ValueError(
                f"num_hidden_groups: at most num_hidden_layers ({self.num_hidden_layers}) is allowed, "
                f"got {self.num_hidden_groups}"
            )

    @classmethod
    def base(cls) -> Config:
        return cls(hidden_size=768, num_attention_heads=12, intermediate_size=3072)

    @classmethod
    def large(cls) -> Config:
        return cls(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)

    @classmethod
    def xlarge(cls) -> Config:
        return cls(hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, intermediate_size=8192)

    @classmethod
    def xxlarge(cls) -> Config:
        return cls()


class Body(Encoder):
    """Section 3.1: ``layers[group][i]`` are the distinct ones."""

    def __init__(self, c: Config) -> None:
        groups = [nn.ModuleList(layer_of(c) for _ in range(c.inner_group_num)) for _ in range(c.num_hidden_groups)]
        super().__init__(embeddings_of(c, c.embedding_size), groups, Linear(c.embedding_size, c.hidden_size))
        # In floating point, as published: it decides between groups of unequal size.
        self.groups = [int(step / (c.num_hidden_layers / c.num_hidden_groups)) for step in range(c.num_hidden_layers)]

    def sequence(self) -> Iterator[nn.Module]:
        for group in self.groups:
            yield from self.layers[group]  # type: ignore[misc]


class WordsAndOrder(WordsAndRelation):
    """Section 3.1: cloze, and whether the segments are in order (``sentence_order_label (B,)``, 0) or
    swapped (1); the losses add up."""

    targets = ("labels", "sentence_order_label")

    def forward(  # type: ignore[override]
        self, states: States, labels: Tensor | None = None, sentence_order_label: Tensor | None = None
    ) -> OrderPreTraining:
        out = super().forward(states, labels, sentence_order_label)
        return OrderPreTraining(out.loss, out.prediction_logits, out.seq_relationship_logits, out.hidden_states)


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.embedding_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _of_both(c: Config) -> WordsAndOrder:
    order = Linear(c.hidden_size, 2)
    return WordsAndOrder(_words(c), Pooler(c.hidden_size), order, dropout=c.classifier_dropout_prob)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier, dropout = Linear(c.hidden_size, c.num_labels), c.classifier_dropout_prob
    return SequenceClassification(Pooler(c.hidden_size), classifier, dropout=dropout, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.hidden_size, c.num_labels), dropout=c.classifier_dropout_prob)


def _of_choices(c: Config) -> MultipleChoice:
    return MultipleChoice(Pooler(c.hidden_size), Linear(c.hidden_size, 1), dropout=c.classifier_dropout_prob)


# Sections 3.1 (pre-training) and 4 (tasks).
HEADS = {
    "AlbertModel": lambda c: Bare(Pooler(c.hidden_size)),
    "AlbertForPreTraining": _of_both,
    "AlbertForMaskedLM": lambda c: MaskedLM(_words(c)),
    "AlbertForSequenceClassification": _of_sequences,
    "AlbertForTokenClassification": _of_tokens,
    "AlbertForQuestionAnswering": lambda c: QuestionAnswering(Linear(c.hidden_size, 2)),
    "AlbertForMultipleChoice": _of_choices,
}

ARGUMENTS = {"AlbertForMultipleChoice": lambda c, given: flat_choices(given)}

_LAYER = "albert.encoder.albert_layer_groups.{}.albert_layers.{}"
KEYS = KeyMap(
    prefix="albert",
    rules={
        **embeddings_rules("albert"),
        "body.project": Same("albert.encoder.embedding_hidden_mapping_in"),
        "body.layers.{}.{}.attention.inner.qkv": Stacked(
            tuple(f"{_LAYER}.attention.{name}" for name in ("query", "key", "value"))
        ),
        "body.layers.{}.{}.attention.inner.out": Same(f"{_LAYER}.attention.dense"),
        "body.layers.{}.{}.attention.norm": Same(f"{_LAYER}.attention.LayerNorm"),
        "body.layers.{}.{}.feed_forward.inner.up": Same(f"{_LAYER}.ffn"),
        "body.layers.{}.{}.feed_forward.inner.down": Same(f"{_LAYER}.ffn_output"),
        "body.layers.{}.{}.feed_forward.norm": Same(f"{_LAYER}.full_layer_layer_norm"),
        "head.pooler.dense": Same("albert.pooler"),
        "head.words.dense": Same("predictions.dense"),
        "head.words.norm": Same("predictions.LayerNorm"),
        "head.words.bias": Same("predictions.bias"),
        "head.relation": Same("sop_classifier.classifier"),
        "head.classifier": Same("classifier"),
        "head.spans": Same("qa_outputs"),
    },
    tied=tied_words("albert", "predictions"),
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
)

FAMILY = Family(Config, Body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
