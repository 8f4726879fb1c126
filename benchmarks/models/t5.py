"""T5: its encoder over long text, self-attention with its position bias alone, span corruption to train,
and writing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pkernels.models.parts.layouts import Whole
from pkernels.models.parts.objectives import span_corruption
from pkernels.models.t5 import Config

from .. import corpus
from .authors import BESIDE, Author
from .base import Attend, Encoder, Learner

SENTINELS = 100
BARE: dict[str, Any] = {"vocab_size": corpus.WORDS, "dropout_rate": 0.0}


def _base(length: int, layers: int) -> Config:
    return Config(d_model=768, d_ff=3072, num_layers=layers, num_heads=12, **BARE)


def _two_heads(length: int, layers: int) -> Config:
    """Few enough that transformers' pairs of 8,192 tokens take 5 GiB, forward and backward."""
    return Config(d_model=768, d_ff=3072, num_layers=layers, num_heads=2, **BARE)


def _small(length: int) -> Config:
    sizes = {"d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 2, "num_heads": 4}
    return Config(**{**BARE, **sizes, "vocab_size": corpus.WORDS + SENTINELS})


def _attention(ours: Any, theirs: Any, length: int, device: str) -> tuple[Attend, Attend]:
    """``T5Attention``, which makes the bias, as ours does for each call here."""
    layout, encoder = Whole(1, length, torch.device(device)), ours.body.encoder
    module, theirs_too = encoder.layers[0].attention.inner, theirs.encoder.block[0].layer[0].SelfAttention
    return lambda x: module(x, layout, encoder.bias(length)), lambda x: theirs_too(x)[0]


def _spans(ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    text, first = ids[:, 1:-1], corpus.WORDS + SENTINELS - 1
    spoilt, labels = span_corruption(text, end=corpus.LAST, sentinel=first, sentinels=SENTINELS, generator=generator)
    return {"input_ids": spoilt, "labels": labels}


ENCODER = Encoder(
    name="T5",
    architecture="T5EncoderModel",
    config=_base,
    # Memory of the other side grows with the square of the length.
    sizes=((2048, 2), (4096, 2), (2048, 12)),
    quick=((2048, 1),),
    attention=_attention,
    lengths=(2048, 4096),
)

LONGEST = Encoder(
    name="T5, 2 heads",
    architecture="T5EncoderModel",
    config=_two_heads,
    sizes=(),
    attention=_attention,
    lengths=(2048, 8192),
)

LEARNER = Learner("t5", "T5ForConditionalGeneration", _small, _spans)

AUTHOR = Author(
    name="T5 base",
    architecture="T5ForConditionalGeneration",
    config=_base,
    # Twelve layers of either side, whose scores are not scaled, make 1e-3 of float32's rounding.
    sizes=((1024, 2, 1), (4096, 2, 1)),
    peers=BESIDE,
)
