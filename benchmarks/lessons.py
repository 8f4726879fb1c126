"""What a student of all-MiniLM-L6-v2 is taught, in the manner of DistilBERT and of TinyBERT.

MiniLM is a sentence encoder: it has no LM head, and what it says of a text is how similar it is
to others. So wherever a paper has the teacher's predictions, these lessons have
:func:`similarities` within the batch.

DistilBERT (Sanh et al. 2019, arXiv:1910.01108, section 3) has three losses with weights 5, 2, 1:
soft targets, here of similarities instead of words; masked LM, left out, as there is no head to
predict words with; the direction of the last hidden states, as in the paper.

TinyBERT (Jiao et al. 2020, arXiv:1909.10351, section 3) first learns embeddings, hidden states and
attention scores, layer by layer, then the predictions. Both stages are here, on the same text and
without the authors' augmented data. There is no general distillation of a random student over a
large corpus before: a student as wide as the teacher starts as those of its layers that it learns
from, and its states are compared as they are. One half as wide starts at random and is projected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pkernels.models import Model, build
from pkernels.models.parts.objectives import (
    LayerwiseLoss,
    cosine_loss,
    initialise_student,
    soft_cross_entropy,
    soft_loss,
)
from pkernels.models.parts.objectives.distillation import Taught
from pkernels.models.sentences import mean

SCALE = 20.0
"""Of cosines as logits: that of sentence-transformers' in-batch softmax."""
KEPT = (0, 2, 4)
"""Every other layer of the teacher, as DistilBERT's student starts."""
MAPPED = (1, 3, 5)
"""The teacher's layers that TinyBERT's uniform map has a student of 3 learn from."""


def similarities(states: Tensor, offsets: Tensor) -> Tensor:
    """How each sentence of a packed batch is similar to the others, as logits ``(n, n - 1)``.

    Similarity to itself is left out: it is always 1, and would hide the rest.

    Args:
        states: ``(total, width)``; sentence i is ``offsets[i]`` to ``offsets[i + 1]``.

    Example:
        >>> similarities(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1, 2, 3]))
        tensor([[20.,  0.],
                [20.,  0.],
                [ 0.,  0.]])
    """
    vectors = F.normalize(mean(states, offsets), dim=-1)
    others = ~torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return SCALE * (vectors @ vectors.T)[others].reshape(len(vectors), -1)


class Directions(Taught):
    """DistilBERT's losses that a sentence encoder has, with the weights of the triple."""

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        mine, theirs = _states(self, ids, offsets)
        soft = soft_loss(similarities(mine, offsets), similarities(theirs, offsets))
        return 5 * soft + cosine_loss(mine, theirs)


class Layers(nn.Module):
    """TinyBERT's first stage; a narrower student is projected, to the teacher's width."""

    def __init__(self, student: Model, teacher: Model) -> None:
        super().__init__()
        width, theirs = (model.config.hidden_size for model in (student, teacher))  # type: ignore[attr-defined]
        self.loss = LayerwiseLoss(student, teacher, nn.Identity() if width == theirs else nn.Linear(width, theirs))

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.loss(ids, offsets=offsets).loss


class Predictions(Taught):
    """TinyBERT's second stage."""

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        mine, theirs = _states(self, ids, offsets)
        return soft_cross_entropy(similarities(mine, offsets), similarities(theirs, offsets))


def _states(pair: Taught, ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """The last states of student and teacher."""
    mine = pair.student(ids, offsets=offsets).last_hidden_state[0]
    with torch.no_grad():
        return mine, pair.teacher(ids, offsets=offsets).last_hidden_state[0]


# Students -------------------------------------------------------------------------------


def kept(teacher: Model) -> Model:
    """A student that starts as every other layer of the teacher."""
    return _started(teacher, KEPT)


def mapped(teacher: Model) -> Model:
    """One whose layers start as those they learn from, the second of each two."""
    return _started(teacher, MAPPED)


def _started(teacher: Model, layers: Sequence[int]) -> Model:
    student = _new(teacher, num_hidden_layers=len(layers))
    initialise_student(student, teacher, layers)
    return student


def fresh(teacher: Model) -> Model:
    """As deep as :func:`kept`, with initial weights."""
    return _new(teacher, num_hidden_layers=len(KEPT))


def narrow(teacher: Model) -> Model:
    """Half the width besides, as TinyBERT's students are narrower; heads are as many."""
    half = {name: getattr(teacher.config, name) // 2 for name in ("hidden_size", "intermediate_size")}
    return _new(teacher, num_hidden_layers=len(KEPT), **half)


def _new(teacher: Model, **changes: Any) -> Model:
    return build("BertModel", replace(teacher.config, **changes))


Lesson = Callable[[Model, Model], nn.Module]
"""From student and teacher to the loss of token ids ``(1, total)`` and their offsets."""


@dataclass(frozen=True)
class Stage:
    """A lesson, its share of a course's steps, and its highest learning rate."""

    lesson: Lesson
    share: float
    rate: float


@dataclass(frozen=True)
class Course:
    """One student's way: its name in rows, what makes it out of the teacher, and its stages."""

    name: str
    start: Callable[[Model], Model]
    stages: tuple[Stage, ...]


# The rates of the first two, and where TinyBERT starts, were chosen in runs of 80 steps.
COURSES = (
    Course("DistilBERT", kept, (Stage(Directions, 1.0, 1e-4),)),
    Course("TinyBERT", mapped, (Stage(Layers, 0.7, 2e-4), Stage(Predictions, 0.3, 5e-5))),
    Course("DistilBERT, random start", fresh, (Stage(Directions, 1.0, 5e-4),)),
    Course("TinyBERT, half as wide, random start", narrow, (Stage(Layers, 0.7, 1e-3), Stage(Predictions, 0.3, 5e-4))),
)
