"""BART over padded texts, which it reads and writes; and writing beside a text that its encoder has read."""

from __future__ import annotations

from pkernels.models.bart import Config

from .. import corpus
from .authors import BESIDE, Author
from .base import Encoder
from .house import ROWS


def _base(places: int, layers: int) -> Config:
    return Config(
        vocab_size=corpus.WORDS, max_position_embeddings=places, d_model=768, encoder_layers=layers,
        decoder_layers=layers, encoder_ffn_dim=3072, decoder_ffn_dim=3072, encoder_attention_heads=12,
        decoder_attention_heads=12, dropout=0.0, pad_token_id=corpus.PADDING, bos_token_id=corpus.FIRST,
        eos_token_id=corpus.LAST, decoder_start_token_id=corpus.LAST,
    )  # fmt: skip


ENCODER = Encoder("BART base", "BartModel", _base, sizes=((128, 6), (512, 6)), rows=ROWS)

AUTHOR = Author(
    name="BART base",
    architecture="BartForConditionalGeneration",
    config=_base,
    sizes=((1024, 6, 1), (1024, 6, 8)),
    peers=BESIDE,
)
