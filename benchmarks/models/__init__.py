"""The models that are measured beside transformers' own: a file each, entered here."""

from . import bigbird, gpt, longformer, reformer
from .base import Attend, Encoder, Learner, twins

ENCODERS = (longformer.ENCODER, bigbird.ENCODER, reformer.ENCODER, gpt.ENCODER)
LEARNERS = {learner.name: learner for learner in (longformer.LEARNER, bigbird.LEARNER, reformer.LEARNER, gpt.LEARNER)}

__all__ = ["ENCODERS", "LEARNERS", "Attend", "Encoder", "Learner", "twins"]
