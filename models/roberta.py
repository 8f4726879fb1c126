"""RoBERTa: A Robustly Optimized BERT Pretraining Approach (Liu et al. 2019, arXiv:1907.11692).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805), whose layers stay:

- Section 4.1, "Static vs. Dynamic Masking": words are chosen anew each time a text is seen.
- Section 4.2, "Model Input Format and Next Sentence Prediction": full sentences, no prediction
  of the next one; so there is one segment, and no pooler under the word predictor.
- Section 4.4, "Text Encoding": a byte-level BPE vocabulary of 50K units.
- Positions count from the padding's id + 1, and paddings stand at its id (fairseq,
  ``make_positions``): 512 tokens need a table of 514.
- Classes of a text come out of the first token through a layer of their own (fairseq,
  ``RobertaClassificationHead``).

Example:
    >>> import torch
    >>> from pkernels.models import build, roberta
    >>> config = roberta.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
    >>> build("RobertaForMaskedLM", config)(torch.tensor([[0, 31414, 2], [0, 2, 1]])).logits.shape
    torch.Size([2, 3, 50265])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from .parts.embeddings import AfterPadding
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
    TokenClassification,
    WordPredictor,
    flat_choices,
)
from .parts.keys import ROBERTA_HEADS, KeyMap, Same, encoder_rules, tied_words
from .parts.layers import initialise
from .parts.linear import Linear
from .parts.model import Family


@dataclass(frozen=True)
class Config(ClassifierConfig):
    """Section 2 and table 9. What a file leaves out has the default here, which is transformers'."""

    model_type: ClassVar[str] = "roberta"

    vocab_size: int = 50265
    pad_token_id: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_choice("pad_token_id", range(min(self.vocab_size, self.max_position_embeddings - 1)))

    @classmethod
    def base(cls, **sizes: Any) -> Config:
        published = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
        return cls(**{**published, **sizes})

    @classmethod
    def large(cls) -> Config:
        return cls.base(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)


def body(c: Config) -> Encoder:
    """Embeddings, whose positions know the padding, and layers."""
    embeddings = embeddings_of(c, c.hidden_size, numbering=AfterPadding(c.pad_token_id))
    return Encoder(embeddings, [layer_of(c) for _ in range(c.num_hidden_layers)])


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act="gelu", eps=c.layer_norm_eps)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Classifier(c.hidden_size, c.num_labels, dropout=c.head_dropout)
    return SequenceClassification(First(), classifier, dropout=c.head_dropout, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.hidden_size, c.num_labels), dropout=c.head_dropout)


def _of_choices(c: Config) -> MultipleChoice:
    return MultipleChoice(Pooler(c.hidden_size), Linear(c.hidden_size, 1), dropout=c.hidden_dropout_prob)


# Sections 4 (pre-training) and 5 (tasks).
HEADS = {
    "RobertaModel": lambda c: Bare(Pooler(c.hidden_size)),
    "RobertaForMaskedLM": lambda c: MaskedLM(_words(c)),
    "RobertaForSequenceClassification": _of_sequences,
    "RobertaForTokenClassification": _of_tokens,
    "RobertaForQuestionAnswering": lambda c: QuestionAnswering(Linear(c.hidden_size, 2)),
    "RobertaForMultipleChoice": _of_choices,
}

ARGUMENTS = {"RobertaForMultipleChoice": lambda c, given: flat_choices(given)}

KEYS = KeyMap(
    prefix="roberta",
    rules={**encoder_rules("roberta"), **ROBERTA_HEADS, "head.pooler": Same("roberta.pooler")},
    tied=tied_words("roberta", "lm_head"),
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
