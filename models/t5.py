"""T5: Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer (Raffel,
Shazeer, Roberts, Lee, Narang, Matena, Zhou, Li, Liu 2019, arXiv:1910.10683).

What differs from the Transformer (Vaswani et al. 2017, arXiv:1706.03762):

- Section 2.1: a norm that scales by the root mean square alone, without mean and bias, stands
  before each sublayer, and one behind the last; no projection has a bias.
- Section 2.1: in place of position embeddings, a bias for each head and bucket of distances
  (``parts.relative``), which the layers of a side share; the decoder's attention to the
  encoder has none. Distances are the op's ``Distance``: no matrix of pairs, nor of their gradient.
- Section 3.1.4: spans of the text are hidden behind sentinels and told in the target
  (``objectives.hide_spans``); every task is text to text, told by a prefix
  (``objectives.as_text``; appendix D).
- The authors' code (mesh_tensorflow): scores are not divided by ``sqrt(d)``, which the initial
  values make up for; the decoder's states are multiplied by ``d_model ** -0.5`` before the word
  embeddings, to which the output is tied.

Version 1.1 (the authors' ``released_checkpoints.md``; Shazeer 2020, arXiv:2002.05202): a gated GELU
in the feed-forward network, an output of its own, and no factor before it.

Example:
    >>> import torch
    >>> from pkernels.models import build, t5
    >>> config = t5.Config(vocab_size=99, d_model=12, d_kv=4, d_ff=24, num_layers=1, num_heads=2)
    >>> model = build("T5ForConditionalGeneration", config)
    >>> model(torch.tensor([[5, 6, 7, 1]]), labels=torch.tensor([[8, 1]])).logits.shape
    torch.Size([1, 2, 99])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..patterns import causal, dense
from .parts.attention import SelfAttention
from .parts.config import BaseConfig
from .parts.crossing import CrossAttention
from .parts.embeddings import Words
from .parts.heads import Bare, MaskedLM, States
from .parts.keys import KeyMap, Same, Stacked, Transposed
from .parts.layers import ACTIVATIONS, FeedForward, PreNorm
from .parts.linear import Linear, linear
from .parts.model import Family
from .parts.relative import RelativeBias
from .parts.seq2seq import EncoderAlone, EncoderDecoder, Layer, OfDecoder, Stack, shifted_labels


@dataclass(frozen=True)
class Config(BaseConfig):
    """Sections 2.1 and 3.1.1; the defaults are T5-small's.

    Args:
        d_kv: Width of a head; all heads together need not be as wide as the model.
        num_decoder_layers: As many as ``num_layers``, if not given.
        feed_forward_proj: An activation, or "gated-" and one.
        tie_word_embeddings: Whether words are predicted by their embeddings.
        scale_decoder_outputs: Whether states are multiplied by ``d_model ** -0.5`` before; if they
            are tied, when not given.
    """

    model_type: ClassVar[str] = "t5"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"is_encoder_decoder": (True, False), "is_decoder": (False,)}

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"
    pad_token_id: int = 0
    eos_token_id: int = 1
    decoder_start_token_id: int = 0
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None

    def __post_init__(self) -> None:
        # What follows from other fields is said, as files have it.
        if self.num_decoder_layers is None:
            object.__setattr__(self, "num_decoder_layers", self.num_layers)
        if self.scale_decoder_outputs is None:
            object.__setattr__(self, "scale_decoder_outputs", self.tie_word_embeddings)
        self.check_positive("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads")
        self.check_probability("dropout_rate")
        bins, longest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if bins < 4 or bins % 4:
            raise ValueError(f"relative_attention_num_buckets: a multiple of 4 is allowed, got {bins}")
        if longest <= bins // 2:
            raise ValueError(f"relative_attention_max_distance: more than {bins // 2} is allowed, got {longest}")
        if self.act not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(
                f'feed_forward_proj: one of {known}, or "gated-" and one, is allowed, got {self.feed_forward_proj!r}'
            )

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def act(self) -> str:
        """Of "gated-gelu" the tanh form, as the weights were trained."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if self.gated and name == "gelu" else name

    @classmethod
    def small(cls) -> Config:
        """Section 3.7, as the four after it."""
        return cls()

    @classmethod
    def base(cls) -> Config:
        return cls(d_model=768, d_ff=3072, num_layers=12, num_heads=12)

    @classmethod
    def large(cls) -> Config:
        return cls(d_model=1024, d_ff=4096, num_layers=24, num_heads=16)

    @classmethod
    def b3(cls) -> Config:
        """t5-3b."""
        return cls(d_model=1024, d_kv=128, d_ff=16384, num_layers=24, num_heads=32)

    @classmethod
    def b11(cls) -> Config:
        """t5-11b."""
        return cls(d_model=1024, d_kv=128, d_ff=65536, num_layers=24, num_heads=128)

    @classmethod
    def v1_1(cls, size: str) -> Config:
        """Version 1.1, ``size`` one of ``V1_1``."""
        if size not in V1_1:
            raise ValueError(f"size: one of {', '.join(V1_1)} is allowed, got {size!r}")
        width, inner, layers, heads = V1_1[size]
        return cls(
            d_model=width, d_ff=inner, num_layers=layers, num_heads=heads, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )  # fmt: skip


# Size -> d_model, d_ff, num_layers, num_heads.
V1_1 = {
    "small": (512, 1024, 8, 6),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 24, 16),
    "xl": (2048, 5120, 24, 32),
    "xxl": (4096, 10240, 24, 64),
}


class Gated(nn.Module):
    """``down(dropout(act(x W) * (x V)))`` (Shazeer 2020, arXiv:2002.05202, section 2)."""

    def __init__(self, width: int, inner: int, act: str, *, dropout: float) -> None:
        super().__init__()
        self.both = Linear(width, 2 * inner, bias=False)
        self.down = Linear(inner, width, bias=False)
        self.act = ACTIVATIONS[act]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, linear = self.both(x).chunk(2, -1)
        return self.down(self.dropout(self.act(gate) * linear))


def _feed_forward(c: Config) -> nn.Module:
    if c.gated:
        return Gated(c.d_model, c.d_ff, c.act, dropout=c.dropout_rate)
    return FeedForward(c.d_model, c.d_ff, c.act, dropout=c.dropout_rate, bias=False)


def _layer(c: Config, decodes: bool) -> Layer:
    def wrapped(inner: nn.Module) -> PreNorm:
        return PreNorm(inner, nn.RMSNorm(c.d_model, eps=c.layer_norm_epsilon), dropout=c.dropout_rate)

    sizes: dict[str, Any] = {"head": c.d_kv, "scale": 1.0, "bias": False, "dropout": c.dropout_rate}
    attention = SelfAttention(c.d_model, c.num_heads, pattern=causal if decodes else dense, **sizes)
    cross = wrapped(CrossAttention(c.d_model, c.num_heads, **sizes)) if decodes else None
    return Layer(wrapped(attention), wrapped(_feed_forward(c)), cross)


def _stack(c: Config, words: nn.Embedding, decodes: bool) -> Stack:
    buckets = {"bins": c.relative_attention_num_buckets, "longest": c.relative_attention_max_distance}
    return Stack(
        Words(words, dropout=c.dropout_rate, of="decoder_" if decodes else ""),
        [_layer(c, decodes) for _ in range((c.num_decoder_layers or 0) if decodes else c.num_layers)],
        bias=RelativeBias(c.num_heads, **buckets, sides=1 if decodes else 2),
        end=nn.Sequential(nn.RMSNorm(c.d_model, eps=c.layer_norm_epsilon), nn.Dropout(c.dropout_rate)),
    )


def body(c: Config) -> EncoderDecoder:
    """Section 2.1: both sides, and one table of words."""
    words = nn.Embedding(c.vocab_size, c.d_model)
    encoder, decoder = (_stack(c, words, decodes) for decodes in (False, True))
    return EncoderDecoder(encoder, decoder, start=c.decoder_start_token_id)


def encoder(c: Config) -> EncoderAlone:
    """The first half of it."""
    return EncoderAlone(_stack(c, nn.Embedding(c.vocab_size, c.d_model), decodes=False))


class Output(nn.Module):
    """Scores of every word for each token."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.factor = c.d_model**-0.5 if c.scale_decoder_outputs else 1.0
        self.own = None if c.tie_word_embeddings else Linear(c.d_model, c.vocab_size, bias=False)

    def forward(self, states: States) -> Tensor:
        return linear(states.last * self.factor, states.table if self.own is None else self.own.weight)


HEADS = {
    "T5Model": lambda c: OfDecoder(Bare()),
    "T5ForConditionalGeneration": lambda c: OfDecoder(MaskedLM(Output(c))),
    "T5EncoderModel": lambda c: Bare(),
}

ARGUMENTS = {
    "T5ForConditionalGeneration": lambda c, given: shifted_labels(given, c.decoder_start_token_id, c.pad_token_id)
}


def initialise(model: nn.Module, c: Config) -> None:
    """mesh_tensorflow's: by the width that a projection sums over; queries take the missing
    ``1 / sqrt(d_kv)`` on them."""
    scales = {"down": c.d_ff**-0.5, "out": (c.num_heads * c.d_kv) ** -0.5, "words": 1.0, "own": 1.0}
    queries = (c.d_model * c.d_kv) ** -0.5
    for name, module in model.named_modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        leaf = name.rpartition(".")[2]
        nn.init.normal_(module.weight, std=c.initializer_factor * scales.get(leaf, c.d_model**-0.5))
        if leaf in ("q", "qkv"):
            nn.init.normal_(module.weight[: c.num_heads * c.d_kv], std=c.initializer_factor * queries)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            nn.init.constant_(module.weight, c.initializer_factor)


def stored(architecture: str, c: Config, tensors: dict[str, Tensor]) -> tuple[Config, dict[str, Tensor]]:
    """Files say by their tensors whether the output is tied: transformers 5 writes that it is in any
    case, and old files have it twice."""
    own, shared = tensors.get("lm_head.weight"), tensors.get("shared.weight")
    if own is None or not c.tie_word_embeddings:
        return c, tensors
    if shared is not None and torch.equal(own, shared):
        return c, {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    return dataclasses.replace(c, tie_word_embeddings=False), tensors


def _layer_rules(side: str, *more: str) -> dict[str, Same | Stacked]:
    """Names of one side's layers: sublayers are numbered, attention first."""
    rules: dict[str, Same | Stacked] = {}
    block = f"{side}.block.{{}}.layer"
    for i, name in enumerate(("attention", *more, "feed_forward")):
        ours, theirs = f"body.{side}.layers.{{}}.{name}", f"{block}.{i}"
        rules[f"{ours}.norm"] = Same(f"{theirs}.layer_norm")
        if name == "feed_forward":
            rules[f"{ours}.inner.down"] = Same(f"{theirs}.DenseReluDense.wo")
            rules[f"{ours}.inner.up"] = Same(f"{theirs}.DenseReluDense.wi")
            rules[f"{ours}.inner.both"] = Stacked(tuple(f"{theirs}.DenseReluDense.{x}" for x in ("wi_0", "wi_1")))
            continue
        inner = f"{theirs}.{'SelfAttention' if name == 'attention' else 'EncDecAttention'}"
        rules[f"{ours}.inner.qkv"] = Stacked(tuple(f"{inner}.{x}" for x in "qkv"))
        rules[f"{ours}.inner.q"] = Same(f"{inner}.q")
        rules[f"{ours}.inner.kv"] = Stacked(tuple(f"{inner}.{x}" for x in "kv"))
        rules[f"{ours}.inner.out"] = Same(f"{inner}.o")
    return {
        **rules,
        f"body.{side}.embeddings.words": Same("shared"),
        f"body.{side}.bias.table": Transposed(f"{block.format(0)}.0.SelfAttention.relative_attention_bias"),
        f"body.{side}.end.{{}}": Same(f"{side}.final_layer_norm"),
    }


KEYS = KeyMap(
    prefix="transformer",
    rules={**_layer_rules("encoder"), **_layer_rules("decoder", "cross"), "head.task.words.own": Same("lm_head")},
    tied={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    ignored=(r"EncDecAttention\.relative_attention_bias\.weight$",),
)

FAMILY = Family(Config, body, HEADS, KEYS, initialise, ARGUMENTS, {"T5EncoderModel": encoder}, stored)
