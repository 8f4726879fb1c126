"""A few steps of a family's pre-training on one batch: the recipes of ``pkernels.models.pretrain``, and what
is pre-trained on something else than text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pkernels.models.pretrain import RECIPES
from pkernels.models.pretrain.learners import Learning
from pkernels.models.pretrain.recipes import Recipe
from pkernels.models.pretrain.rows import Batches
from pkernels.models.pretrain.text import Corpus
from pkernels.models.pretrain.vocabulary import Vocabulary, read

from ..pretrain import tiny

STEPS, RATE = 6, 3e-3


@dataclass(frozen=True)
class Lesson:
    """What learns, and its loss on a batch."""

    learner: nn.Module
    loss: Callable[[], Tensor]


@dataclass(frozen=True)
class Learned:
    """The loss before and after; parameters that never got a gradient that is not 0 (in the first step that
    is all behind a layer that begins as 0), and those that got one that is infinite or no number."""

    first: float
    last: float
    idle: frozenset[str]
    infinite: frozenset[str]


def learn(lesson: Lesson) -> Learned:
    """The same draws in every step: what is sampled or hashed within a loss does not change it."""

    def loss() -> Tensor:
        torch.manual_seed(0)
        return lesson.loss()

    trained = {name: p for name, p in lesson.learner.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE)
    first = loss()
    first.backward()
    idle, infinite = set(trained), set()
    for _ in range(STEPS):
        gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
        idle -= {name for name, x in gradients.items() if bool(x.any())}
        infinite |= {name for name, x in gradients.items() if not bool(x.isfinite().all())}
        optimizer.step()
        optimizer.zero_grad()
        last = loss()
        last.backward()
    return Learned(float(first.detach()), float(last.detach()), frozenset(idle), frozenset(infinite))


@functools.cache
def _text(family: str) -> tuple[Corpus, Vocabulary]:
    """Some of Python's documentation in the family's tokens."""
    scheme = RECIPES[family].scheme
    found = Vocabulary.of(read(tiny.tokenizer(family), scheme), scheme)
    lines = (line for lines in tiny.documents() for line in (*lines, ""))
    return Corpus.encode(lines, found.tokenizer), found


def of_text(family: str, *, length: int = 48, rows: int = 8) -> Callable[[Path], Lesson]:
    """A recipe's."""
    return lambda folder: _lesson(family, RECIPES[family], length, rows)


def of_a_teacher(family: str) -> Callable[[Path], Lesson]:
    """The same of a student, whose teacher is a BERT."""

    def make(folder: Path) -> Lesson:
        taught = RECIPES[family].taught
        assert taught is not None
        return _lesson(family, taught(tiny.trained("bert")), tiny.SETTINGS.length, 8)

    return make


def _lesson(family: str, recipe: Recipe, length: int, rows: int) -> Lesson:
    corpus, vocabulary = _text(family)
    batch = Batches(corpus.lists(), recipe.rows, vocabulary, length=length, batch=rows, seed=1, copies=0).take()
    draw = torch.Generator().manual_seed(0)
    arguments = recipe.objective(corpus, vocabulary)(batch, vocabulary, draw)
    torch.manual_seed(0)
    sizes: Any = replace(tiny.SIZES, dropout=0.0)
    assert recipe.learner is not None
    learner = recipe.learner(recipe.config(sizes, vocabulary, length)).train()
    module = Learning(learner, recipe.losses)
    return Lesson(learner, lambda: module(**arguments)[0]["loss"])
