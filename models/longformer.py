"""Longformer: The Long-Document Transformer (Beltagy, Peters, Cohan 2020, arXiv:2004.05150).

What differs from RoBERTa (Liu et al. 2019, arXiv:1907.11692), whose embeddings and heads stay:

- Section 3.1, "Sliding Window": a token sees w / 2 tokens on each side, w being the layer's.
- Section 3.1, "Dilated Sliding Window": the window's steps may be d apart, d being the head's.
- Section 3.1, "Global Attention": chosen tokens see all and are seen by all: [CLS] for classes
  of a text, the question's tokens for answers.
- Section 3.1, "Linear Projections for Global Attention": the rows of global tokens come out of
  projections of their own, which start as copies of the others.
- Section 4.1: autoregressive, the window has its left half alone; ``labels`` are then the next
  tokens. (The paper's character models also know positions only by their distance, as
  Transformer-XL does; these do not.)
- Section 5: positions up to 4,096, trained on by masked LM (``objectives.mask_tokens`` on rows
  that ``objectives.cut`` makes of long text).

Time and memory grow as the length times the window. Any length will do. Names are those of
transformers; ``attention_dilation`` and ``autoregressive`` are the authors' (allenai/longformer),
and transformers, which has neither, ignores them.

Example, bytes as tokens (a base model is ``Config.base(32768)``, nothing more):
    >>> from pydoc_data.topics import topics
    >>> from pkernels.models import build, longformer
    >>> from pkernels.models.parts.objectives import cut
    >>> text = "".join(topics[name] for name in sorted(topics)).encode()
    >>> ids = cut([4 + byte for byte in text], 32768, first=0, last=2)[:1]
    >>> sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 12}
    >>> model = build("LongformerModel", longformer.Config.base(32768, **sizes))
    >>> model(ids, global_positions=torch.tensor([0, 9000])).last_hidden_state.shape
    torch.Size([1, 32768, 12])
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..globals import Globals
from ..patterns import Band, window
from .parts.attention import join_heads, split_heads
from .parts.chosen import Choose, after_separator, before_separator, chosen, first_token, split_mask
from .parts.config import BaseConfig, frozen, spread
from .parts.embeddings import AfterPadding, Embeddings, inputs_layout
from .parts.global_rows import GlobalRows
from .parts.heads import (
    PROBLEMS,
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
)
from .parts.keys import ROBERTA_HEADS, KeyMap, Same, Stacked, encoder_rules, tied_words
from .parts.layers import ACTIVATIONS, FeedForward, PostNorm, initialise
from .parts.layouts import Whole
from .parts.linear import Linear
from .parts.model import Family


@dataclass(frozen=True)
class Config(BaseConfig):
    """Sections 3 and 5. What a file leaves out has the default here, which is transformers'.

    Args:
        attention_window: w, even, both sides together; one, or one per layer.
        attention_dilation: d; one, one per layer, or for a layer one per head.
        autoregressive: Whether windows have their left half alone.
    """

    model_type: ClassVar[str] = "longformer"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "position_embedding_type": ("absolute",),
        "is_decoder": (False,),
        "tie_word_embeddings": (True,),
    }

    attention_window: int | tuple[int, ...] = 512
    attention_dilation: int | tuple[int | tuple[int, ...], ...] = 1
    autoregressive: bool = False
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
    pad_token_id: int = 1
    sep_token_id: int | None = 2
    problem_type: str | None = None

    def __post_init__(self) -> None:
        for name in ("attention_window", "attention_dilation"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        self.check_positive("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        self.check_positive("intermediate_size", "type_vocab_size")
        self.check_probability("hidden_dropout_prob", "attention_probs_dropout_prob")
        self.check_heads("hidden_size", "num_attention_heads")
        self.check_choice("hidden_act", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))
        self.check_choice("pad_token_id", range(min(self.vocab_size, self.max_position_embeddings - 1)))
        for w, steps in self.windows():
            if type(w) is not int or w < 2 or w % 2:
                raise ValueError(f"attention_window: an even number of at least 2 is allowed, got {w!r}")
            if any(type(d) is not int or d < 1 for d in steps):
                raise ValueError(f"attention_dilation: a number of at least 1 is allowed, got {steps!r}")

    def windows(self) -> list[tuple[int, tuple[int, ...]]]:
        """Of each layer: its window, and the dilation of each head."""
        widths = spread("attention_window", self.attention_window, self.num_hidden_layers, "layers")
        steps = spread("attention_dilation", self.attention_dilation, self.num_hidden_layers, "layers")
        of_heads = [spread("attention_dilation", d, self.num_attention_heads, "heads") for d in steps]
        return list(zip(widths, of_heads, strict=True))

    @classmethod
    def base(cls, length: int = 4096, **sizes: int) -> Config:
        """Section 5, longformer-base-4096; another ``length`` for more or fewer positions."""
        published = {"vocab_size": 50265, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
        return cls(max_position_embeddings=length + 2, **{**published, **sizes})  # type: ignore[arg-type]

    @classmethod
    def large(cls, length: int = 4096) -> Config:
        """Section 5, longformer-large-4096."""
        sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        return cls.base(length, **sizes)


class Attention(nn.Module):
    """Section 3.1. ``qkv`` is for local rows, ``of_globals`` has the projections of global ones."""

    def __init__(self, c: Config, layer: int) -> None:
        super().__init__()
        self.heads, self.dropout = c.num_attention_heads, c.attention_probs_dropout_prob
        self.bands = _bands(c, layer)
        self.qkv = Linear(c.hidden_size, 3 * c.hidden_size)
        self.of_globals = GlobalRows(c.hidden_size, self.heads, dropout=self.dropout)
        self.out = Linear(c.hidden_size, c.hidden_size)

    def forward(self, x: Tensor, layout: Whole, found: Globals | None) -> Tensor:
        qkv = split_heads(self.qkv(x), 3, self.heads)
        dropout = self.dropout if self.training else 0.0
        # Made of the few tokens again: picked from k and v, their gradients would fill as much as those.
        far = () if found is None else split_heads(self.qkv(found.pick(x, 1)), 3, self.heads)[1:]
        parts = []
        for heads, band in self.bands:
            q, k, v, *seen = (y[:, heads] for y in (*qkv, *far))
            if found is None:
                parts.append(layout.attend(q, k, v, band, None, dropout))
            else:
                parts.append(layout.attend_locally(q, k, v, band, found, (seen[0], seen[1]), dropout))
        mixed = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        if found is not None:
            mixed = found.put(self.of_globals(x, layout, found), mixed)
        return self.out(join_heads(mixed))


def _bands(c: Config, layer: int) -> list[tuple[slice, Band]]:
    """The pattern of each run of neighbouring heads that have the same."""
    width, steps = c.windows()[layer]
    bands, first = [], 0
    for step, run in groupby(steps):
        heads = slice(first, first + len(list(run)))
        bands.append((heads, window(width // 2, 0 if c.autoregressive else width // 2, dilation=step)))
        first = heads.stop
    return bands


class Layer(nn.Module):
    """Section 3: attention, then a feed-forward network, each normed after its residual."""

    def __init__(self, c: Config, layer: int) -> None:
        super().__init__()
        feed_forward = FeedForward(c.hidden_size, c.intermediate_size, c.hidden_act)
        norm = {"eps": c.layer_norm_eps, "dropout": c.hidden_dropout_prob}
        self.attention = PostNorm(Attention(c, layer), c.hidden_size, **norm)
        self.feed_forward = PostNorm(feed_forward, c.hidden_size, **norm)

    def forward(self, x: Tensor, layout: Whole, found: Globals | None) -> Tensor:
        return self.feed_forward(self.attention(x, layout, found))


class Body(nn.Module):
    """Section 5: embeddings and layers.

    ``global_attention_mask (B, S)`` is 1 for global tokens, as is ``attention_mask`` where it is
    2; ``global_positions (G,)`` or ``(B, G)``, -1 filling up, say the same and trace in one graph.
    """

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.autoregressive = c.autoregressive
        self.embeddings = Embeddings(
            c.vocab_size, c.max_position_embeddings, c.type_vocab_size, c.hidden_size, eps=c.layer_norm_eps,
            dropout=c.hidden_dropout_prob, padding=c.pad_token_id, numbering=AfterPadding(c.pad_token_id),
        )  # fmt: skip
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c.num_hidden_layers))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        global_positions: Tensor | None = None,
        default_globals: Choose | None = None,
        output_hidden_states: bool = False,
    ) -> States:
        real, marked = split_mask(attention_mask)
        layout = inputs_layout(input_ids, inputs_embeds, real, lengths, offsets)
        x = self.embeddings(layout, input_ids, token_type_ids, position_ids, inputs_embeds)
        default = default_globals(layout, input_ids) if default_globals and not self.autoregressive else None
        found = chosen(layout, marked, global_attention_mask, global_positions, default)
        if found is not None and self.autoregressive:
            raise ValueError("global_attention_mask: no token is allowed in autoregressive models: it sees ahead")
        trace = deque([x], maxlen=None if output_hidden_states else 1)
        for layer in self.layers:
            trace.append(layer(trace[-1], layout, found))
        states = tuple(layout.unpack(x) for x in trace) if output_hidden_states else None
        return States(trace[-1], layout, self.embeddings.words.weight, states)


def _words(c: Config) -> WordPredictor:
    return WordPredictor(c.hidden_size, c.hidden_size, c.vocab_size, act="gelu", eps=c.layer_norm_eps)


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Classifier(c.hidden_size, c.num_labels, dropout=c.hidden_dropout_prob)
    return SequenceClassification(First(), classifier, dropout=c.hidden_dropout_prob, problem=c.problem_type)


def _of_tokens(c: Config) -> TokenClassification:
    return TokenClassification(Linear(c.hidden_size, c.num_labels), dropout=c.hidden_dropout_prob)


def _of_choices(c: Config) -> MultipleChoice:
    return MultipleChoice(Pooler(c.hidden_size), Linear(c.hidden_size, 1), dropout=c.hidden_dropout_prob)


# Sections 5 (pre-training) and 6 (tasks).
HEADS = {
    "LongformerModel": lambda c: Bare(Pooler(c.hidden_size)),
    "LongformerForMaskedLM": lambda c: MaskedLM(_words(c)),
    "LongformerForSequenceClassification": _of_sequences,
    "LongformerForTokenClassification": _of_tokens,
    "LongformerForQuestionAnswering": lambda c: QuestionAnswering(Linear(c.hidden_size, 2)),
    "LongformerForMultipleChoice": _of_choices,
}

# Section 3.1: a task says which tokens are global, if the caller does not.
ARGUMENTS = {
    "LongformerForSequenceClassification": lambda c, given: {"default_globals": first_token, **given},
    "LongformerForQuestionAnswering": lambda c, given: {"default_globals": before_separator(c.sep_token_id), **given},
    "LongformerForMultipleChoice": lambda c, given: {
        "default_globals": after_separator(c.sep_token_id), **flat_choices(given)
    },
}  # fmt: skip

_SELF = "longformer.encoder.layer.{}.attention.self"
KEYS = KeyMap(
    prefix="longformer",
    rules={
        **encoder_rules("longformer"),
        **ROBERTA_HEADS,
        "body.layers.{}.attention.inner.of_globals.q": Same(f"{_SELF}.query_global"),
        "body.layers.{}.attention.inner.of_globals.kv": Stacked((f"{_SELF}.key_global", f"{_SELF}.value_global")),
        "head.pooler": Same("longformer.pooler"),
    },
    tied=tied_words("longformer", "lm_head"),
    ignored=(r"embeddings\.position_ids$",),
)


def _initialise(model: nn.Module, c: Config) -> None:
    """Section 3.1: the global projections start as copies of the others."""
    initialise(model, c.initializer_range)
    for module in model.modules():
        if isinstance(module, Attention):
            q, kv = module.qkv.weight.detach().split([c.hidden_size, 2 * c.hidden_size])
            module.of_globals.q.weight.data.copy_(q)
            module.of_globals.kv.weight.data.copy_(kv)


FAMILY = Family(Config, Body, HEADS, KEYS, _initialise, ARGUMENTS)
