"""Families that see regions and read captions: UNITER (Chen et al. 2019, arXiv:1909.11740, section 3.2) and UNIMO (Li
et al. 2020, arXiv:2012.15409, section 2).

Their tasks stand side by side in each micro-batch, whose captions they share out, in proportion to how
often the papers draw them. (The papers draw one task for each batch. In the mean both have the same gradient; so no
process waits for the gradient of a head that another task has.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .. import unimo, uniter
from ..parts.joint import JointConfig
from ..parts.model import Model
from ..parts.objectives import UNIMO, UNITER, Pairs, contrast_batch
from ..parts.objectives.candidates import ContrastBatch
from ..parts.objectives.image_text import Vocabulary as Ids
from ..parts.objectives.image_text import hidden_classes
from ..parts.regions import Caption
from ..pretrained import build
from .albums import Album, Picked
from .settings import Sizes
from .small import of_encoder
from .vocabulary import Vocabulary

Tasks = Mapping[str, tuple[float, Callable[..., Any]]]
"""Name -> its part of the mixture, and from pairs, captions and a generator to what is called."""


def contrasted(pairs: Pairs, captions: Sequence[Caption], generator: torch.Generator) -> dict[str, Any]:
    return vars(contrast_batch(pairs, captions))


# The three ways to tell a region, where the paper's best model has no "classes" (table 2).
UNITER_TASKS: Tasks = {**UNITER, "classes": (1.0, hidden_classes)}
# Section 2: pictures, texts, and both. How the authors weigh contrast is not published.
UNIMO_TASKS: Tasks = {**UNIMO, "contrast": (1.0, contrasted)}


def _joint(s: Sizes, album: Album, v: Vocabulary, positions: int) -> dict[str, Any]:
    first = album.regions[album.names[0]]
    assert first.probabilities is not None
    return {
        **of_encoder(s, v, positions),
        "image_embedding_size": first.features.shape[1],
        "image_class_size": first.probabilities.shape[1],
    }


def of_uniter(s: Sizes, album: Album, v: Vocabulary, length: int) -> uniter.Config:
    return uniter.Config.base(**_joint(s, album, v, length))


def of_unimo(s: Sizes, album: Album, v: Vocabulary, length: int) -> unimo.Config:
    # A target has marks of its own.
    positions = length + 2 + v.pad + 1
    return unimo.Config.base(bos_token_id=v.first, eos_token_id=v.last, **_joint(s, album, v, positions))


def mixture(tasks: Tasks, view: Callable[..., Any], least: Mapping[str, int] | None = None) -> Callable[..., Any]:
    """An objective of captions: ``parts``, the arguments of each task.

    Args:
        view: The family's.
        least: Captions of each micro-batch that a task needs, where one is not enough.
    """
    needed = [(least or {}).get(name, 1) for name in tasks]

    def of(album: Album, vocabulary: Vocabulary, config: JointConfig, length: int) -> Any:
        _check_widths(album, config)
        v, tokenizer = vocabulary, vocabulary.tokenizer
        ids = Ids(first=v.first, last=v.last, padding=v.pad, mask=v.mask, words=v.size)
        pairs = Pairs(
            album.captions, album.regions, lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            view, ids, longest=length,
        )  # fmt: skip

        def objective(picked: Picked, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
            captions = [album.captions[number] for number in picked.numbers.tolist()]
            counts = shared_out(len(captions), [share for share, _ in tasks.values()], needed, generator)
            parts, start = {}, 0
            for (name, (_, task)), count in zip(tasks.items(), counts, strict=True):
                parts[name] = task(pairs, captions[start : start + count], generator)
                start += count
            return {"parts": parts}

        return objective

    return of


def _check_widths(album: Album, config: JointConfig) -> None:
    first = album.regions[album.names[0]]
    assert first.probabilities is not None
    for name, of in (("image_embedding_size", first.features), ("image_class_size", first.probabilities)):
        if getattr(config, name) != of.shape[1]:
            raise ValueError(f"model: {name} {of.shape[1]} (the folder's) is allowed, got {getattr(config, name)}")


def shared_out(count: int, shares: Sequence[float], least: Sequence[int], generator: torch.Generator) -> list[int]:
    """``count`` in proportion to ``shares``, once each has its ``least``; what cannot be shared evenly is drawn.

    Example:
        >>> shared_out(8, [2.0, 1.0], [1, 1], torch.Generator())
        [5, 3]
    """
    free = count - sum(least)
    if free < 0:
        raise ValueError(f"micro: at least {sum(least)} (some for each task) is allowed, got {count}")
    wanted = torch.tensor(shares, dtype=torch.float64) * free / sum(shares)
    whole = wanted.floor()
    left = free - int(whole.sum())
    if left:
        whole[torch.multinomial((wanted - whole).clamp(min=1e-9), left, generator=generator)] += 1
    return [own + int(more) for own, more in zip(least, whole, strict=True)]


@dataclass
class Mixed:
    """``loss``, and those of which it consists."""

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class InTasks(nn.Module):
    """One model, called for each task; the loss is the tasks' mean by their parts of the mixture.

    Args:
        told: From the model, the name of a task and its arguments to its loss and what that consists of.
    """

    def __init__(self, model: Model, tasks: Tasks, told: Callable[..., tuple[Tensor, dict[str, Tensor]]]) -> None:
        super().__init__()
        self.model, self.told = model, told
        every = sum(share for share, _ in tasks.values())
        self.shares = {name: share / every for name, (share, _) in tasks.items()}

    def forward(self, parts: Mapping[str, Mapping[str, Any]]) -> Mixed:
        losses, found = [], {}
        for name, arguments in parts.items():
            loss, of_task = self.told(self.model, name, arguments)
            losses.append(self.shares[name] * loss)
            found.update(of_task)
        return Mixed(torch.stack(losses).sum(), found)


def of_tasks(out: Mixed, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return out.parts


def _uniter(model: Model, name: str, arguments: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Matching has the alignment of words and regions beside it."""
    out = model(**arguments)
    if name != "matching":
        return out.loss, {name: out.loss}
    matching = F.cross_entropy(out.matching_logits.float(), arguments["matching_labels"])
    return out.loss, {"matching": matching, "alignment": out.loss - matching}


def _unimo(model: Model, name: str, arguments: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden spans are "words" here."""
    loss = unimo.contrast(model, ContrastBatch(**arguments)) if name == "contrast" else model(**arguments).loss
    return loss, {"words" if name == "spans" else name: loss}


def in_tasks(architecture: str, tasks: Tasks, told: Callable[..., Any]) -> Callable[[JointConfig], InTasks]:
    return lambda config: InTasks(build(architecture, config), tasks, told)


uniter_learner = in_tasks("UniterForPretraining", UNITER_TASKS, _uniter)
unimo_learner = in_tasks("UNIMOForPreTraining", UNIMO_TASKS, _unimo)
uniter_objective = mixture(UNITER_TASKS, uniter.view)
unimo_objective = mixture(UNIMO_TASKS, unimo.view, {"contrast": 2})  # one anchor alone has nothing against it
