"""Learners that are more than one model, and the losses of those that have several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .. import bert, bigbird, distilbert, electra
from ..parts.heads import States
from ..parts.layouts import IGNORED, Whole
from ..parts.linear import Linear
from ..parts.model import Model
from ..parts.objectives import (
    DISTILBERT,
    LayerwiseLoss,
    ReplacedTokens,
    TripleLoss,
    initialise_student,
    share_embeddings,
)
from ..parts.objectives.layerwise import Layerwise
from ..pretrained import build, from_pretrained

Losses = Callable[[Any, Mapping[str, Any]], dict[str, Tensor]]
"""From what a learner returned and its arguments to the parts of its loss, by name."""


class Learning(nn.Module):
    """What a training calls. It returns what data parallel wrappers find tensors in: a dict of "loss" and the
    recipe's ``losses``, and the memories for the rows that follow, none of learners without."""

    def __init__(self, learner: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.learner, self.losses = learner, losses

    def forward(self, **arguments: Any) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        out = self.learner(**arguments)
        losses = {name: loss.detach() for name, loss in self.losses(out, arguments).items()}
        return {"loss": out.loss, **losses}, getattr(out, "mems", None) or ()


def words_alone(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"words": out.loss}


def words_and_relation(logits: str, label: str) -> Losses:
    """Of models whose loss is that of the words and that of the segments' relation; ``logits`` and
    ``label`` name the relation's output and argument."""

    def losses(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        relation = F.cross_entropy(getattr(out, logits).float(), arguments[label])
        return {"words": out.loss - relation, "relation": relation}

    return losses


def itself(learner: Any) -> Mapping[str, Model]:
    return {".": learner}


def big_bird(config: bigbird.Config) -> Model:
    """A masked LM. Its files hold a layer that only other heads use: it gets no gradient, for which
    processes would wait."""
    model = build("BigBirdForMaskedLM", config)
    model.head.get_submodule("unused").requires_grad_(False)
    return model


# Models beside what they need to learn


def the_model(learner: Any) -> Mapping[str, Model]:
    return {".": learner.model}


def of_modes(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"words": out.words, "relation": out.relation}


@dataclass
class Told:
    """``loss`` of all labels, and of the words of the text among them."""

    loss: Tensor
    words: Tensor


class Telling(nn.Module):
    """A model that tells a text, or pieces of it with marks in between, which are easy.

    ``words (B, T)`` are booleans: the labels that are words of the text.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, words: Tensor, **arguments: Any) -> Told:
        out = self.model(labels=labels, **arguments)
        with torch.no_grad():
            return Told(out.loss, F.cross_entropy(out.logits[words], labels[words]))


def told(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"words": out.words}


# ELECTRA


def detector(config: electra.Config) -> ReplacedTokens:
    """Two models with one table of embeddings, the generator half as wide as the discriminator (Clark
    et al. 2020, arXiv:2003.10555, section 3.2: 1/4 to 1/2)."""
    generator = build("ElectraForMaskedLM", config.generator(1 / 2))
    discriminator = build("ElectraForPreTraining", config)
    share_embeddings(generator, discriminator)
    return ReplacedTokens(generator, discriminator)


def of_detector(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"words": out.generator_loss, "replaced": out.discriminator_loss}


def both_models(learner: Any) -> Mapping[str, Model]:
    """The discriminator is what tasks start from."""
    return {".": learner.discriminator, "generator": learner.generator}


# DistilBERT


def bert_teacher(local_dir: str | Path) -> Model:
    """
    Raises:
        ValueError: If the directory holds no BERT with word scores.
    """
    try:
        return from_pretrained(local_dir, architecture="BertForMaskedLM")
    except ValueError as error:
        raise ValueError(f"teacher: a directory with a BertForMaskedLM is allowed; {error}") from error


def half_of(teacher: Model) -> distilbert.Config:
    """A student's config: half as many layers (Sanh et al. 2019, arXiv:1910.01108, section 3)."""
    c: Any = teacher.config
    if not isinstance(c, bert.Config) or c.hidden_act not in ("gelu", "gelu_new", "relu"):
        raise ValueError(f"teacher: a BERT is allowed, got {c}")
    return distilbert.Config(
        vocab_size=c.vocab_size, max_position_embeddings=c.max_position_embeddings,
        n_layers=len(_layers(c)), n_heads=c.num_attention_heads, dim=c.hidden_size, hidden_dim=c.intermediate_size,
        dropout=c.hidden_dropout_prob, attention_dropout=c.attention_probs_dropout_prob, activation=c.hidden_act,
        pad_token_id=c.pad_token_id,
    )  # fmt: skip


def _layers(c: bert.Config) -> tuple[int, ...]:
    return DISTILBERT if c.num_hidden_layers == 12 else tuple(range(0, c.num_hidden_layers, 2))


def student_of(teacher: Model) -> Callable[[distilbert.Config], TripleLoss]:
    """Learners that start as every other layer of the teacher (there)."""

    def learner(config: distilbert.Config) -> TripleLoss:
        student, c = build("DistilBertForMaskedLM", config), teacher.config
        assert isinstance(c, bert.Config)
        initialise_student(student, teacher, _layers(c))
        return TripleLoss(student, teacher)

    return learner


def of_student(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"words": out.masked, "soft": out.soft, "cosine": out.cosine}


def the_student(learner: Any) -> Mapping[str, Model]:
    return {".": learner.student}


# TinyBERT


@dataclass
class ReadLayers(Layerwise):
    """And how well words are read from ``last``."""

    words: Tensor


class Read(LayerwiseLoss):
    """General distillation (Jiao et al. 2020, arXiv:1909.10351, section 3.2) on masked texts, as the authors'
    program has them. The student predicts no words; but as its last states become its teacher's, his
    head reads words from them."""

    def forward(self, input_ids: Tensor, labels: Tensor, **arguments: Any) -> ReadLayers:  # type: ignore[override]
        out = super().forward(input_ids, **arguments)
        teacher: Any = self.teacher
        chosen = labels != IGNORED
        with torch.no_grad():
            x = out.last[chosen][None]
            states = States(x, Whole(1, x.shape[1], x.device), teacher.body.embeddings.words.weight)
            words = F.cross_entropy(teacher.head.words(states)[0], labels[chosen])
        return ReadLayers(**vars(out), words=words)


def reader_of(teacher: Model) -> Callable[[bert.Config], Read]:
    """Learners whose student is a BERT without a head, with as many heads of attention as the teacher."""

    def learner(config: bert.Config) -> Read:
        c: Any = teacher.config
        for name in ("num_attention_heads", "vocab_size"):
            if getattr(config, name) != getattr(c, name):
                allowed, got = getattr(c, name), getattr(config, name)
                raise ValueError(f"model: {name} {allowed} (the teacher's) is allowed, got {got}")
        student = build("BertModel", config)
        student.head.requires_grad_(False)  # its pooler, which no loss reaches: processes would wait for it
        return Read(student, teacher, Linear(config.hidden_size, c.hidden_size))

    return learner


def of_reader(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"words": out.words, "embedding": out.embedding, "hidden": out.hidden, "attention": out.attention}
