"""Batches of captioned pictures, one task a batch: words or regions are hidden, never both, or a picture
is exchanged (Chen et al. 2019, arXiv:1909.11740, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..regions import Caption, Image, RegionBatch, View, collate
from .masking import choose_tokens, corrupt
from .packing import padded
from .regions import at_least_one, best_classes, choose_regions

Arguments = dict[str, Tensor]
"""What a model is called with."""
Draw = torch.Generator | None


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


@dataclass(frozen=True)
class Pairs:
    """Captioned pictures, and how a model sees them.

    Args:
        captions, images: Those of a folder (``parts.regions``).
        encode: From a text to ids without special ones.
        view: From a picture to features and locations: ``view`` of the family.
        longest: The most tokens of a text, [CLS] and [SEP] among them; longer ones are cut.
    """

    captions: Sequence[Caption]
    images: Mapping[str, Image]
    encode: Callable[[str], Sequence[int]]
    view: View
    vocabulary: Vocabulary
    longest: int = 60

    def __post_init__(self) -> None:
        if self.longest < 3:
            raise ValueError(f"longest: at least 3 is allowed, got {self.longest}")

    def tokens(self, text: str) -> list[int]:
        """Ids without special ones, cut."""
        tokens = list(self.encode(text))[: self.longest - 2]
        if not tokens:
            raise ValueError(f"encode: at least one token of a text is allowed, got none for {text!r}")
        return tokens

    def texts(self, texts: Sequence[str]) -> Arguments:
        """``[CLS] text [SEP]`` of each."""
        v = self.vocabulary
        ids, lengths = padded([[v.first, *self.tokens(text), v.last] for text in texts], v.padding)
        return {"input_ids": ids, "lengths": lengths}

    def pictures(self, names: Sequence[str]) -> RegionBatch:
        return collate([self.images[name] for name in names], self.view)

    def both(self, captions: Sequence[Caption]) -> tuple[Arguments, RegionBatch]:
        """Arguments for texts with their pictures, and the pictures."""
        batch = self.pictures([caption.image for caption in captions])
        return {**self.texts([caption.caption for caption in captions]), **seen(batch)}, batch


Task = Callable[[Pairs, Sequence[Caption], Draw], Arguments]
"""From pairs and some captions to what the pre-training model is called with."""


def seen(batch: RegionBatch) -> Arguments:
    """A model's arguments for pictures."""
    return {"regions": batch.regions, "locations": batch.locations, "region_lengths": batch.lengths}


def batches(
    pairs: Pairs, tasks: Mapping[str, tuple[float, Task]], rows: int, generator: Draw = None
) -> Iterator[tuple[str, Arguments]]:
    """One pass over the captions in random order, in batches of ``rows`` (a last one with fewer is left
    out): the name of the batch's task, and what the pre-training model is called with.

    Args:
        tasks: Name -> how often it is drawn, in proportion, and the task: :data:`UNITER` or others.

    Raises:
        ValueError: Naming the argument.
    """
    if not 1 <= rows <= len(pairs.captions):
        raise ValueError(f"rows: 1 to {len(pairs.captions)} (the captions) is allowed, got {rows}")
    shares = torch.tensor([share for share, _ in tasks.values()], dtype=torch.float64)
    if not len(shares) or bool((shares < 0).any()) or not bool(shares.any()):
        raise ValueError(f"tasks: shares of at least 0, not all 0, are allowed, got {shares.tolist()}")
    names, order = list(tasks), torch.randperm(len(pairs.captions), generator=generator).tolist()
    for start in range(0, len(order) - rows + 1, rows):
        name = names[int(torch.multinomial(shares, 1, generator=generator))]
        drawn = [pairs.captions[i] for i in order[start : start + rows]]
        yield name, tasks[name][1](pairs, drawn, generator)


def matching(pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, exchanged: float = 0.5) -> Arguments:
    """Image-text matching: a share of the rows gets another picture."""
    names, labels = exchange([caption.image for caption in captions], list(pairs.images), exchanged, generator)
    texts = pairs.texts([caption.caption for caption in captions])
    return {**texts, **seen(pairs.pictures(names)), "matching_labels": labels}


def exchange(
    names: Sequence[str], others: Sequence[str], share: float, generator: Draw = None
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


def hidden_words(pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, rate: float = 0.15) -> Arguments:
    """Masked LM beside a whole picture, at least one word of each text hidden."""
    given, _ = pairs.both(captions)
    special = special_places(given)
    chosen = at_least_one(choose_tokens(special, rate=rate, generator=generator), special, generator)
    return {**given, **cloze(given, chosen, pairs.vocabulary, generator)}


def special_places(given: Arguments) -> Tensor:
    """``(B, T)`` booleans: [CLS], [SEP] and padding."""
    place = torch.arange(given["input_ids"].shape[1])
    return (place == 0) | (place >= given["lengths"][:, None] - 1)


def cloze(given: Arguments, chosen: Tensor, v: Vocabulary, generator: Draw = None) -> Arguments:
    """``input_ids`` and ``labels``, the chosen hidden as BERT hides them."""
    ids, labels = corrupt(given["input_ids"], chosen, mask_id=v.mask, words=v.words, generator=generator)
    return {"input_ids": ids, "labels": labels}


def hidden_features(
    pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, rate: float = 0.15
) -> Arguments:
    """Features of hidden regions beside a whole text."""
    given, batch = pairs.both(captions)
    return {**given, "masked_regions": _hidden(batch, rate, generator), "feature_targets": batch.regions}


def hidden_classes(
    pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, rate: float = 0.15
) -> Arguments:
    """The detector's best class of hidden regions."""
    given, batch = pairs.both(captions)
    masked = _hidden(batch, rate, generator)
    return {**given, "masked_regions": masked, "class_labels": best_classes(known_classes(batch), masked)}


def hidden_probabilities(
    pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, rate: float = 0.15
) -> Arguments:
    """The detector's probabilities of hidden regions."""
    given, batch = pairs.both(captions)
    return {**given, "masked_regions": _hidden(batch, rate, generator), "class_probabilities": known_classes(batch)}


def _hidden(batch: RegionBatch, rate: float, generator: Draw) -> Tensor:
    return choose_regions(batch.lengths, batch.regions.shape[1], rate=rate, first=batch.whole, generator=generator)


def known_classes(batch: RegionBatch) -> Tensor:
    if batch.probabilities is None:
        raise ValueError("images: pictures with probabilities are needed to tell classes")
    return batch.probabilities


UNITER: dict[str, tuple[float, Task]] = {
    "matching": (2.0, matching),
    "words": (2.0, hidden_words),
    "features": (1.0, hidden_features),
    "probabilities": (1.0, hidden_probabilities),
}
"""The tasks of UNITER's best model and how often each is drawn (the authors' configuration; of the three
for regions :func:`hidden_classes` is not among them). Another rate: ``functools.partial``."""
