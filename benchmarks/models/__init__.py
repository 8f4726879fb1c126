"""The models that are measured beside transformers' own or plain torch: a file each, entered here."""

from . import bart, bigbird, elmo, gpt, gpt2, house, longformer, pictures, reformer, t5, transformer_xl, xlnet
from .authors import Author
from .base import Attend, Encoder, Learner, twins

_FAMILIES = (longformer, bigbird, reformer, gpt, t5, xlnet)
ENCODERS = (
    *(family.ENCODER for family in (*_FAMILIES, transformer_xl)),
    *(gpt.LONGEST, t5.LONGEST, bart.ENCODER),
    *(encoder for kind in (house, pictures, elmo) for encoder in kind.ENCODERS),
)
AUTHORS = (gpt2.AUTHOR, gpt.AUTHOR, t5.AUTHOR, bart.AUTHOR)
LEARNERS = {family.LEARNER.name: family.LEARNER for family in _FAMILIES}

__all__ = ["AUTHORS", "ENCODERS", "LEARNERS", "Attend", "Author", "Encoder", "Learner", "twins"]
