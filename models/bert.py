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

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from .parts.attention import SelfAttention
from .parts.config import BaseConfig
from .parts.embeddings import Embeddings, inputs_layout
from .parts.heads import (
    PROBLEMS,
    Bare,
    MaskedLM,
    PairRelation,
    Pooler,
    QuestionAnswering,
    SequenceClassification,
    States,
    TokenClassification,
    WordPredictor,
    WordsAndRelation,
)
from .parts.keys import KeyMap, Same, encoder_rules
from .parts.layers import ACTIVATIONS, FeedForward, PostNorm, initialise
from .parts.layouts import Whole
from .parts.model import Family


@dataclass(frozen=True)
class Config(BaseConfig):
    """Section 3: L layers, hidden size H, A heads; the defaults are BERT-base (uncased)."""

    model_type: ClassVar[str] = "bert"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    }

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        self.check_positive("intermediate_size", "max_position_embeddings", "type_vocab_size")
        self.check_probability("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        self.check_heads("hidden_size", "num_attention_heads")
        self.check_choice("hidden_act", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))

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


class Layer(nn.Module):
    """Section 3: self-attention, then a feed-forward network, each normed after its residual."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        attention = SelfAttention(c.hidden_size, c.num_attention_heads, dropout=c.attention_probs_dropout_prob)
        feed_forward = FeedForward(c.hidden_size, c.intermediate_size, c.hidden_act)
        norm = {"eps": c.layer_norm_eps, "dropout": c.hidden_dropout_prob}
        self.attention = PostNorm(attention, c.hidden_size, **norm)
        self.feed_forward = PostNorm(feed_forward, c.hidden_size, **norm)

    def forward(self, x: Tensor, layout: Whole) -> Tensor:
        return self.feed_forward(self.attention(x, layout))


class Body(nn.Module):
    """Figure 2 and section 3: embeddings and L layers."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.embeddings = Embeddings(
            c.vocab_size, c.max_position_embeddings, c.type_vocab_size, c.hidden_size,
            eps=c.layer_norm_eps, dropout=c.hidden_dropout_prob, padding=c.pad_token_id,
        )  # fmt: skip
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> States:
        layout = inputs_layout(input_ids, inputs_embeds, attention_mask, lengths, offsets)
        x = self.embeddings(layout, input_ids, token_type_ids, position_ids, inputs_embeds)
        trace = deque([x], maxlen=None if output_hidden_states else 1)
        for layer in self.layers:
            trace.append(layer(trace[-1], layout))
        states = tuple(layout.unpack(x) for x in trace) if output_hidden_states else None
        return States(trace[-1], layout, self.embeddings.words.weight, states)


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act=c.hidden_act, eps=c.layer_norm_eps)


def _classifier(c: Config) -> tuple[nn.Linear, float]:
    dropout = c.hidden_dropout_prob if c.classifier_dropout is None else c.classifier_dropout
    return nn.Linear(c.hidden_size, c.num_labels), dropout


def _of_sequences(c: Config) -> SequenceClassification:
    classifier, dropout = _classifier(c)
    return SequenceClassification(Pooler(c.hidden_size), classifier, dropout=dropout, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    classifier, dropout = _classifier(c)
    return TokenClassification(classifier, dropout=dropout)


# Sections 3.1 (pre-training) and 3.2, 4 (fine-tuning).
HEADS = {
    "BertModel": lambda c: Bare(Pooler(c.hidden_size)),
    "BertForPreTraining": lambda c: WordsAndRelation(_words(c), Pooler(c.hidden_size), nn.Linear(c.hidden_size, 2)),
    "BertForMaskedLM": lambda c: MaskedLM(_words(c)),
    "BertForNextSentencePrediction": lambda c: PairRelation(Pooler(c.hidden_size), nn.Linear(c.hidden_size, 2)),
    "BertForSequenceClassification": _of_sequences,
    "BertForTokenClassification": _of_tokens,
    "BertForQuestionAnswering": lambda c: QuestionAnswering(nn.Linear(c.hidden_size, 2)),
}

KEYS = KeyMap(
    prefix="bert",
    rules={
        **encoder_rules("bert"),
        "head.pooler": Same("bert.pooler"),
        "head.words.dense": Same("cls.predictions.transform.dense"),
        "head.words.norm": Same("cls.predictions.transform.LayerNorm"),
        "head.words.bias": Same("cls.predictions.bias"),
        "head.relation": Same("cls.seq_relationship"),
        "head.classifier": Same("classifier"),
        "head.spans": Same("qa_outputs"),
    },
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=(r"embeddings\.position_ids$", r"embeddings\.token_type_ids$"),
)

FAMILY = Family(Config, Body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range))
