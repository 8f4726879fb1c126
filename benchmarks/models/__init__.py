"""The models that are measured beside transformers' own: a file each, entered here."""

from . import bigbird, longformer, reformer, t5
from .base import Attend, Encoder, Learner, twins

ENCODERS = (longformer.ENCODER, bigbird.ENCODER, reformer.ENCODER, t5.ENCODER)
_LEARNERS = (longformer.LEARNER, bigbird.LEARNER, reformer.LEARNER, t5.LEARNER)
LEARNERS = {learner.name: learner for learner in _LEARNERS}

__all__ = ["ENCODERS", "LEARNERS", "Attend", "Encoder", "Learner", "twins"]
