"""Batches of captioned pictures, one task a batch: words or regions are hidden, never both, or a picture
is exchanged (Chen et al. 2019, arXiv:1909.11740, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..regions import Caption, Image, RegionBatch, collate
from .masking import BERT, choose_tokens, corrupt
from .packing import padded
from .regions import at_least_one, best_classes, choose_regions

UNITER = {"matching": 2.0, "words": 2.0, "features": 1.0, "divergence": 1.0}
"""How often each task is drawn, in proportion (the authors' configuration; "classes" is the one of
section 3.2's tasks that its best model leaves out)."""


@dataclass(frozen=True)
class Vocabulary:
    """
    Args:
        first, last, padding, mask: Ids of [CLS], [SEP], padding and [MASK].
        words: Its size.
    """

    first: int
    last: int
    padding: int
    mask: int
    words: int


@dataclass
class TaskBatch:
    """
    Args:
        task: Its name.
        arguments: What the pre-training model is called with.
    """

    task: str
    arguments: dict[str, Tensor]


def uniter_batches(
    captions: Sequence[Caption],
    images: Mapping[str, Image],
    *,
    rows: int,
    encode: Callable[[str], Sequence[int]],
    locate: Callable[[Image], Tensor],
    vocabulary: Vocabulary,
    tasks: Mapping[str, float] = UNITER,
    longest: int = 60,
    rate: float = 0.15,
    exchanged: float = 0.5,
    generator: torch.Generator | None = None,
) -> Iterator[TaskBatch]:
    """One pass over the captions in random order, in batches of ``rows`` (a last one with fewer is left
    out), each with a task of its own.

    - "words": 15 % of the words, at least one, as BERT hides them.
    - "features", "classes", "divergence": 15 % of the regions, at least one, are hidden: to be
      found are their features, the detector's best class, or its probabilities.
    - "matching": of half the rows the picture is another one.

    Args:
        encode: From a text to ids without special ones.
        locate: From a picture to its locations ``(n, L)``.
        tasks: Name -> how often, in proportion.
        longest: The most tokens of a text, [CLS] and [SEP] among them; longer ones are cut.
        rate, exchanged: Shares of words or regions, and of pictures.

    Raises:
        ValueError: Naming the argument.
    """
    known = {*UNITER, "classes"}
    if not tasks or set(tasks) - known or min(tasks.values()) < 0 or sum(tasks.values()) <= 0:
        raise ValueError(f"tasks: shares, not all 0, of {', '.join(sorted(known))} are allowed, got {dict(tasks)}")
    if not 1 <= rows <= len(captions):
        raise ValueError(f"rows: 1 to {len(captions)} (the captions) is allowed, got {rows}")
    if longest < 3:
        raise ValueError(f"longest: at least 3 is allowed, got {longest}")
    names, shares = list(tasks), torch.tensor(list(tasks.values()), dtype=torch.float64)
    order = torch.randperm(len(captions), generator=generator).tolist()
    for start in range(0, len(order) - rows + 1, rows):
        task = names[int(torch.multinomial(shares, 1, generator=generator))]
        drawn = [captions[i] for i in order[start : start + rows]]
        texts = [_row(encode(caption.caption), vocabulary, longest, caption) for caption in drawn]
        pictures, matched = [caption.image for caption in drawn], None
        if task == "matching":
            pictures, matched = exchange(pictures, list(images), exchanged, generator)
        batch = collate([images[name] for name in pictures], locate)
        given = text_arguments(texts, vocabulary.padding) | region_arguments(batch)
        if matched is not None:
            yield TaskBatch(task, given | {"matching_labels": matched})
        elif task == "words":
            yield TaskBatch(task, given | hide_words(given, vocabulary, rate, generator))
        else:
            masked = choose_regions(batch.lengths, batch.regions.shape[1], rate=rate, generator=generator)
            yield TaskBatch(task, given | {"masked_regions": masked} | _targets(task, batch, masked))


def exchange(
    names: Sequence[str], others: Sequence[str], share: float, generator: torch.Generator | None = None
) -> tuple[list[str], Tensor]:
    """Pictures, a ``share`` of them exchanged for another one, and labels: 1 where none was.

    Example:
        >>> exchange(["a", "b"], ["a", "b"], 1.0)
        (['b', 'a'], tensor([0, 0]))
    """
    if share > 0 and len(set(others)) < 2:
        raise ValueError("images: at least two are needed to exchange one")
    out, labels = [], []
    for name in names:
        swap = float(torch.rand((), generator=generator)) < share
        other = name
        while swap and other == name:
            other = others[int(torch.randint(len(others), (), generator=generator))]
        out.append(other)
        labels.append(0 if swap else 1)
    return out, torch.tensor(labels)


def text_arguments(texts: Sequence[Sequence[int]], padding: int) -> dict[str, Tensor]:
    """A model's arguments for texts, ids with special ones."""
    ids, lengths = padded(texts, padding)
    return {"input_ids": ids, "lengths": lengths}


def region_arguments(batch: RegionBatch) -> dict[str, Tensor]:
    """A model's arguments for pictures."""
    return {"regions": batch.regions, "locations": batch.locations, "region_lengths": batch.lengths}


def hide_words(
    given: Mapping[str, Tensor], vocabulary: Vocabulary, rate: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """``input_ids`` and ``labels`` of the cloze, at least one word of each text hidden."""
    ids, lengths = given["input_ids"], given["lengths"]
    place = torch.arange(ids.shape[1])
    special = (place == 0) | (place >= lengths[:, None] - 1)
    chosen = at_least_one(choose_tokens(special, rate=rate, generator=generator), special, generator)
    masked, labels = corrupt(
        ids, chosen, mask_id=vocabulary.mask, words=vocabulary.words, shares=BERT, generator=generator
    )
    return {"input_ids": masked, "labels": labels}


def _row(tokens: Sequence[int], vocabulary: Vocabulary, longest: int, caption: Caption) -> list[int]:
    if not len(tokens):
        raise ValueError(f"encode: at least one token of a text is allowed, got none for {caption.caption!r}")
    return [vocabulary.first, *list(tokens)[: longest - 2], vocabulary.last]


def _targets(task: str, batch: RegionBatch, masked: Tensor) -> dict[str, Tensor]:
    if task == "features":
        return {"feature_targets": batch.regions}
    if batch.probabilities is None:
        raise ValueError(f"tasks: {task} needs pictures with probabilities")
    if task == "classes":
        return {"class_labels": best_classes(batch.probabilities, masked)}
    return {"class_probabilities": batch.probabilities}
