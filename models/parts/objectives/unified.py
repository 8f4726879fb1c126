"""UNIMO's tasks on captioned pictures: hidden regions, hidden spans, fragments to write (Li et al. 2020,
arXiv:2012.15409, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..regions import Caption
from .fragments import SPANS, fragment_batch
from .image_text import Arguments, Draw, Pairs, Task, cloze, known_classes, seen, special_places
from .regions import at_least_one, choose_regions, spread_overlapping
from .spans import choose_ngrams


def regions(
    pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, rate: float = 0.15, overlap: float = 0.4
) -> Arguments:
    """Section 2.2, visual learning: hidden regions, with those that overlap them; their features and
    the detector's probabilities are to be told."""
    given, batch = pairs.both(captions)
    masked = choose_regions(batch.lengths, batch.regions.shape[1], rate=rate, first=batch.whole, generator=generator)
    masked = spread_overlapping(masked, batch.boxes, batch.lengths, overlap=overlap)
    targets = {"feature_targets": batch.regions, "class_probabilities": known_classes(batch)}
    return {**given, "masked_regions": masked, **targets}


def spans(pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, rate: float = 0.15) -> Arguments:
    """Section 2.2, bidirectional prediction: hidden spans of tokens, at least one token of each text."""
    given, _ = pairs.both(captions)
    special = special_places(given)
    words = torch.arange(special.shape[1]).where(~special, -1)
    chosen = at_least_one(choose_ngrams(words, lengths=SPANS, rate=rate, generator=generator), special, generator)
    return {**given, **cloze(given, chosen, pairs.vocabulary, generator)}


def written(pairs: Pairs, captions: Sequence[Caption], generator: Draw = None, *, share: float = 0.25) -> Arguments:
    """Section 2.2, sequence-to-sequence generation: fragments of a text, written to the picture and the
    rest of it. Texts of at least two tokens are allowed."""
    v = pairs.vocabulary
    batch = fragment_batch(
        [pairs.tokens(caption.caption) for caption in captions],
        first=v.first, last=v.last, padding=v.padding, share=share, generator=generator,
    )  # fmt: skip
    picture = seen(pairs.pictures([caption.image for caption in captions]))
    text = {"input_ids": batch.input_ids, "lengths": batch.lengths, "source_lengths": batch.source_lengths}
    return {**text, **picture, "labels": batch.labels}


UNIMO: dict[str, tuple[float, Task]] = {"regions": (1.0, regions), "spans": (0.5, spans), "written": (0.5, written)}
"""The tasks on pairs; of texts half are for spans and half to be written (section 2.2). Contrast comes
beside these (:func:`contrast_batch`)."""
