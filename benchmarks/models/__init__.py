"""The models that are measured beside transformers' own: a file each, entered here."""

from . import bigbird, gpt, house, longformer, reformer, t5, transformer_xl, xlnet
from .base import Attend, Encoder, Learner, twins

_FAMILIES = (longformer, bigbird, reformer, gpt, t5, xlnet)
ENCODERS = (*(family.ENCODER for family in _FAMILIES), transformer_xl.ENCODER, *house.ENCODERS)
LEARNERS = {family.LEARNER.name: family.LEARNER for family in _FAMILIES}

__all__ = ["ENCODERS", "LEARNERS", "Attend", "Encoder", "Learner", "twins"]
