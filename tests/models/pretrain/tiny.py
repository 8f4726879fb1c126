"""Trainings that take a moment, on Python's own documentation."""

from __future__ import annotations

import functools
import pydoc_data.topics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkernels.models.pretrain import RECIPES, Outcome, Settings, Sizes, pretrain
from pkernels.models.pretrain.check import CHECKED
from pkernels.models.pretrain.vocabulary import ALBERT, BERT, CASED, CLIP, GPT2, PLAIN, ROBERTA, T5, WORDS, XLNET, learn

from .. import drawings, scenes

SIZES = Sizes(hidden=16, layers=2, heads=2, inner=24, vocabulary=300, dropout=0.1, pixels=16, patch=4)
FLAT = Sizes(hidden=16, layers=1, heads=2, inner=24, vocabulary=300, dropout=0.1, pixels=16, patch=4)
DEEP = {"bert", "albert", "longformer", "reformer", "gpt3", "gpt_neo"}
"""Families whose layers differ or are shared, and the teacher; one layer is enough for the others."""
TASKS = {"uniter": 5, "unimo": 5}
"""Families that learn several tasks at once, and the captions they need."""
SETTINGS = Settings(length=32, batch=4, micro=2, steps=3, log=1, save=2)

SCHEMES = {
    "bert": BERT, "roberta": ROBERTA, "albert": ALBERT, "plain": PLAIN, "t5": T5, "gpt2": GPT2, "xlnet": XLNET,
    "cased": CASED, "clip": CLIP, "words": WORDS,
}  # fmt: skip


def documents(count: int = 4) -> list[list[str]]:
    """Lines of the first topics."""
    topics = pydoc_data.topics.topics
    of_topics = [[line.strip() for line in topics[name].splitlines()] for name in sorted(topics)[:count]]
    return [[line for line in lines if line] for lines in of_topics]


@functools.cache
def folder() -> Path:
    """Holds the text, pictures, and a tokenizer of each scheme, which takes longer to make than a training."""
    path = Path(tempfile.mkdtemp(prefix="pretrain-"))
    (path / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in documents()) + "\n", encoding="utf-8")
    for pictures in (scenes, drawings):
        pictures.write(path / pictures.__name__.split(".")[-1], 24, seed=1)
    lines = [line for of_document in documents() for line in of_document]
    for name, scheme in SCHEMES.items():
        learn(lines, scheme, 300).save(str(path / f"{name}.json"))
    return path


def data(family: str, there: Path | None = None) -> Path:
    """A text, or a folder of pictures."""
    kind = ("scenes" if family in TASKS else "drawings") if family in CHECKED else "text.txt"
    return (there or folder()) / kind


def tokenizer(family: str, there: Path | None = None) -> Path | None:
    """None of families that read nothing."""
    if RECIPES[family].scheme is None:
        return None
    [name] = [name for name, scheme in SCHEMES.items() if scheme == RECIPES[family].scheme]
    return (there or folder()) / f"{name}.json"


def with_room(family: str, settings: Settings) -> Settings:
    """With micro-batches that are large enough."""
    if family not in TASKS:
        return settings
    return replace(settings, batch=settings.batch // settings.micro * TASKS[family], micro=TASKS[family])


def train(family: str, out: Path, settings: Settings = SETTINGS, **changes: Any) -> Outcome:
    given = {"model": SIZES if family in DEEP else FLAT, "tokenizer": tokenizer(family), **changes}
    if RECIPES[family].learner is None:
        given = {"teacher": trained("bert"), **given}
    return pretrain(family, data(family), out, settings=with_room(family, settings), **given)


@functools.cache
def trained(family: str) -> Path:
    """The directory of a training without a stop."""
    out = folder() / family
    assert train(family, out).step == SETTINGS.steps
    return out


def state(out: Path) -> dict[str, Any]:
    return torch.load(out / "state.pt", weights_only=True)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """A checkpoint's tensors and numbers by their paths."""
    if isinstance(value, dict):
        return {path: x for key, inner in value.items() for path, x in flat(inner, f"{name}.{key}").items()}
    return {name: value}


def same(got: Any, want: Any) -> bool:
    return torch.equal(got, want) if isinstance(want, Tensor) else got == want
