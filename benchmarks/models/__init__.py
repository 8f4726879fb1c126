"""The models that are measured beside transformers' own: a file each, entered here."""

from . import gpt, longformer
from .base import Attend, Encoder, Learner, twins

ENCODERS = (longformer.ENCODER, gpt.ENCODER)
LEARNERS = {learner.name: learner for learner in (longformer.LEARNER, gpt.LEARNER)}

__all__ = ["ENCODERS", "LEARNERS", "Attend", "Encoder", "Learner", "twins"]
