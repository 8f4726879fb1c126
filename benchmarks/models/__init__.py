"""The models that are measured beside transformers' own or plain torch: a file each, entered here."""

from . import bigbird, elmo, gpt, house, longformer, pictures, reformer, t5, transformer_xl, xlnet
from .base import Attend, Encoder, Learner, twins

_FAMILIES = (longformer, bigbird, reformer, gpt, t5, xlnet)
ENCODERS = (
    *(family.ENCODER for family in (*_FAMILIES, transformer_xl)),
    *(encoder for kind in (house, pictures, elmo) for encoder in kind.ENCODERS),
)
LEARNERS = {family.LEARNER.name: family.LEARNER for family in _FAMILIES}

__all__ = ["ENCODERS", "LEARNERS", "Attend", "Encoder", "Learner", "twins"]
