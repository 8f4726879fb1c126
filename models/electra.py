"""ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators
(Clark, Luong, Le, Manning 2020, arXiv:2003.10555).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805), whose layers stay:

- Section 2: two models. The generator is a masked LM; the discriminator tells for every token
  whether it is the text's or the generator's.
- Section 3.2, "Weight Sharing": embeddings are those of both, as wide as the discriminator's;
  where a model's layers have another width, a linear layer leads there.
- Section 3.2, "Smaller Generators": as many layers, 1/4 to 1/2 as wide (:meth:`Config.generator`).
- Section 3.3, "Small Models": words of size 128 under layers of size 256.
- Appendix A: no prediction of the next sentence, so no pooler; the classes of a text come out of
  the first token through a GELU layer (google-research/electra).

Both are of ``model_type`` "electra": ElectraForMaskedLM is a generator, ElectraForPreTraining a
discriminator.

Example:
    >>> import torch
    >>> from pkernels.models import build, electra
    >>> sizes = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 24, "num_hidden_layers": 1}
    >>> model = build("ElectraForPreTraining", electra.Config(embedding_size=8, **sizes))
    >>> model(torch.tensor([[101, 7592, 102]])).logits.shape
    torch.Size([1, 3])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .parts.encoder import ClassifierConfig, Encoder, embeddings_of, layer_of
from .parts.heads import (
    Bare,
    Classifier,
    First,
    MaskedLM,
    MultipleChoice,
    Pooler,
    QuestionAnswering,
    SequenceClassification,
    States,
    TokenClassification,
    WordPredictor,
    flat_choices,
    labels_of,
)
from .parts.keys import KeyMap, Same, encoder_rules
from .parts.layers import ACTIVATIONS, initialise
from .parts.layouts import IGNORED
from .parts.linear import Linear
from .parts.model import Family
from .parts.outputs import Prediction


@dataclass(frozen=True)
class Config(ClassifierConfig):
    """Section 3 and table 6; the defaults are ELECTRA-small's discriminator.

    Args:
        embedding_size: Of words, positions and segments.
        summary_last_dropout: Under the scores of choices.
    """

    model_type: ClassVar[str] = "electra"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **ClassifierConfig.only,
        "summary_type": ("first",),
        "summary_use_proj": (True,),
        "summary_activation": ("gelu",),
    }

    embedding_size: int = 128
    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    summary_last_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("embedding_size")
        self.check_probability("summary_last_dropout")

    @classmethod
    def small(cls) -> Config:
        return cls()

    @classmethod
    def base(cls) -> Config:
        return cls(embedding_size=768, hidden_size=768, num_attention_heads=12, intermediate_size=3072)

    @classmethod
    def large(cls) -> Config:
        return cls(
            embedding_size=1024, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        )

    def generator(self, fraction: float) -> Config:
        """Section 3.2: the generator beside this discriminator, ``fraction`` of its width (table 6: 1/4,
        of base models 1/3); heads stay as wide.

        Example:
            >>> Config.base().generator(1 / 3).num_attention_heads
            4
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction: in (0, 1] is allowed, got {fraction}")
        head = self.hidden_size // self.num_attention_heads
        heads = max(1, round(self.num_attention_heads * fraction))
        inner = round(self.intermediate_size / self.hidden_size * heads * head)
        return replace(self, hidden_size=heads * head, num_attention_heads=heads, intermediate_size=inner)


def body(c: Config) -> Encoder:
    """Section 3.2: shared embeddings, a way to the layers' width, and layers."""
    project = None if c.embedding_size == c.hidden_size else Linear(c.embedding_size, c.hidden_size)
    return Encoder(embeddings_of(c, c.embedding_size), [layer_of(c) for _ in range(c.num_hidden_layers)], project)


class Discriminator(nn.Module):
    """Section 2: a score for each token, above 0 for "replaced", out of a layer of its own. The loss is
    binary cross-entropy of ``labels (B, S)``: 1 replaced, 0 original, -100 for neither."""

    targets = ("labels",)

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.act = ACTIVATIONS[act]
        self.score = Linear(width, 1)

    def forward(self, states: States, labels: Tensor | None = None) -> Prediction:
        layout = states.layout
        scores = self.score(self.act(self.dense(states.last))).squeeze(-1)
        loss = None
        if labels is not None:
            replaced = labels_of(layout, labels, classes=2)
            counted = replaced != IGNORED
            losses = F.binary_cross_entropy_with_logits(scores, replaced.to(scores.dtype), reduction="none")
            loss = losses.where(counted, 0).sum() / counted.sum()
        return Prediction(loss, layout.unpack(scores), states.hidden_states)


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.embedding_size, c.vocab_size, act="gelu", eps=c.layer_norm_eps)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Classifier(c.hidden_size, c.num_labels, dropout=c.head_dropout, act="gelu")
    return SequenceClassification(First(), classifier, dropout=c.head_dropout, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.hidden_size, c.num_labels), dropout=c.head_dropout)


def _of_choices(c: Config) -> MultipleChoice:
    return MultipleChoice(Pooler(c.hidden_size, "gelu"), Linear(c.hidden_size, 1), dropout=c.summary_last_dropout)


# Sections 2 (pre-training) and 3.1 (tasks).
HEADS = {
    "ElectraModel": lambda c: Bare(),
    "ElectraForPreTraining": lambda c: Discriminator(c.hidden_size, c.hidden_act),
    "ElectraForMaskedLM": lambda c: MaskedLM(_words(c)),
    "ElectraForSequenceClassification": _of_sequences,
    "ElectraForTokenClassification": _of_tokens,
    "ElectraForQuestionAnswering": lambda c: QuestionAnswering(Linear(c.hidden_size, 2)),
    "ElectraForMultipleChoice": _of_choices,
}

ARGUMENTS = {"ElectraForMultipleChoice": lambda c, given: flat_choices(given)}

KEYS = KeyMap(
    prefix="electra",
    rules={
        **encoder_rules("electra"),
        "body.project": Same("electra.embeddings_project"),
        "head.dense": Same("discriminator_predictions.dense"),
        "head.score": Same("discriminator_predictions.dense_prediction"),
        "head.words.dense": Same("generator_predictions.dense"),
        "head.words.norm": Same("generator_predictions.LayerNorm"),
        "head.words.bias": Same("generator_lm_head.bias"),
        "head.pooler.dense": Same("sequence_summary.summary"),
        "head.classifier": Same("classifier"),
        "head.spans": Same("qa_outputs"),
    },
    tied={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
