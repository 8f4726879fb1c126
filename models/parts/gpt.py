"""What the GPTs share: settings, tasks, and names of published weights (transformers')."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...patterns import Band, causal, window
from .attention import SelfAttention
from .config import BaseConfig, spread
from .decoder import Decoder, Layer
from .embeddings import Unnormed
from .heads import (
    PROBLEMS,
    CausalLM,
    LastScore,
    QuestionAnswering,
    SequenceClassification,
    TiedWords,
    TokenClassification,
)
from .keys import Same, Transposed
from .layers import ACTIVATIONS
from .linear import Linear


@dataclass(frozen=True)
class GPTConfig(BaseConfig):
    """Settings that all have."""

    vocab_size: int = 50257
    activation_function: str = "gelu_new"
    classifier_dropout: float | None = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    pad_token_id: int | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size")
        self.check_probability("classifier_dropout")
        self.check_choice("activation_function", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))

    @property
    def width(self) -> int:
        """Of a token."""
        raise NotImplementedError


@dataclass(frozen=True)
class BandedConfig(GPTConfig):
    """Of models in which some layers see a band alone, under GPT-Neo's names.

    Args:
        attention_types: Pairs of kinds of layers, "global" or "local", and how often they follow
            one another; by default both alternate.
        window_size: Tokens that a "local" layer sees, a token's own among them.
        intermediate_size: Of the feed-forward network; four times ``hidden_size`` if not given.
    """

    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"tie_word_embeddings": (True,)}

    max_position_embeddings: int = 2048
    hidden_size: int = 2048
    num_layers: int = 24
    attention_types: tuple[object, ...] | None = None
    num_heads: int = 16
    intermediate_size: int | None = None
    window_size: int = 256
    resid_dropout: float = 0.0
    embed_dropout: float = 0.0
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("max_position_embeddings", "hidden_size", "num_layers", "num_heads")
        self.check_probability("resid_dropout", "embed_dropout", "attention_dropout")
        if len(self.kinds) != self.num_layers:
            raise ValueError(
                f"attention_types: kinds of {self.num_layers} layers (num_layers) are allowed, got {len(self.kinds)}"
            )
        if min(self.windows) < 1:
            raise ValueError(f"window_size: at least 1 is allowed, got {self.window_size}")

    @property
    def width(self) -> int:
        return self.hidden_size

    @property
    def kinds(self) -> tuple[str, ...]:
        """ "global" or "local" for each layer.

        Example:
            >>> BandedConfig(num_layers=3, attention_types=((("global",), 1), (("local",), 2))).kinds
            ('global', 'local', 'local')
        """
        if self.attention_types is None:
            return (("global", "local") * self.num_layers)[: self.num_layers]
        kinds: list[str] = []
        for pair in self.attention_types:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[1], int):
                raise ValueError(f'attention_types: pairs such as (("global", "local"), 6) are allowed, got {pair!r}')
            if not isinstance(pair[0], (list, tuple)) or not set(pair[0]) <= {"global", "local"}:
                raise ValueError(f'attention_types: "global" and "local" are allowed, got {pair[0]!r}')
            kinds += [*pair[0]] * pair[1]
        return tuple(kinds)

    @property
    def windows(self) -> tuple[int, ...]:
        """``window_size`` of each layer, whether it is a "local" one or not."""
        return spread("window_size", self.window_size, self.num_layers, "layers")

    @property
    def patterns(self) -> tuple[Band, ...]:
        """Of each layer."""
        pairs = zip(self.kinds, self.windows, strict=True)
        return tuple(causal if kind == "global" else window(width - 1, 0) for kind, width in pairs)


def banded(c: BandedConfig, **attention: Any) -> Decoder:
    """The decoder, whose layers have ``attention`` arguments as :class:`SelfAttention` takes them."""
    inner = 4 * c.hidden_size if c.intermediate_size is None else c.intermediate_size
    of_layer: dict[str, Any] = {"act": c.activation_function, "dropout": c.resid_dropout, "eps": c.layer_norm_epsilon}
    attends = (
        SelfAttention(c.hidden_size, c.num_heads, dropout=c.attention_dropout, pattern=pattern, **attention)
        for pattern in c.patterns
    )
    embeddings = Unnormed(c.vocab_size, c.max_position_embeddings, c.hidden_size, dropout=c.embed_dropout)
    layers = [Layer(attend, c.hidden_size, inner, **of_layer) for attend in attends]
    return Decoder(embeddings, layers, nn.LayerNorm(c.hidden_size, eps=c.layer_norm_epsilon))


def next_word(c: GPTConfig) -> CausalLM:
    return CausalLM(TiedWords())


def of_sequences(c: GPTConfig) -> SequenceClassification:
    """Of the last token, by a matrix alone."""
    score = LastScore(c.width, c.num_labels)
    return SequenceClassification(score, nn.Identity(), dropout=0.0, problem=c.problem_type)


def of_tokens(c: GPTConfig) -> TokenClassification:
    dropout = 0.1 if c.classifier_dropout is None else c.classifier_dropout
    return TokenClassification(Linear(c.width, c.num_labels), dropout=dropout)


def answers(c: GPTConfig) -> QuestionAnswering:
    return QuestionAnswering(Linear(c.width, 2))


def gpt_rules(linear: type[Same]) -> dict[str, Same]:
    """Names of all but attention's projections; ``linear``: how the feed-forward network's are stored."""
    return {
        "body.embeddings.words": Same("transformer.wte"),
        "body.embeddings.positions": Same("transformer.wpe"),
        "body.layers.{}.attention.norm": Same("transformer.h.{}.ln_1"),
        "body.layers.{}.feed_forward.norm": Same("transformer.h.{}.ln_2"),
        "body.layers.{}.feed_forward.inner.up": linear("transformer.h.{}.mlp.c_fc"),
        "body.layers.{}.feed_forward.inner.down": linear("transformer.h.{}.mlp.c_proj"),
        "body.norm": Same("transformer.ln_f"),
        "head.pooler.score": Same("score"),
        "head.classifier": Same("classifier"),
        "head.spans": Same("qa_outputs"),
    }


def conv_rules() -> dict[str, Same]:
    """All names of GPT-2, whose matrices are stored ``(in, out)``."""
    return {
        **gpt_rules(Transposed),
        "body.layers.{}.attention.inner.qkv": Transposed("transformer.h.{}.attn.c_attn"),
        "body.layers.{}.attention.inner.out": Transposed("transformer.h.{}.attn.c_proj"),
    }


def last_word(pad: int | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a classifier by the last token: what stands behind the last one other than the
    padding ``pad`` is no part of the text, as in transformers. (No token sees it anyway.)"""
    ids = arguments.get("input_ids")
    if pad is None or not isinstance(ids, Tensor) or ids.dim() != 2:
        return arguments
    if arguments.get("lengths") is not None or arguments.get("offsets") is not None:
        return arguments
    index = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    inside = index <= (index * (ids != pad)).amax(1, keepdim=True).clamp(min=1)
    mask = arguments.get("attention_mask")
    return {**arguments, "attention_mask": inside.long() if mask is None else mask * inside}
