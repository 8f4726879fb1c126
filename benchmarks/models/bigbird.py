"""BigBird: base width over long text, its attention alone, and masked LM to train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pkernels.models.bigbird import Config
from pkernels.models.parts.layouts import Whole

from .. import corpus
from .base import Attend, Encoder, Learner

BARE: dict[str, Any] = {"vocab_size": corpus.WORDS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _base(length: int, layers: int) -> Config:
    return Config(num_hidden_layers=layers, max_position_embeddings=length, **BARE)


def _small(length: int) -> Config:
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 512,
    }
    return Config(max_position_embeddings=length, block_size=32, num_random_blocks=2, **sizes, **BARE)


def _attention(ours: Any, theirs: Any, length: int, device: str) -> tuple[Attend, Attend]:
    """``BigBirdBlockSparseAttention`` and the dense layer behind it.

    Masks are made beforehand, as transformers' model makes them once for all layers; ours keeps
    its layouts by length.
    """
    module, layout = ours.body.layers[0].attention.inner, Whole(1, length, torch.device(device))
    theirs_too = theirs.encoder.layer[0].attention
    mask = torch.ones(1, length, device=device)
    blocked, band, rows, columns = theirs.create_masks_for_block_sparse_attn(mask, theirs.block_size)
    masks = {"band_mask": band, "from_mask": rows, "to_mask": columns}
    masks |= {"from_blocked_mask": blocked, "to_blocked_mask": blocked}

    def attend(x: Tensor) -> Tensor:
        return theirs_too.output.dense(theirs_too.self(x, **masks)[0])

    return lambda x: module(x, layout, ours.body.blocks(length)[0]), attend


ENCODER = Encoder(
    name="BigBird",
    architecture="BigBirdModel",
    config=_base,
    sizes=((4096, 2), (8192, 2), (16384, 2), (32768, 2), (4096, 12)),
    quick=((4096, 1),),
    attention=_attention,
    lengths=(4096, 8192),
)

LEARNER = Learner("bigbird", "BigBirdForMaskedLM", _small, corpus.masked)
