"""A training from beginning to end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..parts.config import BaseConfig
from . import checkpoint, draws
from .checkpoint import State
from .folder import Folder, read_log
from .learners import Learning
from .loop import Loop, Report, optimizer
from .processes import PARALLEL, Alone, Processes, alone, joined
from .recipes import Recipe, recipe
from .settings import Settings, Sizes
from .sources import Course, Source
from .text import digest
from .vocabulary import there


@dataclass(frozen=True)
class Outcome:
    """What became of a training.

    Args:
        out: Its directory; ``from_pretrained(out)`` is the model.
        step: Steps taken, those of earlier calls included.
        unigram: The loss of a guess that knows how often each token (of ViT: each class) occurs, and nothing else.
            Of CLIP: that takes any text of a micro-batch for a picture's.
        log: A dict for each line of ``log.jsonl``.
        measure: The loss in the log that compares with ``unigram``.
    """

    out: Path
    step: int
    unigram: float
    log: list[dict[str, Any]]
    measure: str = "words"


def pretrain(
    family: str,
    text: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    model: Sizes | BaseConfig | None = None,
    settings: Settings | None = None,
    tokenizer: str | Path | None = None,
    teacher: str | Path | None = None,
    stop: int | None = None,
    device: str = "cpu",
    parallel: str = "ddp",
    report: Report | None = None,
) -> Outcome:
    """Train a model of a family on text or pictures, or go on with a training that was stopped.

    Args:
        family: One of ``RECIPES``.
        text: UTF-8 files: a sentence a line, an empty line between documents. Of families that see, the folder of
            their pictures (:mod:`pictures`).
        out: A new or empty directory, or that of the same training, which then goes on where its
            last checkpoint is, with the same results as if it had never stopped.
        model: Sizes of a small model (:class:`Sizes` by default), or the family's config.
        settings: How it learns (:class:`Settings` by default).
        tokenizer: A ``tokenizer.json`` or ``vocab.txt``; without it the teacher's, or else one that
            is made from the text.
        teacher: Directory of a trained model, of families that can learn from one.
        stop: Stop after this step, of ``settings.steps``.
        device: "cpu" or "cuda".
        parallel: "ddp" or "fsdp": what the processes that torchrun started share; one process
            alone has all.
        report: Gets each line of the log, in the first process.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: Naming the argument.
        FloatingPointError: If the loss becomes infinite or no number.
    """
    chosen, model = recipe(family, teacher), model or Sizes()
    settings = (settings or Settings()).of_family(chosen.optimizer, chosen.rate)
    if not isinstance(model, (Sizes, chosen.kind)):
        raise ValueError(f"model: Sizes or {chosen.kind.__module__}.Config is allowed, got {type(model)}")
    if parallel not in PARALLEL:
        raise ValueError(f"parallel: one of {', '.join(PARALLEL)} is allowed, got {parallel!r}")
    if parallel not in settings.way[0].parallel:
        raise ValueError(f"parallel: ddp is allowed with {settings.optimizer}, got {parallel!r}; adamw has both")
    until = settings.steps if stop is None else stop
    if not 1 <= until <= settings.steps:
        raise ValueError(f"stop: from 1 to steps ({settings.steps}) is allowed, got {stop}")
    source, folder, cut = chosen.source(text), Folder(Path(out)), _tokenizer_of(tokenizer, teacher)
    asked = {
        "family": family, "model": _asked(model), "settings": asdict(settings), "text": source.digest(),
        "tokenizer": None if cut is None else digest([cut]),
        "teacher": None if teacher is None else digest(_weights(Path(teacher))),
    }  # fmt: skip
    processes = joined(device)
    settings.microbatches(processes.count)
    with _own_randomness(processes):
        if processes.rank == 0:
            folder.claim(asked)
            source.prepare(folder, cut, model)
        processes.wait()
        return _train(chosen, source, folder, model, settings, processes, until, parallel, report)


def _asked(model: Sizes | BaseConfig) -> dict[str, Any]:
    return asdict(model) if isinstance(model, Sizes) else model.to_dict()


def _weights(local_dir: Path) -> list[Path]:
    return sorted(path for path in local_dir.iterdir() if path.suffix in (".safetensors", ".bin"))


@contextmanager
def _own_randomness(processes: Processes) -> Iterator[None]:
    """The caller's generators are as they were afterwards."""
    with torch.random.fork_rng([processes.device] if processes.device.type == "cuda" else []):
        yield


def _tokenizer_of(tokenizer: str | Path | None, teacher: str | Path | None) -> Path | None:
    """The file that was named, or the teacher's."""
    if tokenizer is not None:
        return there(tokenizer)
    if teacher is None:
        return None
    for name in ("tokenizer.json", "vocab.txt"):
        if (Path(teacher) / name).is_file():
            return Path(teacher) / name
    raise FileNotFoundError(f"tokenizer: {teacher} holds no tokenizer.json or vocab.txt; name one")


def _train(
    chosen: Recipe, source: Source, folder: Folder, model: Sizes | BaseConfig, settings: Settings,
    processes: Processes, until: int, parallel: str, report: Report | None,
) -> Outcome:  # fmt: skip
    course = source.course(folder, model, settings)
    chosen.check(course.config, settings.length)
    state, module = _begin(chosen, course, settings, processes, parallel)
    models = chosen.models(state.learner)
    first = processes.rank == 0
    if folder.state.is_file():
        checkpoint.load(folder.state, state)
    if first:
        folder.cut_log(state.step)
        folder.guess.write_text(json.dumps(asdict(course.guess)) + "\n", encoding="utf-8")

    def tell(row: dict[str, Any]) -> None:
        if first:
            folder.write_log([row])
            if report is not None:
                report(row)

    def save() -> None:
        tensors = checkpoint.save(folder.state, state, processes)
        if first:
            folder.save_models(state.learner, models, tensors)

    if state.step >= until:
        save()  # the last call may have ended between the checkpoint and the models
    Loop(module, course.objective, course.vocabulary, settings, processes).run(state, until, tell, save)
    processes.wait()
    return Outcome(folder.path, state.step, course.guess.loss, read_log(folder.path), course.guess.name)


def _begin(
    chosen: Recipe, course: Course, settings: Settings, processes: Processes, parallel: str
) -> tuple[State, Alone]:
    """A training before its first step."""
    torch.manual_seed(draws.number(settings.seed, "weights"))
    assert chosen.learner is not None  # ``recipe`` gives none without
    learner: nn.Module = chosen.learner(course.config).to(processes.device).train()
    share = PARALLEL[parallel] if processes.count > 1 else alone
    module = share(Learning(learner, chosen.losses), processes)
    steps = optimizer(learner, settings)
    steps.register_step_post_hook(lambda *_: chosen.stepped(learner))
    return State(learner, steps, course.examples), module
