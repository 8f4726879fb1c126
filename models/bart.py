"""BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
Comprehension (Lewis, Liu, Goyal, Ghazvininejad, Mohamed, Levy, Stoyanov, Zettlemoyer 2019,
arXiv:1910.13461).

What differs from the Transformer (Vaswani et al. 2017, arXiv:1706.03762):

- Section 2.1: GELU instead of ReLU, initial values from N(0, 0.02); the norm stands behind each
  sublayer, as there and in BERT, without whose layer before the word prediction it does.
- Section 2.2: a text is spoilt by some noise (``objectives.denoising``), and told as it was.
- Section 3.1: a text's class comes out of the decoder's last token, whose text is the same as the
  encoder's.
- Section 3.2: a token's class, and the ends of an answer, out of the decoder's states.
- Section 3.4: translation has a new encoder in place of the encoder's word embeddings
  (``bart_translation``).
- The authors' code (fairseq): the embeddings are normed, positions are learned and their table
  begins with two that are not used, and the word scores have a bias that is not trained.

The decoder's text is, if none is given, the encoder's a place to the right, as in transformers.

Example:
    >>> import torch
    >>> from pkernels.models import bart, build
    >>> config = bart.Config(vocab_size=99, d_model=32, encoder_layers=1, decoder_layers=1, max_position_embeddings=9)
    >>> model = build("BartForConditionalGeneration", config)
    >>> model(torch.tensor([[0, 5, 50, 7, 2]]), labels=torch.tensor([[0, 5, 6, 7, 2]])).logits.shape
    torch.Size([1, 5, 99])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..patterns import causal, dense
from .parts.attention import SelfAttention
from .parts.config import BaseConfig
from .parts.crossing import CrossAttention
from .parts.embeddings import Embeddings, From
from .parts.heads import (
    PROBLEMS,
    Bare,
    Classifier,
    MaskedLM,
    QuestionAnswering,
    SequenceClassification,
    States,
    TokenClassification,
)
from .parts.keys import KeyMap, Same, Stacked
from .parts.layers import ACTIVATIONS, FeedForward, PostNorm
from .parts.linear import Linear, linear
from .parts.model import Family
from .parts.seq2seq import Decoded, EncoderDecoder, Layer, OfDecoder, Stack, shifted, shifted_labels

UNUSED = 2  # positions, with which the table begins


@dataclass(frozen=True)
class Config(BaseConfig):
    """Section 2.1; the defaults are BART-large's."""

    model_type: ClassVar[str] = "bart"
    only: ClassVar[dict[str, tuple[Any, ...]]] = {
        "is_encoder_decoder": (True,),
        "is_decoder": (False,),
        "tie_word_embeddings": (True,),
        "encoder_layerdrop": (0.0,),
        "decoder_layerdrop": (0.0,),
        "normalize_before": (False,),
        "add_final_layer_norm": (False,),
        "static_position_embeddings": (False,),
    }

    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1", "LABEL_2")
    vocab_size: int = 50265
    max_position_embeddings: int = 1024
    encoder_layers: int = 12
    encoder_ffn_dim: int = 4096
    encoder_attention_heads: int = 16
    decoder_layers: int = 12
    decoder_ffn_dim: int = 4096
    decoder_attention_heads: int = 16
    activation_function: str = "gelu"
    d_model: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    classifier_dropout: float = 0.0
    init_std: float = 0.02
    scale_embedding: bool = False
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int = 2
    decoder_start_token_id: int = 2
    forced_eos_token_id: int | None = 2
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "max_position_embeddings", "d_model", "encoder_layers", "decoder_layers")
        self.check_positive("encoder_ffn_dim", "decoder_ffn_dim", "encoder_attention_heads", "decoder_attention_heads")
        self.check_probability("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
        self.check_heads("d_model", "encoder_attention_heads")
        self.check_heads("d_model", "decoder_attention_heads")
        self.check_choice("activation_function", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))

    @classmethod
    def base(cls) -> Config:
        sizes = {"layers": 6, "ffn_dim": 3072, "attention_heads": 12}
        both = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in sizes.items()}
        return cls(d_model=768, **both)  # type: ignore[arg-type]

    @classmethod
    def large(cls) -> Config:
        return cls()


class ScaledWords(nn.Embedding):
    """Word embeddings times a factor."""

    def __init__(self, words: int, width: int, padding: int, factor: float) -> None:
        super().__init__(words, width, padding_idx=padding)
        self.factor = factor

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.factor


def words_of(c: Config) -> nn.Embedding:
    """Word embeddings as the config says."""
    if c.scale_embedding:
        return ScaledWords(c.vocab_size, c.d_model, c.pad_token_id, c.d_model**0.5)
    return nn.Embedding(c.vocab_size, c.d_model, padding_idx=c.pad_token_id)


def stack_of(c: Config, words: nn.Embedding, side: str) -> Stack:
    """The "encoder" or the "decoder"."""
    decodes = side == "decoder"
    count, inner, heads = (getattr(c, f"{side}_{name}") for name in ("layers", "ffn_dim", "attention_heads"))

    def wrapped(sublayer: nn.Module) -> PostNorm:
        return PostNorm(sublayer, c.d_model, eps=1e-5, dropout=c.dropout)

    def layer() -> Layer:
        pattern = causal if decodes else dense
        attention = SelfAttention(c.d_model, heads, dropout=c.attention_dropout, pattern=pattern)
        feed_forward = FeedForward(c.d_model, inner, c.activation_function, dropout=c.activation_dropout)
        cross = wrapped(CrossAttention(c.d_model, heads, dropout=c.attention_dropout)) if decodes else None
        return Layer(wrapped(attention), wrapped(feed_forward), cross)

    embeddings = Embeddings(
        words, c.max_position_embeddings + UNUSED, 0, c.d_model, eps=1e-5, dropout=c.dropout,
        padding=c.pad_token_id, numbering=From(UNUSED), of="decoder_" if decodes else "",
    )  # fmt: skip
    return Stack(embeddings, [layer() for _ in range(count)])


def body(c: Config) -> EncoderDecoder:
    """Section 2.1: both sides, and one table of words."""
    words = words_of(c)

    def shift(ids: Tensor, offsets: Tensor | None) -> Tensor:
        return shifted(ids, c.decoder_start_token_id, c.pad_token_id, offsets)

    encoder, decoder = (stack_of(c, words, side) for side in ("encoder", "decoder"))
    return EncoderDecoder(encoder, decoder, start=c.decoder_start_token_id, last=c.forced_eos_token_id, shift=shift)


class Output(nn.Module):
    """Scores of every word for each token; files have their bias, which is 0 but in odd cases, as a row."""

    bias: Tensor

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(1, c.vocab_size))

    def forward(self, states: States) -> Tensor:
        return linear(states.last, states.table, self.bias[0])


class LastEnd(nn.Module):
    """The decoder's state where the text has its last <eos> (section 3.1), one vector for each text."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def forward(self, states: Decoded) -> Tensor:
        ids, x = states.source, states.layout.unpack(states.last)
        if ids is None or ids.shape != x.shape[:2]:
            given = None if ids is None else tuple(ids.shape)
            raise ValueError(f"input_ids: ids of the decoder's shape {tuple(x.shape[:2])} are allowed, got {given}")
        ends = ids == self.end
        if not torch.compiler.is_compiling() and not bool(ends.any(1).all()):
            raise ValueError(f"input_ids: a text with an <eos> ({self.end}) in each row is allowed, got one without")
        place = ids.shape[1] - 1 - ends.flip(1).int().argmax(1)
        return x[torch.arange(len(x), device=x.device), place]


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Classifier(c.d_model, c.num_labels, dropout=c.classifier_dropout)
    pooler = LastEnd(c.eos_token_id)
    return SequenceClassification(pooler, classifier, dropout=c.classifier_dropout, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.d_model, c.num_labels), dropout=c.classifier_dropout)


# Sections 2.2 and 3.3 (words), 3.1 (texts), 3.2 (tokens).
HEADS = {
    "BartModel": lambda c: OfDecoder(Bare()),
    "BartForConditionalGeneration": lambda c: OfDecoder(MaskedLM(Output(c))),
    "BartForSequenceClassification": lambda c: OfDecoder(_of_sequences(c)),
    "BartForTokenClassification": lambda c: OfDecoder(_of_tokens(c)),
    "BartForQuestionAnswering": lambda c: OfDecoder(QuestionAnswering(Linear(c.d_model, 2))),
}

ARGUMENTS = {
    "BartForConditionalGeneration": lambda c, given: shifted_labels(given, c.decoder_start_token_id, c.pad_token_id)
}


def initialise(model: nn.Module, c: Config) -> None:
    """Section 2.1: weights from N(0, 0.02), biases and the padding's row 0."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=c.init_std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            with torch.no_grad():
                module.weight[module.padding_idx].zero_()


def stored(architecture: str, c: Config, tensors: dict[str, Tensor]) -> tuple[Config, dict[str, Tensor]]:
    """Files without a word prediction have no bias of it, which is 0 then."""
    if architecture == "BartForConditionalGeneration" and "final_logits_bias" not in tensors:
        tensors = {**tensors, "final_logits_bias": torch.zeros(1, c.vocab_size)}
    return c, tensors


def _rules(side: str) -> dict[str, Same | Stacked]:
    ours, theirs = f"body.{side}.layers.{{}}", f"model.{side}.layers.{{}}"
    own, cross = f"{theirs}.self_attn", f"{theirs}.encoder_attn"
    return {
        f"body.{side}.embeddings.words": Same("model.shared"),
        f"body.{side}.embeddings.positions": Same(f"model.{side}.embed_positions"),
        f"body.{side}.embeddings.norm": Same(f"model.{side}.layernorm_embedding"),
        f"{ours}.attention.inner.qkv": Stacked(tuple(f"{own}.{x}_proj" for x in "qkv")),
        f"{ours}.attention.inner.out": Same(f"{own}.out_proj"),
        f"{ours}.attention.norm": Same(f"{own}_layer_norm"),
        f"{ours}.cross.inner.q": Same(f"{cross}.q_proj"),
        f"{ours}.cross.inner.kv": Stacked(tuple(f"{cross}.{x}_proj" for x in "kv")),
        f"{ours}.cross.inner.out": Same(f"{cross}.out_proj"),
        f"{ours}.cross.norm": Same(f"{cross}_layer_norm"),
        f"{ours}.feed_forward.inner.up": Same(f"{theirs}.fc1"),
        f"{ours}.feed_forward.inner.down": Same(f"{theirs}.fc2"),
        f"{ours}.feed_forward.norm": Same(f"{theirs}.final_layer_norm"),
    }


KEYS = KeyMap(
    prefix="model",
    rules={
        **_rules("encoder"),
        **_rules("decoder"),
        "head.task.words.bias": Same("final_logits_bias"),
        "head.task.classifier.dense": Same("classification_head.dense"),
        "head.task.classifier.out_proj": Same("classification_head.out_proj"),
        "head.task.classifier": Same("classifier"),
        "head.task.spans": Same("qa_outputs"),
    },
    tied={
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    },
    ignored=(r"(encoder|decoder)\.version$", r"embed_positions\._float_tensor$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, initialise, ARGUMENTS, stored=stored)
