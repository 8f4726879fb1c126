"""The models that are measured beside transformers' own: a file each, entered here."""

from . import bart, bigbird, gpt, gpt2, house, longformer, reformer, t5, transformer_xl, xlnet
from .authors import Author
from .base import Attend, Encoder, Learner, twins

_FAMILIES = (longformer, bigbird, reformer, gpt, t5, xlnet)
ENCODERS = (*(family.ENCODER for family in _FAMILIES), t5.LONGEST, transformer_xl.ENCODER, *house.ENCODERS)
AUTHORS = (gpt2.AUTHOR, gpt.AUTHOR, t5.AUTHOR, bart.AUTHOR)
LEARNERS = {family.LEARNER.name: family.LEARNER for family in _FAMILIES}

__all__ = ["AUTHORS", "ENCODERS", "LEARNERS", "Attend", "Author", "Encoder", "Learner", "twins"]
