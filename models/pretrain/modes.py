"""UniLM's batches: parts that have a mode each, and what learns from them (Dong et al. 2019,
arXiv:1905.03197, section 2.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..parts.layouts import IGNORED
from ..parts.model import Model
from ..parts.objectives import ModeBatch, Pair, unilm_batches
from .objectives import Objective
from .rows import Rows
from .text import Corpus
from .vocabulary import Vocabulary


def in_modes(corpus: Corpus, vocabulary: Vocabulary) -> Objective:
    """Of rows of consecutive pairs: ``parts``, the arguments of each mode's call. In the bidirectional mode half
    of the second segments are others of the text."""

    def objective(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        ids: dict[str, Any] = {"first": vocabulary.first, "last": vocabulary.last, "padding": vocabulary.pad}
        words = {"mask_id": vocabulary.mask, "words": vocabulary.size}
        while True:
            pairs = iter(_pairs(rows))
            [parts] = unilm_batches(
                len(rows), _related(pairs, corpus, generator), pairs, **ids, **words, generator=generator
            )
            if any(bool((part.labels != IGNORED).any()) for part in parts):  # else there is no loss: drawn again
                return {"parts": [_arguments(part) for part in parts]}

    return objective


def _pairs(rows: Rows) -> list[Pair]:
    found = []
    for ids, types, length in zip(rows.ids.tolist(), rows.types, rows.lengths.tolist(), strict=True):
        second = int(types.argmax())
        found.append(Pair(ids[1 : second - 1], ids[second : length - 1], 0))
    return found


def _related(pairs: Iterable[Pair], corpus: Corpus, generator: torch.Generator) -> Iterator[Pair]:
    """Half of the pairs with another second segment: whole sentences of one document, as many as are no longer
    than the first one was, or the beginning of one that is."""
    for pair in pairs:
        if bool(torch.rand((), generator=generator) < 0.5):
            yield pair
            continue
        number = int(torch.randint(len(corpus.sentences) - 1, (), generator=generator))
        start, room = int(corpus.sentences[number]), len(pair.second)
        document = int(torch.searchsorted(corpus.documents, number, right=True))
        ends = corpus.sentences[number + 1 : int(corpus.documents[document]) + 1]
        fitting = ends[ends <= start + room]
        end = int(fitting[-1]) if len(fitting) else start + room
        second = corpus.tokens[start:end].tolist()
        yield Pair(pair.first, second, int(second != pair.second))


def _arguments(part: ModeBatch) -> dict[str, Any]:
    names = ("input_ids", "token_type_ids", "labels", "lengths", "pattern", "next_sentence_label")
    return {name: getattr(part, name) for name in names}


@dataclass
class OfModes:
    """``loss`` is the sum of the other two."""

    loss: Tensor
    words: Tensor
    relation: Tensor


class InModes(nn.Module):
    """One model, called once for each part of a batch.

    The losses are means over all words that are to be predicted, in whatever mode, so that modes weigh as
    much as they have words; and over all pairs whose relation is. Where there are none (the
    parts of a small batch may lack the mode) it is 0, and so is its gradient, for which
    processes would wait.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, parts: list[Mapping[str, Any]]) -> OfModes:
        logits, words, pairs, relations = [], [], [], []
        for part in parts:
            arguments = dict(part)
            labels, relation = arguments.pop("labels"), arguments.pop("next_sentence_label")
            out = self.model(**arguments)
            chosen = labels != IGNORED
            logits.append(out.prediction_logits[chosen])
            words.append(labels[chosen])
            pairs.append(out.seq_relationship_logits)
            relations.append(labels.new_full(labels.shape[:1], IGNORED) if relation is None else relation)
        told = F.cross_entropy(torch.cat(logits), torch.cat(words))
        known = torch.cat(relations)
        total = F.cross_entropy(torch.cat(pairs), known, reduction="sum")
        related = total / (known != IGNORED).sum().clamp(min=1)
        return OfModes(told + related, told, related)
