"""What models return: transformers' names, as small dataclasses.

Any field that was not computed is None. Positions of padding hold 0 (start and end logits
-inf), where transformers computes values that mean nothing. ``mems`` are memories for the next
segment, of the families that have them (:mod:`recurrence`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Encoding:
    """Of a body without a task. ``last_hidden_state (B, S, H)``, ``pooler_output (B, H)``,
    ``hidden_states``: the embeddings' output and every layer's, each ``(B, S, H)``."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    mems: tuple[Tensor, ...] | None = None


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
    mems: tuple[Tensor, ...] | None = None


@dataclass
class Span:
    """``start_logits`` and ``end_logits (B, S)`` of an answer in the text."""

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    mems: tuple[Tensor, ...] | None = None


@dataclass
class Answers:
    """The likeliest starts of an answer, ``start_top_log_probs`` and ``start_top_index (B, n)``, and for each of
    the ``m`` likeliest ends one from each start, ``end_top_log_probs`` and ``end_top_index (B, m * n)``
    (probabilities all of them, in spite of transformers' names); ``cls_logits (B,)``: above 0 if there is no
    answer. With labels there is the loss alone."""

    loss: Tensor | None = None
    start_top_log_probs: Tensor | None = None
    start_top_index: Tensor | None = None
    end_top_log_probs: Tensor | None = None
    end_top_index: Tensor | None = None
    cls_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    mems: tuple[Tensor, ...] | None = None


@dataclass
class AdaptivePrediction:
    """``losses (B, S - 1)`` of each token's next one, 0 where that has no label; or, without labels,
    ``logits (B, S, V)``, which are log-probabilities."""

    loss: Tensor | None
    losses: Tensor | None
    logits: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None
    mems: tuple[Tensor, ...] | None = None


@dataclass
class OfEncoder:
    """What outputs of an encoder and a decoder tell beside the task: ``encoder_last_hidden_state
    (B, S, H)``, and the hidden states of both, each as ``Encoding`` has them."""

    decoder_hidden_states: tuple[Tensor, ...] | None = field(default=None, kw_only=True)
    encoder_last_hidden_state: Tensor | None = field(default=None, kw_only=True)
    encoder_hidden_states: tuple[Tensor, ...] | None = field(default=None, kw_only=True)


@dataclass
class Seq2SeqEncoding(OfEncoder):
    """``last_hidden_state (B, T, H)`` of the decoder."""

    last_hidden_state: Tensor


@dataclass
class Seq2SeqPrediction(OfEncoder):
    """As ``Prediction``, of the decoder's tokens."""

    loss: Tensor | None
    logits: Tensor


@dataclass
class Seq2SeqSpan(OfEncoder):
    """As ``Span``, of the decoder's tokens."""

    loss: Tensor | None
    start_logits: Tensor
    end_logits: Tensor


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


_OF_DECODERS = (Seq2SeqEncoding, Seq2SeqPrediction, Seq2SeqSpan)
_OF_IMAGES = (TextEmbedding, ImageEmbedding, Matching)
_OF_TOKENS = (Encoding, PreTraining, OrderPreTraining, Prediction, Span, AdaptivePrediction)
for _output in (*_OF_TOKENS, *_OF_DECODERS, *_OF_IMAGES):
    torch.export.register_dataclass(_output)
