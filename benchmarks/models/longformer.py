"""Longformer: base width over long text, its attention alone, and masked LM to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pkernels.models.longformer import Config
from pkernels.models.parts.layouts import Whole

from .. import corpus
from .base import Attend, Encoder, Learner

GLOBALS = 16
BARE: dict[str, Any] = {"vocab_size": corpus.WORDS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _base(length: int, layers: int) -> Config:
    return Config.base(length, num_hidden_layers=layers, **BARE)


def _small(length: int) -> Config:
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
    }
    return Config.base(length, attention_window=64, **sizes, **BARE)


def _first_global(length: int, device: str) -> dict[str, Tensor]:
    mask = torch.zeros(1, length, dtype=torch.int64, device=device)
    mask[0, 0] = 1
    return {"global_attention_mask": mask}


def _attention(ours: Any, theirs: Any, length: int, device: str) -> tuple[Attend, Attend]:
    """``LongformerSelfAttention`` and the dense layer behind it; 16 global positions, scattered.

    Masks are made beforehand, as transformers' model makes them once for all layers.
    """
    positions = torch.arange(0, length, length // GLOBALS, device=device)
    layout = Whole(1, length, torch.device(device))
    found, module = layout.globals(positions), ours.body.layers[0].attention.inner
    theirs_too = theirs.encoder.layer[0].attention
    mask = torch.zeros(1, length, device=device)
    mask[0, positions] = 10000.0
    flags = {"is_index_masked": mask < 0, "is_index_global_attn": mask > 0, "is_global_attn": True}

    def attend(x: Tensor) -> Tensor:
        return theirs_too.output.dense(theirs_too.self(x, attention_mask=mask, **flags)[0])

    return lambda x: module(x, layout, found), attend


ENCODER = Encoder(
    name="Longformer",
    architecture="LongformerModel",
    config=_base,
    sizes=((4096, 2), (8192, 2), (16384, 2), (32768, 2), (4096, 12)),
    quick=((4096, 1),),
    arguments=_first_global,
    attention=_attention,
    lengths=(4096, 8192),
)

LEARNER = Learner("longformer", "LongformerForMaskedLM", _small, corpus.masked)
