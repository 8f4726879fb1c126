"""Trainings that take a moment, on Python's own documentation."""

from __future__ import annotations

import functools
import pydoc_data.topics
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pkernels.models.pretrain import RECIPES, Outcome, Settings, Sizes, pretrain
from pkernels.models.pretrain.vocabulary import ALBERT, BERT, GPT2, PLAIN, ROBERTA, T5, XLNET, learn

SIZES = Sizes(hidden=16, layers=2, heads=2, inner=24, vocabulary=300, dropout=0.1)
FLAT = Sizes(hidden=16, layers=1, heads=2, inner=24, vocabulary=300, dropout=0.1)
DEEP = {"bert", "albert", "longformer", "reformer", "gpt3", "gpt_neo"}
"""Families whose layers differ or are shared, and the teacher; one layer is enough for the others."""
SETTINGS = Settings(length=32, batch=4, micro=2, steps=3, log=1, save=2)

SCHEMES = {
    "bert": BERT, "roberta": ROBERTA, "albert": ALBERT, "plain": PLAIN, "t5": T5, "gpt2": GPT2, "xlnet": XLNET
}  # fmt: skip


def documents(count: int = 4) -> list[list[str]]:
    """Lines of the first topics."""
    topics = pydoc_data.topics.topics
    of_topics = [[line.strip() for line in topics[name].splitlines()] for name in sorted(topics)[:count]]
    return [[line for line in lines if line] for lines in of_topics]


@functools.cache
def folder() -> Path:
    """Holds the text, and a tokenizer of each scheme, which takes longer to make than a training."""
    path = Path(tempfile.mkdtemp(prefix="pretrain-"))
    (path / "text.txt").write_text("\n\n".join("\n".join(lines) for lines in documents()) + "\n", encoding="utf-8")
    lines = [line for of_document in documents() for line in of_document]
    for name, scheme in SCHEMES.items():
        learn(lines, scheme, 300).save(str(path / f"{name}.json"))
    return path


def tokenizer(family: str, there: Path | None = None) -> Path:
    [name] = [name for name, scheme in SCHEMES.items() if scheme == RECIPES[family].scheme]
    return (there or folder()) / f"{name}.json"


def train(family: str, out: Path, settings: Settings = SETTINGS, **changes: Any) -> Outcome:
    given = {"model": SIZES if family in DEEP else FLAT, "tokenizer": tokenizer(family), **changes}
    if RECIPES[family].learner is None:
        given = {"teacher": trained("bert"), **given}
    return pretrain(family, folder() / "text.txt", out, settings=settings, **given)


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
