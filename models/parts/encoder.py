"""BERT's encoder, which most after it have kept (Devlin et al. 2019, arXiv:1810.04805, section 3)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from .attention import SelfAttention
from .config import BaseConfig
from .embeddings import Embeddings, inputs_layout
from .heads import PROBLEMS, States
from .layers import ACTIVATIONS, FeedForward, PostNorm
from .layouts import Whole


@dataclass(frozen=True)
class EncoderConfig(BaseConfig):
    """Section 3: L layers, hidden size H, A heads; the defaults are BERT-base's (uncased)."""

    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    }

    least_types: ClassVar[int] = 1

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
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        self.check_positive("intermediate_size", "max_position_embeddings")
        self.check_least("type_vocab_size", self.least_types)
        self.check_probability("hidden_dropout_prob", "attention_probs_dropout_prob")
        self.check_heads("hidden_size", "num_attention_heads")
        self.check_choice("hidden_act", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))


@dataclass(frozen=True)
class ClassifierConfig(EncoderConfig):
    """Classifiers may have a dropout of their own."""

    classifier_dropout: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_probability("classifier_dropout")

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class Layer(nn.Module):
    """Self-attention, then a feed-forward network, each normed after its residual.

    Args:
        width, inner: Sizes of a token, and within the feed-forward network.
        attention_dropout: Of attention's weights; ``dropout`` is that of both sublayers.
    """

    def __init__(
        self, width: int, heads: int, inner: int, *, act: str, attention_dropout: float, dropout: float, eps: float
    ) -> None:
        super().__init__()
        attention = SelfAttention(width, heads, dropout=attention_dropout)
        self.attention = PostNorm(attention, width, eps=eps, dropout=dropout)
        self.feed_forward = PostNorm(FeedForward(width, inner, act), width, eps=eps, dropout=dropout)

    def forward(self, x: Tensor, layout: Whole, *context: Any) -> Tensor:
        """``context``: a bias and a pattern of this call, as :class:`SelfAttention` takes them."""
        return self.feed_forward(self.attention(x, layout, *context))


def layer_of(c: EncoderConfig) -> Layer:
    """A layer as the config says."""
    return Layer(
        c.hidden_size, c.num_attention_heads, c.intermediate_size, act=c.hidden_act,
        attention_dropout=c.attention_probs_dropout_prob, dropout=c.hidden_dropout_prob, eps=c.layer_norm_eps,
    )  # fmt: skip


def embeddings_of(c: EncoderConfig, width: int, **more: Any) -> Embeddings:
    """Embeddings of ``width`` as the config says; ``more`` arguments as :class:`Embeddings` takes them."""
    return Embeddings(
        c.vocab_size, c.max_position_embeddings, c.type_vocab_size, width,
        eps=c.layer_norm_eps, dropout=c.hidden_dropout_prob, padding=c.pad_token_id, **more,
    )  # fmt: skip


class Encoder(nn.Module):
    """Embeddings, then layers one after the other.

    Args:
        layers: Called with hidden states and a layout.
        project: From the embeddings to the layers, if their widths differ.

    Example:
        >>> import torch
        >>> c = EncoderConfig(hidden_size=12, num_attention_heads=3, intermediate_size=24)
        >>> body = Encoder(embeddings_of(c, 12), [layer_of(c)])
        >>> body(torch.tensor([[101, 7592, 102]])).last.shape
        torch.Size([1, 3, 12])
    """

    def __init__(self, embeddings: Embeddings, layers: Iterable[nn.Module], project: nn.Module | None = None) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.project = nn.Identity() if project is None else project
        self.layers = nn.ModuleList(layers)

    def sequence(self) -> Iterable[nn.Module]:
        """The layers in the order in which they work."""
        return self.layers

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
        x = self.project(self.embeddings(layout, input_ids, token_type_ids, position_ids, inputs_embeds))
        return self.through(x, layout, output_hidden_states=output_hidden_states)

    def through(self, x: Tensor, layout: Whole, *context: Any, output_hidden_states: bool = False) -> States:
        """The layers, one after the other, on the embeddings; each gets the layout and the ``context``."""
        trace = deque([x], maxlen=None if output_hidden_states else 1)
        for layer in self.sequence():
            trace.append(layer(trace[-1], layout, *context))
        states = tuple(layout.unpack(x) for x in trace) if output_hidden_states else None
        return States(trace[-1], layout, self.embeddings.words.weight, states)
