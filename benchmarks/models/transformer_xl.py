"""Transformer-XL's way to attend: transformers 5 has no such model, but XLNet's of one direction is the same
attention, over all tokens before and a memory."""

from __future__ import annotations

from functools import partial

from . import xlnet
from .base import Encoder

ENCODER = Encoder(
    name="Transformer-XL (as XLNet, one way)",
    architecture="XLNetModel",
    config=partial(xlnet.base, attn_type="uni"),
    sizes=((1024, 2), (4096, 1)),
    attention=xlnet.attention,
    lengths=(1024, 4096),
)
