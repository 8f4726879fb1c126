"""Pairs of segments and how they relate: next sentence prediction and sentence order prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from .packing import Document


@dataclass(frozen=True)
class Pair:
    """Two segments, and 0 if the second follows the first in the text, else 1."""

    first: list[int]
    second: list[int]
    label: int

    def row(self, *, first: int, last: int) -> tuple[list[int], list[int]]:
        """``[first, A, last, B, last]`` and the segment of each token (Devlin et al. 2019,
        arXiv:1810.04805, figure 2).

        Example:
            >>> Pair([5, 6], [7], 0).row(first=0, last=2)
            ([0, 5, 6, 2, 7, 2], [0, 0, 0, 0, 1, 1])
        """
        types = [0] * (len(self.first) + 2) + [1] * (len(self.second) + 1)
        return [first, *self.first, last, *self.second, last], types


def next_sentence_pairs(
    documents: Sequence[Document], length: int, *, short: float = 0.1, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Pairs of which the second segment is the one that follows, or in half of the cases one of
    another document (Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 2, and appendix A.2).

    Sentences are taken until a row is full and parted at random; what a segment of another
    document drove out begins the next pair. As in the authors' ``create_pretraining_data``, a
    sentence that fills a row, or that stands alone at a document's end, gets a random one.

    Args:
        documents: At least two, of sentences of token ids.
        length: The most tokens of a row, its three special ones included; the longer segment
            loses tokens at random ends until they fit.
        short: Share of the pairs that aim at a random shorter length (the authors' program
            decides once for a document).

    Example:
        >>> pairs = next_sentence_pairs([[[1], [2], [3]], [[8], [9]]], 5, short=0.0)
        >>> {(*pair.first, *pair.second): pair.label for pair in pairs}.get((1, 2), 0)
        0
    """
    documents = _without_empty(documents)
    if len(documents) < 2:
        raise ValueError(f"documents: at least two with text are allowed, got {len(documents)}")
    draw = _Draws(generator)
    for number, document in enumerate(documents):
        start = 0
        while start < len(document):
            target = _target(length, short, draw)
            chunk = _fill(document, start, target, least=1)
            split = 1 if len(chunk) == 1 else draw.integer(1, len(chunk) - 1)
            first, second = _joined(chunk[:split]), _joined(chunk[split:])
            label = int(len(chunk) == 1 or draw.coin(0.5))
            if label:
                other = documents[(number + draw.integer(1, len(documents) - 1)) % len(documents)]
                place = draw.integer(0, len(other) - 1)
                second = _joined(_fill(other, place, target - len(first), least=1))
            yield Pair(*_trimmed(first, second, length - 3, draw), label)
            start += split if label else len(chunk)


def sentence_order_pairs(
    documents: Sequence[Document], length: int, *, short: float = 0.1, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Pairs of consecutive segments, in half of the cases swapped (Lan et al. 2020,
    arXiv:1909.11942, section 3.1; MacBERT: Cui et al. 2020, arXiv:2004.13922, section 3.1).

    Arguments as for :func:`next_sentence_pairs`; one document is enough. A sentence that is left
    alone at a document's end is left out, for it has no order.

    Example:
        >>> [pair] = sentence_order_pairs([[[1, 2], [3, 4]]], 9, short=0.0)
        >>> (pair.first, pair.second) == (([3, 4], [1, 2]) if pair.label else ([1, 2], [3, 4]))
        True
    """
    draw = _Draws(generator)
    for pair in consecutive_pairs(documents, length, short=short, generator=generator):
        yield Pair(pair.second, pair.first, 1) if draw.coin(0.5) else pair


def consecutive_pairs(
    documents: Sequence[Document], length: int, *, short: float = 0.1, generator: torch.Generator | None = None
) -> Iterator[Pair]:
    """Pairs of segments that follow one another, all with label 0: source and target of UniLM's
    sequence-to-sequence mode. Arguments as for :func:`sentence_order_pairs`.

    Example:
        >>> list(consecutive_pairs([[[1, 2], [3, 4]]], 9, short=0.0))
        [Pair(first=[1, 2], second=[3, 4], label=0)]
    """
    draw = _Draws(generator)
    for document in _without_empty(documents):
        start = 0
        while len(document) - start >= 2:
            chunk = _fill(document, start, _target(length, short, draw), least=2)
            start += len(chunk)
            split = draw.integer(1, len(chunk) - 1)
            yield Pair(*_trimmed(_joined(chunk[:split]), _joined(chunk[split:]), length - 3, draw), 0)


class _Draws:
    """Single draws of a generator."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator
        self.device = None if generator is None else generator.device

    def coin(self, probability: float) -> bool:
        return bool(torch.rand((), generator=self.generator, device=self.device) < probability)

    def coins(self, probability: float, count: int) -> list[bool]:
        """As many; none of a ``count`` below 1."""
        return (torch.rand(max(0, count), generator=self.generator, device=self.device) < probability).tolist()

    def integer(self, low: int, high: int) -> int:
        """From ``low`` to ``high``, both included."""
        return int(torch.randint(low, high + 1, (), generator=self.generator, device=self.device))


def _without_empty(documents: Sequence[Document]) -> list[Document]:
    kept = ([sentence for sentence in document if len(sentence)] for document in documents)
    return [document for document in kept if document]


def _target(length: int, short: float, draw: _Draws) -> int:
    if length < 5:
        raise ValueError(f"length: at least 5 (two tokens and three special ones) is allowed, got {length}")
    if not 0 <= short <= 1:
        raise ValueError(f"short: in [0, 1] is allowed, got {short}")
    return draw.integer(2, length - 3) if draw.coin(short) else length - 3


def _fill(document: Document, start: int, target: int, *, least: int) -> Document:
    """Sentences from ``start`` on until there are ``target`` tokens, ``least`` sentences at least."""
    tokens, end = 0, start
    while end < len(document) and (tokens < target or end - start < least):
        tokens += len(document[end])
        end += 1
    return document[start:end]


def _joined(sentences: Document) -> list[int]:
    return [token for sentence in sentences for token in sentence]


def _trimmed(first: list[int], second: list[int], room: int, draw: _Draws) -> tuple[list[int], list[int]]:
    """The longer segment loses a token at its front or end until both fit."""
    segments = [first, second]
    bounds = [[0, len(first)], [0, len(second)]]
    for at_front in draw.coins(0.5, len(first) + len(second) - room):
        longer = max((1, 0), key=lambda i: bounds[i][1] - bounds[i][0])
        if at_front:
            bounds[longer][0] += 1
        else:
            bounds[longer][1] -= 1
    trimmed = [segment[low:high] for segment, (low, high) in zip(segments, bounds, strict=True)]
    return trimmed[0], trimmed[1]
