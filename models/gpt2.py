"""GPT-2: Language Models are Unsupervised Multitask Learners (Radford, Wu, Child, Luan, Amodei,
Sutskever 2019, OpenAI).

What differs from GPT (Radford et al. 2018), which is the Transformer's decoder (Vaswani et al.
2017, arXiv:1706.03762) without the attention to an encoder:

- Section 2.2: a byte-level BPE vocabulary of 50,257 units.
- Section 2.3: norms stand before each sublayer, and one behind the last layer; weights at the end
  of residual layers start narrower by the root of their number; 1024 positions.
- Table 2: four sizes, whose names count in billions of parameters.

Matrices are stored transposed (openai/gpt-2, ``conv1d``; transformers' names). Tasks beside the
next word are transformers': classes of a text come out of its last token.

Example:
    >>> import torch
    >>> from pkernels.models import build, gpt2
    >>> model = build("GPT2LMHeadModel", gpt2.Config(n_embd=12, n_layer=1, n_head=3)).eval()
    >>> model.generate(torch.tensor([[464, 3290]]), max_new_tokens=3).shape
    torch.Size([1, 5])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ..patterns import causal
from .parts.attention import SelfAttention
from .parts.decoder import Decoder, Layer, initialise
from .parts.embeddings import Unnormed
from .parts.gpt import GPTConfig, answers, conv_rules, last_word, next_word, of_sequences, of_tokens
from .parts.heads import Bare
from .parts.keys import KeyMap
from .parts.model import Family


@dataclass(frozen=True)
class Config(GPTConfig):
    """Table 2; the defaults are its first row's.

    Args:
        n_inner: Of the feed-forward network; four times ``n_embd`` if not given.
        scale_attn_weights: Whether scores are divided by the root of a head's size.
        scale_attn_by_inverse_layer_idx: Whether those of layer i, from 1 on, also by i.
    """

    model_type: ClassVar[str] = "gpt2"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"add_cross_attention": (False,), "tie_word_embeddings": (True,)}

    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("n_positions", "n_embd", "n_layer", "n_head")
        self.check_probability("resid_pdrop", "embd_pdrop", "attn_pdrop")
        self.check_heads("n_embd", "n_head")

    @classmethod
    def small(cls) -> Config:
        return cls()

    @classmethod
    def medium(cls) -> Config:
        return cls(n_embd=1024, n_layer=24, n_head=16)

    @classmethod
    def large(cls) -> Config:
        return cls(n_embd=1280, n_layer=36, n_head=20)

    @classmethod
    def xl(cls) -> Config:
        return cls(n_embd=1600, n_layer=48, n_head=25)

    @property
    def width(self) -> int:
        return self.n_embd

    def scale(self, layer: int) -> float:
        """Of the scores of a layer, which are counted from 0."""
        size = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        return size / (layer + 1) if self.scale_attn_by_inverse_layer_idx else size


def _layer(c: Config, number: int) -> Layer:
    attention = SelfAttention(c.n_embd, c.n_head, dropout=c.attn_pdrop, pattern=causal, scale=c.scale(number))
    inner = 4 * c.n_embd if c.n_inner is None else c.n_inner
    return Layer(attention, c.n_embd, inner, act=c.activation_function, dropout=c.resid_pdrop, eps=c.layer_norm_epsilon)


def body(c: Config) -> Decoder:
    """Section 2.3: embeddings, layers and the norm behind them."""
    embeddings = Unnormed(c.vocab_size, c.n_positions, c.n_embd, dropout=c.embd_pdrop)
    layers = [_layer(c, number) for number in range(c.n_layer)]
    return Decoder(embeddings, layers, nn.LayerNorm(c.n_embd, eps=c.layer_norm_epsilon))


HEADS = {
    "GPT2Model": lambda c: Bare(),
    "GPT2LMHeadModel": next_word,
    "GPT2ForSequenceClassification": of_sequences,
    "GPT2ForTokenClassification": of_tokens,
    "GPT2ForQuestionAnswering": answers,
}

ARGUMENTS = {"GPT2ForSequenceClassification": lambda c, given: last_word(c.pad_token_id, given)}

KEYS = KeyMap(
    prefix="transformer",
    rules=conv_rules(),
    tied={"lm_head.weight": "transformer.wte.weight"},
    ignored=(r"\.attn\.bias$", r"\.attn\.masked_bias$"),
)

FAMILY = Family(Config, body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
