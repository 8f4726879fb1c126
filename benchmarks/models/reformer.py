"""Reformer: long text, its LSH attention alone, and causal LM to train."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pkernels.models.parts.chunked import Text
from pkernels.models.reformer import Config

from .. import corpus
from .base import Attend, Encoder, Learner

BARE: dict[str, Any] = {
    "vocab_size": corpus.WORDS,
    "hidden_dropout_prob": 0.0,
    "local_attention_probs_dropout_prob": 0.0,
    "lsh_attention_probs_dropout_prob": 0.0,
    "hash_seed": 0,
    "num_hashes": 4,
}
ROWS = 256
"""Of the grid of positions."""


def _kinds(layers: int) -> tuple[str, ...]:
    """LSH first: it is what "long attention" measures. With the local ones they take turns."""
    return tuple("lsh" if i % 2 == 0 else "local" for i in range(layers))


def _wide(length: int, layers: int) -> Config:
    """BERT's base width."""
    return Config(
        hidden_size=768, num_attention_heads=12, feed_forward_size=3072, hidden_act="gelu",
        attn_layers=_kinds(layers), max_position_embeddings=length, axial_pos_shape=(ROWS, length // ROWS),
        axial_pos_embds_dim=(256, 512), **BARE,
    )  # fmt: skip


def _small(length: int) -> Config:
    return Config(
        hidden_size=128, num_attention_heads=4, attention_head_size=32, feed_forward_size=512,
        attn_layers=("local", "lsh"), max_position_embeddings=length, axial_pos_shape=(32, length // 32),
        axial_pos_embds_dim=(32, 96), is_decoder=True, **BARE,
    )  # fmt: skip


def _attention(ours: Any, theirs: Any, length: int, device: str) -> tuple[Attend, Attend]:
    """``LSHSelfAttention`` and the dense layer behind it."""
    module = ours.body.stack.layers[0][0].inner
    theirs_too = theirs.encoder.layers[0].attention

    def attend(x: Tensor) -> Tensor:
        return theirs_too.output(theirs_too.self_attention(x).hidden_states)

    return lambda x: module(x, Text(None)), attend


ENCODER = Encoder(
    name="Reformer",
    architecture="ReformerModel",
    config=_wide,
    sizes=((4096, 2), (8192, 2), (16384, 2), (32768, 2), (4096, 12)),
    quick=((4096, 1),),
    attention=_attention,
    lengths=(4096, 8192),
    hashes=True,
)

# transformers 5 has this bias in its files and adds it to nothing.
LEARNER = Learner("reformer", "ReformerModelWithLMHead", _small, corpus.causal, unused=("head.words.bias",))
