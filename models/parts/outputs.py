"""What models return: transformers' names, as small dataclasses.

Any field that was not computed is None. Positions of padding hold 0 (start and end logits
-inf), where transformers computes values that mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Encoding:
    """Of a body without a task. ``last_hidden_state (B, S, H)``, ``pooler_output (B, H)``,
    ``hidden_states``: the embeddings' output and every layer's, each ``(B, S, H)``."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class PreTraining:
    """``prediction_logits (B, S, V)``, ``seq_relationship_logits (B, 2)``; the loss is the sum of both losses."""

    loss: Tensor | None
    prediction_logits: Tensor
    seq_relationship_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class OrderPreTraining:
    """The same with ``sop_logits (B, 2)``, of sentence order prediction."""

    loss: Tensor | None
    prediction_logits: Tensor
    sop_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class Prediction:
    """``logits``: ``(B, S, V)`` of words, ``(B, S, labels)`` of tokens or ``(B, labels)`` of sequences."""

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class Span:
    """``start_logits`` and ``end_logits (B, S)`` of an answer in the text."""

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class TextEmbedding:
    """``text_embeds (B, E)``, of any length; ``last_hidden_state (B, S, H)``."""

    text_embeds: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class ImageEmbedding:
    """``image_embeds (B, E)``, of any length; ``last_hidden_state (B, 1 + patches, H)``."""

    image_embeds: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass
class Matching:
    """Unit vectors ``image_embeds (N, E)`` and ``text_embeds (M, E)``, and the factor ``scale`` of
    their cosines. ``pooler_output`` of both models' outputs are the vectors before they are made
    units. The logits are computed when they are looked at."""

    loss: Tensor | None
    text_embeds: Tensor
    image_embeds: Tensor
    scale: Tensor
    text_model_output: Encoding
    vision_model_output: Encoding

    @property
    def logits_per_image(self) -> Tensor:
        """``(N, M)``."""
        return self.scale * self.image_embeds @ self.text_embeds.T

    @property
    def logits_per_text(self) -> Tensor:
        """``(M, N)``."""
        return self.logits_per_image.T


for _output in (
    Encoding,
    PreTraining,
    OrderPreTraining,
    Prediction,
    Span,
    TextEmbedding,
    ImageEmbedding,
    Matching,
):
    torch.export.register_dataclass(_output)
