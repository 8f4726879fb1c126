"""The models that are measured beside transformers' own: a file each, entered here."""

from . import bigbird, house, longformer, reformer
from .base import Attend, Encoder, Learner, twins

ENCODERS = (longformer.ENCODER, bigbird.ENCODER, reformer.ENCODER, *house.ENCODERS)
LEARNERS = {learner.name: learner for learner in (longformer.LEARNER, bigbird.LEARNER, reformer.LEARNER)}

__all__ = ["ENCODERS", "LEARNERS", "Attend", "Encoder", "Learner", "twins"]
