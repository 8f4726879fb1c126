"""ELMo: Deep Contextualized Word Representations (Peters, Neumann, Iyyer, Gardner, Clark, Lee,
Zettlemoyer 2018, arXiv:1802.05365).

What differs from every family after it: there is no attention.

- Section 3.1: a language model in each direction over the same words. They share what makes a word
  and the softmax, and no LSTM.
- Section 3.2, equation 1: a task's ELMo is ``gamma sum_j s_j h_j`` over the layers, s a softmax of
  learned weights; the layers may be normed before.
- Section 3.4: a word comes out of its characters, by 2048 convolutional filters, two highway layers
  and a projection to 512; two LSTM layers of 4096 cells, projected to 512, a residual between them.
- Cells and projections are clipped, and states are carried from one batch to the next, per batch
  row (allenai/bilm-tf): the first sentences of a text are seen with states that are still 0.

The first layer's two halves are the words themselves, twice. Sentences stand between marks that the
model adds and takes off again. Published weights are TensorFlow's: see ``elmo_hdf5``.

Example:
    >>> from pkernels.models import build, elmo
    >>> config = elmo.Config(filters=((1, 4), (2, 8)), dim=12, projection_dim=6)
    >>> ids, lengths = elmo.character_ids([["They", "see", "."], ["So"]])
    >>> model = build("ElmoModel", config).eval()
    >>> out = model(ids, lengths=lengths)
    >>> out.representation.shape
    torch.Size([2, 3, 12])
    >>> later = model(ids, lengths=lengths, states=out.states)  # the next sentences of both texts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .parts.characters import CharacterCNN, Highway, character_ids, marked, sentence_marks
from .parts.config import BaseConfig
from .parts.keys import KeyMap, Same
from .parts.linear import Linear
from .parts.lstm import BidirectionalLSTM, LSTMStates, ProjectedLSTM
from .parts.model import Family
from .parts.objectives.directions import both_directions
from .parts.objectives.real import real_tokens
from .parts.objectives.sampled import sampled_softmax_loss
from .parts.padding import layout

__all__ = ["FAMILY", "HEADS", "KEYS", "BiLM", "Config", "LSTMStates", "NextWords", "ScalarMix", "character_ids"]


@dataclass(frozen=True)
class Config(BaseConfig):
    """Section 3.4, under the names of the published options.json; the defaults are the original's.

    Args:
        char_dim: Of a character's embedding.
        filters: ``(width, number)`` of each convolution.
        dim, projection_dim: Cells of an LSTM, and what they are projected to.
        cell_clip, proj_clip: Bounds of both, or None.
        layer_norm: Whether layers are normed before they are mixed.
        dropout: Of the LSTMs' inputs and of the words' predictor's; ``mix_dropout``: of the mix.
        vocab_size, bos_token_id, eos_token_id: Of the predicted words, by falling frequency.
    """

    model_type: ClassVar[str] = "elmo"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"use_skip_connections": (True,)}

    n_characters: int = 262
    max_characters_per_token: int = 50
    char_dim: int = 16
    filters: tuple[tuple[int, ...], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    n_highway: int = 2
    activation: str = "relu"
    dim: int = 4096
    projection_dim: int = 512
    n_layers: int = 2
    cell_clip: float | None = 3.0
    proj_clip: float | None = 3.0
    layer_norm: bool = False
    dropout: float = 0.1
    mix_dropout: float = 0.0
    vocab_size: int = 793471
    bos_token_id: int = 0
    eos_token_id: int = 1

    def __post_init__(self) -> None:
        self.check_positive("char_dim", "dim", "projection_dim", "n_layers", "vocab_size")
        self.check_probability("dropout", "mix_dropout")
        self.check_choice("activation", ("relu", "tanh"))
        for name, least in (("n_characters", 262), ("n_highway", 0), ("max_characters_per_token", 3)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: at least {least} is allowed, got {getattr(self, name)}")
        for pair in self.filters:
            if len(pair) != 2 or not 1 <= pair[0] <= self.max_characters_per_token or pair[1] < 1:
                raise ValueError(
                    f"filters: pairs of a width up to {self.max_characters_per_token} and a number are allowed, "
                    f"got {pair!r}"
                )
        if not self.filters:
            raise ValueError("filters: at least one is needed, got none")
        for name in ("cell_clip", "proj_clip"):
            bound = getattr(self, name)
            if bound is not None and not bound > 0:
                raise ValueError(f"{name}: more than 0 is allowed, or null, got {bound}")
        for name in ("bos_token_id", "eos_token_id"):
            self.check_choice(name, range(self.vocab_size))

    @classmethod
    def original(cls) -> Config:
        """2x4096_512_2048cnn_2xhighway, trained on the 1 Billion Word Benchmark, and on 5.5B words."""
        return cls()

    @classmethod
    def medium(cls) -> Config:
        """2x2048_256_2048cnn_1xhighway."""
        return cls(dim=2048, projection_dim=256, n_highway=1)

    @classmethod
    def small(cls) -> Config:
        """2x1024_128_2048cnn_1xhighway."""
        return cls(dim=1024, projection_dim=128, n_highway=1)


@dataclass
class Layers:
    """What the body hands to a head.

    Attributes:
        layers: The words themselves and each layer, ``(B, S + 2, 2 projection_dim)`` with both marks.
        real: ``(B, S)`` booleans of the words.
        lengths: ``(B,)`` words of each row.
    """

    layers: list[Tensor]
    real: Tensor
    lengths: Tensor
    states: LSTMStates
    wanted: bool

    def words(self, x: Tensor) -> Tensor:
        """Without the marks."""
        return x[:, 1:-1].where(self.real[..., None], 0)

    @property
    def hidden_states(self) -> tuple[Tensor, ...] | None:
        return tuple(map(self.words, self.layers)) if self.wanted else None


class BiLM(nn.Module):
    """Section 3.4: characters, then LSTMs."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        filters = [(size, number) for size, number in c.filters]
        self.characters = CharacterCNN(c.n_characters, c.char_dim, filters, c.n_highway, c.projection_dim, c.activation)
        clips = {"cell_clip": c.cell_clip, "projection_clip": c.proj_clip}
        self.lstm = BidirectionalLSTM(c.n_layers, c.projection_dim, c.dim, dropout=c.dropout, **clips)
        self.size = c.max_characters_per_token

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        states: LSTMStates | None = None,
        output_hidden_states: bool = False,
    ) -> Layers:
        """``input_ids (B, S, size)`` as :func:`character_ids` makes them; what is 0 throughout is no
        word. ``states`` of the batch before, if it is the same texts that go on."""
        lengths = self._lengths(input_ids, attention_mask, lengths)
        ids = marked(input_ids, lengths, *sentence_marks(self.size), 0)
        inside = layout(ids.shape[0], ids.shape[1], ids.device, lengths=lengths + 2)
        words = inside.unpack(self.characters(inside.pack(ids)))
        both, states = self.lstm(words, lengths + 2, states)
        layers = [torch.cat(pair, -1) for pair in ((words, words), *both)]
        real = torch.arange(input_ids.shape[1], device=ids.device) < lengths[:, None]
        return Layers(layers, real, lengths, states, output_hidden_states)

    def _lengths(self, ids: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        if not isinstance(ids, Tensor) or ids.dim() != 3 or ids.shape[2] != self.size or ids.is_floating_point():
            given = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(
                f"input_ids: integers of shape (B, S, {self.size}), ids of characters, are allowed, got {given}"
            )
        if lengths is None and mask is None:
            mask = (ids > 0).any(-1)
        real = real_tokens(ids[..., 0], mask, lengths)
        if not torch.compiler.is_compiling() and bool((real[:, 1:] > real[:, :-1]).any()):
            raise ValueError("attention_mask: padding on the right alone is allowed")
        return real.sum(1)


@dataclass
class Mixture:
    """``representation (B, S, 2 projection_dim)``; ``hidden_states``: what was mixed, each of that shape."""

    representation: Tensor
    states: LSTMStates
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class BothPredictions:
    """``loss`` is the mean of both directions'. Without labels there are ``forward_logits`` and
    ``backward_logits (B, S + 2, V)`` instead: of what stands behind, and before, each word and mark."""

    loss: Tensor | None
    forward_loss: Tensor | None
    backward_loss: Tensor | None
    forward_logits: Tensor | None
    backward_logits: Tensor | None
    states: LSTMStates
    hidden_states: tuple[Tensor, ...] | None = None


class ScalarMix(nn.Module):
    """Section 3.2, equation 1. With ``norm`` each layer has mean 0 and variance 1 over all words of the
    batch (as in allenai/bilm-tf, ``weight_layers``)."""

    targets = ()

    def __init__(self, layers: int, *, norm: bool, dropout: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(()))
        self.norm = norm
        self.dropout = nn.Dropout(dropout)

    def forward(self, read: Layers) -> Mixture:
        layers = [self._normed(read.words(x), read.real) if self.norm else read.words(x) for x in read.layers]
        mixed = self.gamma * sum(w * x for w, x in zip(self.weights.softmax(0), layers, strict=True))
        return Mixture(self.dropout(mixed), read.states, read.hidden_states)

    @staticmethod
    def _normed(x: Tensor, real: Tensor) -> Tensor:
        count = real.sum() * x.shape[-1]
        away = (x - x.sum() / count).where(real[..., None], 0)
        return away * (away.square().sum() / count + 1e-12).rsqrt()


class NextWords(nn.Module):
    """Section 3.1: the word behind each, by the LSTMs that go ahead, and the one before each, by those
    that go back; one softmax for both. ``labels (B, S)`` are the words; ``negatives``: against so many
    sampled words instead of all (``objectives.sampled_softmax_loss``)."""

    targets = ("labels", "negatives")

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.words = Linear(c.projection_dim, c.vocab_size)
        self.dropout = nn.Dropout(c.dropout)
        self.marks = (c.bos_token_id, c.eos_token_id)

    def forward(self, read: Layers, labels: Tensor | None = None, negatives: int | None = None) -> BothPredictions:
        both = self.dropout(read.layers[-1]).chunk(2, -1)
        if labels is None:
            ahead, back = map(self.words, both)
            return BothPredictions(None, None, None, ahead, back, read.states, read.hidden_states)
        targets = both_directions(self._checked(labels, read.real), read.lengths, *self.marks)
        ahead, back = (self._loss(x, y, negatives) for x, y in zip(both, targets, strict=True))
        return BothPredictions((ahead + back) / 2, ahead, back, None, None, read.states, read.hidden_states)

    def _loss(self, states: Tensor, targets: Tensor, negatives: int | None) -> Tensor:
        states, targets = states.flatten(0, 1), targets.flatten()
        if negatives is None:
            return F.cross_entropy(self.words(states), targets)
        return sampled_softmax_loss(states, self.words.weight, self.words.bias, targets, negatives)

    def _checked(self, labels: Tensor, real: Tensor) -> Tensor:
        if tuple(labels.shape) != tuple(real.shape):
            raise ValueError(f"labels: shape {tuple(real.shape)} is allowed, got {tuple(labels.shape)}")
        last = self.words.out_features - 1
        look = labels.device.type == "cpu" and not torch.compiler.is_compiling()
        if look and bool((real & (labels != -100) & ((labels < 0) | (labels > last))).any()):
            raise ValueError(f"labels: -100 and 0 to {last} are allowed, got {labels[real].unique().tolist()[:8]}")
        return labels.long()


# Section 3.2 (a task's representation) and 3.1 (pre-training).
HEADS = {
    "ElmoModel": lambda c: ScalarMix(c.n_layers + 1, norm=c.layer_norm, dropout=c.mix_dropout),
    "ElmoForBidirectionalLM": NextWords,
}

KEYS = KeyMap(
    prefix="elmo",
    rules={
        "body.characters.embedding": Same("elmo.char_embed"),
        "body.characters.convolutions.{}": Same("elmo.cnn.{}"),
        "body.characters.highways.{}": Same("elmo.cnn_high.{}"),
        "body.characters.projection": Same("elmo.cnn_proj"),
        "body.lstm.layers.{}.ahead": Same("elmo.rnn.{}.forward"),
        "body.lstm.layers.{}.back": Same("elmo.rnn.{}.backward"),
        "head.weights": Same("mix.weights"),
        "head.gamma": Same("mix.gamma"),
        "head.words": Same("softmax"),
    },
)


@torch.no_grad()
def _initialise(model: nn.Module, c: Config) -> None:
    """As allenai/bilm-tf, ``LanguageModel``: gates carry their input at first, cells remember."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(module, nn.Conv1d):
            if c.activation == "relu":
                nn.init.uniform_(module.weight, -0.05, 0.05)
            else:
                nn.init.normal_(module.weight, std=(module.in_channels * module.kernel_size[0]) ** -0.5)
        if isinstance(module, nn.Embedding):
            nn.init.uniform_(module.weight, -1, 1)
            module.weight[0] = 0
    for module in model.modules():
        if isinstance(module, Highway):
            nn.init.constant_(module.gate.bias, -2.0)
        if isinstance(module, ProjectedLSTM):
            # TensorFlow draws one matrix of both inputs of a gate, Glorot's way.
            bound = (6 / (module.input.in_features + module.recurrent.shape[1] + module.recurrent.shape[0])) ** 0.5
            nn.init.uniform_(module.input.weight, -bound, bound)
            nn.init.uniform_(module.recurrent, -bound, bound)
            nn.init.xavier_uniform_(module.projection)
            module.input.bias.chunk(4)[1].fill_(1.0)


FAMILY = Family(Config, BiLM, HEADS, KEYS, _initialise)
