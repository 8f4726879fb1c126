"""GPT-2 writing behind a context: every layer keeps all keys."""

from __future__ import annotations

from pkernels.models.gpt2 import Config

from .. import corpus
from .authors import BEHIND, Author


def _small(places: int, layers: int) -> Config:
    return Config(
        vocab_size=corpus.WORDS, n_positions=places, n_layer=layers, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=corpus.FIRST, eos_token_id=corpus.LAST,
    )  # fmt: skip


AUTHOR = Author(
    name="GPT-2",
    architecture="GPT2LMHeadModel",
    config=_small,
    sizes=((1024, 12, 1), (4096, 12, 1), (4096, 2, 8)),
    quick=((4096, 1, 1),),
    peers=BEHIND,
)
