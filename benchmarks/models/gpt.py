"""GPT with bands: every other layer of GPT-Neo sees 256 tokens back. (GPT-3's are so too, but
transformers has none.) Models over long text, the banded attention alone, a causal LM to train, and
writing, where a banded layer keeps no more keys than it sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pkernels.models.gpt_neo import Config
from pkernels.models.parts.layouts import Whole

from .. import corpus
from .authors import Author, growing
from .base import Attend, Encoder, Learner

ENDS = {"bos_token_id": corpus.FIRST, "eos_token_id": corpus.LAST}


def _config(length: int, layers: int, **sizes: int) -> Config:
    """A banded layer first, so that one layer is one of them."""
    kinds = ("local", "global") * layers
    bare = {"vocab_size": corpus.WORDS, "max_position_embeddings": length, "classifier_dropout": 0.0}
    return Config(num_layers=layers, attention_types=((kinds[:layers], 1),), **bare, **ENDS, **sizes)  # type: ignore[arg-type]


def _base(length: int, layers: int) -> Config:
    return _config(length, layers, hidden_size=768, num_heads=12)


def _two_heads(length: int, layers: int) -> Config:
    """Few enough that a step of transformers over 8,192 tokens fits into memory."""
    return _config(length, layers, hidden_size=128, num_heads=2)


def _small(length: int) -> Config:
    return _config(length, 2, hidden_size=128, num_heads=4, window_size=64)


def _attention(ours: Any, theirs: Any, length: int, device: str) -> tuple[Attend, Attend]:
    """``GPTNeoSelfAttention`` of a local layer; without padding it makes its own mask."""
    layout, module = Whole(1, length, torch.device(device)), ours.body.layers[0].attention.inner
    other = theirs.h[0].attn.attention

    def attend(x: Tensor) -> Tensor:
        return other(x)[0]

    return lambda x: module(x, layout), attend


ENCODER = Encoder(
    name="GPT-Neo",
    architecture="GPTNeoModel",
    config=_base,
    sizes=((4096, 2), (8192, 2), (8192, 12)),
    quick=((2048, 1),),
    attention=_attention,
    lengths=(4096, 8192),
)

LONGEST = Encoder(
    name="GPT-Neo, 2 heads",
    architecture="GPTNeoModel",
    config=_two_heads,
    sizes=(),
    attention=_attention,
    lengths=(2048, 8192),
)

LEARNER = Learner("gpt", "GPTNeoForCausalLM", _small, corpus.causal)

AUTHOR = Author(
    name="GPT-Neo",
    architecture="GPTNeoForCausalLM",
    config=_base,
    sizes=((1024, 12, 1), (4096, 12, 1), (4096, 2, 8)),
    peers={"transformers": growing},  # its bands are wrong behind a static cache
    tolerance=1e-3,  # heads that are not scaled: both sides differ from float64 by 3e-4
)
