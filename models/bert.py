"""BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding
(Devlin, Chang, Lee, Toutanova 2019, arXiv:1810.04805).

What differs from the Transformer's encoder (Vaswani et al. 2017, arXiv:1706.03762):

- Section 3, "Model Architecture": the encoder alone, every token sees every token; residual
  and LayerNorm as there (after the sublayer), GELU in the feed-forward network.
- Section 3, "Input/Output Representations", figure 2: word, segment and *learned* position
  embeddings add up; [CLS] stands first, [SEP] ends each segment.
- Section 3.1, "Task #1: Masked LM": 15 % of the words are predicted, through a transform
  layer and the word embeddings themselves (``objectives.mask_tokens`` chooses them).
- Section 3.1, "Task #2: Next Sentence Prediction": from [CLS] through a tanh pooler; class 0
  is "the second segment follows the first" (``objectives.next_sentence_pairs``).

The exact (erf) GELU, the LayerNorm epsilon and the output biases are those of the published
weights (google-research/bert, and transformers for the names).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .parts.encoder import ClassifierConfig, Encoder, embeddings_of, layer_of
from .parts.heads import (
    Bare,
    MaskedLM,
    MultipleChoice,
    PairRelation,
    Pooler,
    QuestionAnswering,
    SequenceClassification,
    TokenClassification,
    WordPredictor,
    WordsAndRelation,
    flat_choices,
)
from .parts.keys import BERT_HEADS, KeyMap, Same, encoder_rules, tied_words
from .parts.layers import initialise
from .parts.linear import Linear
from .parts.model import Family


@dataclass(frozen=True)
class Config(ClassifierConfig):
    """Section 3: L layers, hidden size H, A heads; the defaults are BERT-base (uncased)."""

    model_type: ClassVar[str] = "bert"

    @classmethod
    def base(cls) -> Config:
        return cls()

    @classmethod
    def large(cls) -> Config:
        return cls(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)

    @classmethod
    def minilm(cls) -> Config:
        """MiniLM-L6-H384 (Wang et al. 2020, arXiv:2002.10957)."""
        return cls(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)

    @classmethod
    def macbert(cls) -> Config:
        """MacBERT-base (Cui et al. 2020, arXiv:2004.13922): BERT's architecture, Chinese words."""
        return cls(vocab_size=21128)

    @classmethod
    def tinybert4(cls) -> Config:
        """TinyBERT4 (Jiao et al. 2020, arXiv:1909.10351), the student of 4 layers."""
        return cls(hidden_size=312, num_hidden_layers=4, intermediate_size=1200)

    @classmethod
    def tinybert6(cls) -> Config:
        """TinyBERT6 (there), the student of 6 layers."""
        return cls(num_hidden_layers=6)


def body(c: Config) -> Encoder:
    """Figure 2 and section 3: embeddings and L layers."""
    return Encoder(embeddings_of(c, c.hidden_size), [layer_of(c) for _ in range(c.num_hidden_layers)])


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Linear(c.hidden_size, c.num_labels)
    return SequenceClassification(Pooler(c.hidden_size), classifier, dropout=c.head_dropout, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.hidden_size, c.num_labels), dropout=c.head_dropout)


def _of_choices(c: Config) -> MultipleChoice:
    return MultipleChoice(Pooler(c.hidden_size), Linear(c.hidden_size, 1), dropout=c.head_dropout)


# Sections 3.1 (pre-training) and 3.2, 4 (fine-tuning).
HEADS = {
    "BertModel": lambda c: Bare(Pooler(c.hidden_size)),
    "BertForPreTraining": lambda c: WordsAndRelation(_words(c), Pooler(c.hidden_size), Linear(c.hidden_size, 2)),
    "BertForMaskedLM": lambda c: MaskedLM(_words(c)),
    "BertForNextSentencePrediction": lambda c: PairRelation(Pooler(c.hidden_size), Linear(c.hidden_size, 2)),
    "BertForSequenceClassification": _of_sequences,
    "BertForTokenClassification": _of_tokens,
    "BertForQuestionAnswering": lambda c: QuestionAnswering(Linear(c.hidden_size, 2)),
    "BertForMultipleChoice": _of_choices,
}

ARGUMENTS = {"BertForMultipleChoice": lambda c, given: flat_choices(given)}

KEYS = KeyMap(
    prefix="bert",
    rules={**encoder_rules("bert"), **BERT_HEADS, "head.pooler": Same("bert.pooler")},
    tied=tied_words("bert", "cls.predictions"),
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
