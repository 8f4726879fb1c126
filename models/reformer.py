"""Reformer: The Efficient Transformer (Kitaev et al. 2020, arXiv:2001.04451).

What differs from BERT (Devlin et al. 2019, arXiv:1810.04805):

- Section 2: queries are keys, and a token looks among those whose hash is near its own
  (:func:`pkernels.lsh_order`); of two kinds of layers the other, "local", looks in its chunk of
  the text and the chunks beside it.
- Section 3: layers are reversible (:class:`pkernels.Reversible`), so the memory of activations does
  not grow with depth: ``y1 = x1 + attention(norm(x2))``, ``y2 = x2 + feed_forward(norm(y1))``. Both
  start as the embeddings and end side by side, so heads are twice as wide as the model. The
  feed-forward network may go through the text in chunks.
- The authors' code (google/trax, ``models/reformer``): positions are the sum of a grid's rows and
  columns ("axial"); attention has no biases; dropout comes before the feed-forward's ReLU.

Results are transformers' in evaluation and training. Unlike there, a text of any length can be
trained on (transformers wants the grid filled), the number of buckets, where a config has none,
goes by the length of each call, and word scores have their bias (transformers' newest versions
read it and leave it out).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..reversible import Reversible
from .parts.axial import Embeddings, Grid, Table
from .parts.chunked import Chunks, LocalAttention, LSHAttention, Text
from .parts.config import BaseConfig
from .parts.embeddings import inputs_layout
from .parts.heads import (
    PROBLEMS,
    Bare,
    CausalLM,
    Classifier,
    First,
    MaskedLM,
    QuestionAnswering,
    SequenceClassification,
    States,
)
from .parts.keys import KeyMap, Same, Stacked
from .parts.layers import ACTIVATIONS, in_chunks, initialise
from .parts.layouts import Whole
from .parts.linear import Linear
from .parts.model import Family


@dataclass(frozen=True)
class Config(BaseConfig):
    """The defaults are transformers'.

    Args:
        attn_layers: "lsh" or "local" for each layer.
        num_buckets: Of the hash, even, or its even factors; None for twice as many as there are
            chunks, as a power of two.
        num_hashes: Rounds.
        hash_seed: Of the random rotations; None for new ones at each call.
        axial_pos_shape, axial_pos_embds_dim: The grid of positions, and widths of its two tables.
        chunk_size_feed_forward, chunk_size_lm_head: Tokens at a time; 0 for all at once.
        is_decoder: Whether a token sees those before it alone.
    """

    model_type: ClassVar[str] = "reformer"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"tie_word_embeddings": (False,)}

    attention_head_size: int = 64
    attn_layers: tuple[str, ...] = ("local", "lsh", "local", "lsh", "local", "lsh")
    axial_norm_std: float = 1.0
    axial_pos_embds: bool = True
    axial_pos_shape: tuple[int, ...] = (64, 64)
    axial_pos_embds_dim: tuple[int, ...] = (64, 192)
    chunk_size_feed_forward: int = 0
    chunk_size_lm_head: int = 0
    feed_forward_size: int = 512
    hash_seed: int | None = None
    hidden_act: str = "relu"
    hidden_dropout_prob: float = 0.05
    hidden_size: int = 256
    initializer_range: float = 0.02
    is_decoder: bool = False
    layer_norm_eps: float = 1e-12
    local_num_chunks_before: int = 1
    local_num_chunks_after: int = 0
    local_attention_probs_dropout_prob: float = 0.05
    local_attn_chunk_length: int = 64
    lsh_attn_chunk_length: int = 64
    lsh_attention_probs_dropout_prob: float = 0.0
    lsh_num_chunks_before: int = 1
    lsh_num_chunks_after: int = 0
    max_position_embeddings: int = 4096
    num_attention_heads: int = 12
    num_buckets: int | tuple[int, ...] | None = None
    num_hashes: int = 1
    vocab_size: int = 320
    pad_token_id: int | None = 0
    classifier_dropout: float | None = None
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("vocab_size", "hidden_size", "num_attention_heads", "attention_head_size")
        self.check_positive("feed_forward_size", "max_position_embeddings", "num_hashes")
        self.check_positive("local_attn_chunk_length", "lsh_attn_chunk_length")
        self.check_probability("hidden_dropout_prob", "classifier_dropout")
        self.check_probability("local_attention_probs_dropout_prob", "lsh_attention_probs_dropout_prob")
        self.check_choice("hidden_act", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))
        if not self.attn_layers or not set(self.attn_layers) <= {"lsh", "local"}:
            raise ValueError(f'attn_layers: one or more of "lsh" and "local" are allowed, got {self.attn_layers!r}')
        if self.axial_pos_embds and not len(self.axial_pos_shape) == len(self.axial_pos_embds_dim) == 2:
            raise ValueError(
                f"axial_pos_shape, axial_pos_embds_dim: two numbers each are allowed, got {self.axial_pos_shape} "
                f"and {self.axial_pos_embds_dim}"
            )
        if self.axial_pos_embds and sum(self.axial_pos_embds_dim) != self.hidden_size:
            raise ValueError(
                f"axial_pos_embds_dim: numbers whose sum is hidden_size ({self.hidden_size}) are allowed, "
                f"got {self.axial_pos_embds_dim}"
            )

    @property
    def head_dropout(self) -> float:
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout

    @classmethod
    def enwik8(cls) -> Config:
        """google/reformer-enwik8 (trax, ``reformer_enwik8.gin``): characters, 65,536 at a time."""
        return cls(
            attn_layers=("local", "local", "lsh", "local") * 3, hidden_size=1024, num_attention_heads=8,
            attention_head_size=128, feed_forward_size=4096, vocab_size=258, max_position_embeddings=65536,
            axial_pos_shape=(128, 512), axial_pos_embds_dim=(256, 768), num_buckets=512, num_hashes=4,
            lsh_attn_chunk_length=256, local_attn_chunk_length=128, hidden_dropout_prob=0.2,
            lsh_attention_probs_dropout_prob=0.1, local_attention_probs_dropout_prob=0.2, is_decoder=True,
        )  # fmt: skip

    @classmethod
    def crime_and_punishment(cls) -> Config:
        """google/reformer-crime-and-punishment: a novel, 524,288 word pieces at a time."""
        return cls(
            num_attention_heads=2, max_position_embeddings=524288, axial_pos_shape=(512, 1024),
            num_buckets=(64, 128), is_decoder=True,
        )  # fmt: skip

    def padded(self, length: int) -> int:
        """To how many tokens a text is filled up: a common multiple of the chunks of its layers,
        for the last chunks of a round are neighbours of the first ones of the next."""
        sizes = {"lsh": self.lsh_attn_chunk_length, "local": self.local_attn_chunk_length}
        chunks = [sizes[kind] for kind in set(self.attn_layers)]
        multiple = math.lcm(*chunks)
        return length if length <= min(chunks) else -(-length // multiple) * multiple

    def buckets(self, length: int) -> int | tuple[int, ...]:
        """Of a text of ``length`` tokens (section 2, and transformers' way to halve large numbers)."""
        if self.num_buckets is not None:
            return self.num_buckets
        power = (2 * (length // self.lsh_attn_chunk_length)).bit_length() - 1
        chunks = self.max_position_embeddings // self.lsh_attn_chunk_length
        if 2**power <= 2 * max(math.isqrt(chunks), self.lsh_attn_chunk_length):
            return 2**power
        return 2 ** (power // 2), 2 ** (power - power // 2)


def _positions(c: Config) -> Grid | Table:
    if not c.axial_pos_embds:
        return Table(c.max_position_embeddings, c.hidden_size, dropout=c.hidden_dropout_prob)
    return Grid(c.axial_pos_shape, c.axial_pos_embds_dim, std=c.axial_norm_std, dropout=c.hidden_dropout_prob)


def _attention(c: Config, kind: str) -> LSHAttention | LocalAttention:
    sizes = (c.hidden_size, c.num_attention_heads, c.attention_head_size)
    if kind == "local":
        around = (c.local_num_chunks_before, c.local_num_chunks_after)
        chunks = Chunks(c.local_attn_chunk_length, *around, c.is_decoder)
        return LocalAttention(*sizes, chunks, dropout=c.local_attention_probs_dropout_prob)
    chunks = Chunks(c.lsh_attn_chunk_length, c.lsh_num_chunks_before, c.lsh_num_chunks_after, c.is_decoder)
    hashing = {"buckets": c.buckets, "rounds": c.num_hashes, "seed": c.hash_seed}
    return LSHAttention(*sizes, chunks, dropout=c.lsh_attention_probs_dropout_prob, **hashing)  # type: ignore[arg-type]


class Attention(nn.Module):
    """f of a reversible layer."""

    def __init__(self, c: Config, kind: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.inner = _attention(c, kind)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        return self.dropout(self.inner(self.norm(x), text))


class FeedForward(nn.Module):
    """g of a reversible layer."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.up = Linear(c.hidden_size, c.feed_forward_size)
        self.down = Linear(c.feed_forward_size, c.hidden_size)
        self.act, self.chunk = ACTIVATIONS[c.hidden_act], c.chunk_size_feed_forward
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def forward(self, x: Tensor, text: Text) -> Tensor:
        return in_chunks(self._some, x, self.chunk)

    def _some(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(self.act(self.dropout(self.up(self.norm(x))))))


class Body(nn.Module):
    """Embeddings and layers."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.embeddings = Embeddings(c.vocab_size, c.hidden_size, _positions(c), dropout=c.hidden_dropout_prob)
        self.stack = Reversible((Attention(c, kind), FeedForward(c)) for kind in c.attn_layers)
        self.norm = nn.LayerNorm(2 * c.hidden_size, eps=c.layer_norm_eps)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        num_hashes: int | None = None,
        *,
        lengths: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> States:
        layout = inputs_layout(input_ids, inputs_embeds, attention_mask, lengths, None, packs_up_to=0)
        x = self.embeddings(input_ids, inputs_embeds, position_ids)
        size = x.shape[1]
        more = self.config.padded(size) - size
        text = Text(_real(layout, more), num_hashes)
        x = F.pad(x, (0, 0, 0, more))
        states = None
        if output_hidden_states:
            y1, y2, trace = self._traced(x, text)
            states = tuple(layout.unpack(x[:, :size]) for x in trace)
        else:
            y1, y2 = self.stack(x, x, text)
        last = self.dropout(self.norm(torch.cat([y1, y2], -1)))[:, :size]
        return States(last, layout, self.embeddings.words.weight, states)

    def _traced(self, x: Tensor, text: Text) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The stack's results and x2 before each layer and at the end: all are kept, so nothing is
        to be rebuilt."""
        x1, x2, trace = x, x, [x]
        for f, g in cast(Any, self.stack.layers):
            x1 = x1 + f(x2, text)
            x2 = x2 + g(x1, text)
            trace.append(x2)
        return x1, x2, trace


def _real(layout: Whole, more: int) -> Tensor | None:
    real: Tensor | None = getattr(layout, "real", None)
    if real is None and more:
        real = torch.ones(layout.shape, dtype=torch.bool, device=layout.device)
    return None if real is None else F.pad(real, (0, more))


class Words(nn.Module):
    """Scores of every word for each token, not tied to the embeddings."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.decoder = Linear(2 * c.hidden_size, c.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(c.vocab_size))
        self.chunk = c.chunk_size_lm_head

    def forward(self, states: States) -> Tensor:
        return in_chunks(self.decoder, states.last, self.chunk) + self.bias


def _of_sequences(c: Config) -> SequenceClassification:
    classifier = Classifier(2 * c.hidden_size, c.num_labels, dropout=c.head_dropout, inner=c.hidden_size)
    return SequenceClassification(First(), classifier, dropout=c.head_dropout, problem=c.problem_type)


HEADS = {
    "ReformerModel": lambda c: Bare(),
    "ReformerModelWithLMHead": lambda c: CausalLM(Words(c)),
    "ReformerForMaskedLM": lambda c: MaskedLM(Words(c)),
    "ReformerForSequenceClassification": _of_sequences,
    "ReformerForQuestionAnswering": lambda c: QuestionAnswering(Linear(2 * c.hidden_size, 2)),
}


def _seeing(later: bool) -> Callable[[Config, dict[str, Any]], dict[str, Any]]:
    """Refuses a config by which tokens see what they are to predict, or do not see later ones."""

    def checked(c: Config, given: dict[str, Any]) -> dict[str, Any]:
        if c.is_decoder == later:
            raise ValueError(f"is_decoder: {not later} is allowed with this head, got {c.is_decoder}")
        return given

    return checked


ARGUMENTS = {"ReformerModelWithLMHead": _seeing(later=False), "ReformerForMaskedLM": _seeing(later=True)}

_LAYER = "reformer.encoder.layers.{}"
KEYS = KeyMap(
    prefix="reformer",
    rules={
        "body.embeddings.words": Same("reformer.embeddings.word_embeddings"),
        "body.embeddings.positions.of_rows": Same("reformer.embeddings.position_embeddings.weights.0"),
        "body.embeddings.positions.of_columns": Same("reformer.embeddings.position_embeddings.weights.1"),
        "body.embeddings.positions.embedding": Same("reformer.embeddings.position_embeddings.embedding"),
        "body.stack.layers.{}.0.norm": Same(f"{_LAYER}.attention.layer_norm"),
        "body.stack.layers.{}.0.inner.query_key": Same(f"{_LAYER}.attention.self_attention.query_key"),
        "body.stack.layers.{}.0.inner.value": Same(f"{_LAYER}.attention.self_attention.value"),
        "body.stack.layers.{}.0.inner.qkv": Stacked(
            tuple(f"{_LAYER}.attention.self_attention.{name}" for name in ("query", "key", "value"))
        ),
        "body.stack.layers.{}.0.inner.out": Same(f"{_LAYER}.attention.output.dense"),
        "body.stack.layers.{}.1.norm": Same(f"{_LAYER}.feed_forward.layer_norm"),
        "body.stack.layers.{}.1.up": Same(f"{_LAYER}.feed_forward.dense.dense"),
        "body.stack.layers.{}.1.down": Same(f"{_LAYER}.feed_forward.output.dense"),
        "body.norm": Same("reformer.encoder.layer_norm"),
        "head.words": Same("lm_head"),
        "head.classifier": Same("classifier"),
        "head.spans": Same("qa_outputs"),
    },
    tied={"lm_head.decoder.bias": "lm_head.bias"},
    ignored=(r"mask_value_float(16|32)$",),
)

FAMILY = Family(Config, Body, HEADS, KEYS, lambda model, c: initialise(model, c.initializer_range), ARGUMENTS)
