"""The models that are measured beside transformers' own: a file each, entered here."""

from . import longformer
from .base import Attend, Encoder, Learner, twins

ENCODERS = (longformer.ENCODER,)
LEARNERS = {learner.name: learner for learner in (longformer.LEARNER,)}

__all__ = ["ENCODERS", "LEARNERS", "Attend", "Encoder", "Learner", "twins"]
