"""DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter
(Sanh, Debut, Chaumond, Wolf 2019, arXiv:1910.01108).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805), whose layers stay:

- Section 3, "Student architecture": half as many layers; no token-type embeddings, no pooler.
- Section 3, "Student initialization": from one of two of the teacher's layers.
- Section 2: trained to give the teacher's distribution of words and hidden states, beside
  masked LM.
- Classes of a text come out of the first token through a ReLU layer (transformers).

Names are those of transformers (``dim``, ``n_layers``, ...), the LayerNorm epsilon is fixed there.

Example:
    >>> import torch
    >>> from pkernels.models import build, distilbert
    >>> config = distilbert.Config(dim=12, n_layers=1, n_heads=3, hidden_dim=24)
    >>> build("DistilBertForMaskedLM", config)(torch.tensor([[101, 103, 102]])).logits.shape
    torch.Size([1, 3, 30522])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .parts.config import BaseConfig
from .parts.embeddings import Embeddings
from .parts.encoder import Encoder, Layer
from .parts.heads import (
    PROBLEMS,
    Bare,
    MaskedLM,
    MultipleChoice,
    Pooler,
    QuestionAnswering,
    SequenceClassification,
    States,
    TokenClassification,
    WordPredictor,
    flat_choices,
)
from .parts.keys import KeyMap, Same, Stacked, embeddings_rules
from .parts.layers import ACTIVATIONS, initialise
from .parts.linear import Linear
from .parts.model import Family

EPS = 1e-12


@dataclass(frozen=True)
class Config(BaseConfig):
    """Section 3; the defaults are DistilBERT-base (uncased).

    Args:
        dim, hidden_dim: Sizes of a token, and within the feed-forward network.
        dropout, attention_dropout: Of sublayers and of attention's weights.
        qa_dropout, seq_classif_dropout: Before the scores of answers, and of classes and choices.
    """

    model_type: ClassVar[str] = "distilbert"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"tie_word_embeddings": (True,)}

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim")
        self.check_probability("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout")
        self.check_heads("dim", "n_heads")
        self.check_choice("activation", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))

    @classmethod
    def base(cls) -> Config:
        return cls()


class Body(Encoder):
    """Section 3: words and positions, and layers."""

    def __init__(self, c: Config) -> None:
        layers = [
            Layer(
                c.dim, c.n_heads, c.hidden_dim, act=c.activation,
                attention_dropout=c.attention_dropout, dropout=c.dropout, eps=EPS,
            )
            for _ in range(c.n_layers)
        ]  # fmt: skip
        words, positions = c.vocab_size, c.max_position_embeddings
        super().__init__(
            Embeddings(words, positions, 0, c.dim, eps=EPS, dropout=c.dropout, padding=c.pad_token_id), layers
        )

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        token_type_ids: None = None,
        **given: Any,
    ) -> States:
        return super().forward(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, **given)


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.dim, c.dim, c.vocab_size, act=c.activation, eps=EPS)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Linear(c.dim, c.num_labels)
    return SequenceClassification(
        Pooler(c.dim, "relu"), classifier, dropout=c.seq_classif_dropout, problem=c.problem_type
    )


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.dim, c.num_labels), dropout=c.dropout)


def _of_choices(c: Config) -> MultipleChoice:
    return MultipleChoice(Pooler(c.dim, "relu"), Linear(c.dim, 1), dropout=c.seq_classif_dropout)


# Sections 3 (training) and 4 (tasks).
HEADS = {
    "DistilBertModel": lambda c: Bare(),
    "DistilBertForMaskedLM": lambda c: MaskedLM(_words(c)),
    "DistilBertForSequenceClassification": _of_sequences,
    "DistilBertForTokenClassification": _of_tokens,
    "DistilBertForQuestionAnswering": lambda c: QuestionAnswering(Linear(c.dim, 2), dropout=c.qa_dropout),
    "DistilBertForMultipleChoice": _of_choices,
}

ARGUMENTS = {"DistilBertForMultipleChoice": lambda c, given: flat_choices(given)}

_LAYER = "distilbert.transformer.layer.{}"
KEYS = KeyMap(
    prefix="distilbert",
    rules={
        **embeddings_rules("distilbert"),
        "body.layers.{}.attention.inner.qkv": Stacked(
            tuple(f"{_LAYER}.attention.{name}_lin" for name in ("q", "k", "v"))
        ),
        "body.layers.{}.attention.inner.out": Same(f"{_LAYER}.attention.out_lin"),
        "body.layers.{}.attention.norm": Same(f"{_LAYER}.sa_layer_norm"),
        "body.layers.{}.feed_forward.inner.up": Same(f"{_LAYER}.ffn.lin1"),
        "body.layers.{}.feed_forward.inner.down": Same(f"{_LAYER}.ffn.lin2"),
        "body.layers.{}.feed_forward.norm": Same(f"{_LAYER}.output_layer_norm"),
        "head.words.dense": Same("vocab_transform"),
        "head.words.norm": Same("vocab_layer_norm"),
        "head.words.bias": Same("vocab_projector.bias"),
        "head.pooler.dense": Same("pre_classifier"),
        "head.classifier": Same("classifier"),
        "head.spans": Same("qa_outputs"),
    },
    tied={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ignored=(r"embeddings\.position_ids$",),
)

FAMILY = Family(Config, Body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
