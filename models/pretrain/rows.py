"""From documents to rows, and from rows to the batch of each step."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Protocol

import torch
from torch import Tensor

from ..parts.objectives import Pair, full_sentences, whole_sentences
from ..parts.objectives.packing import Document
from . import draws
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Row:
    """Ids, special ones among them; where each segment behind the first begins; and the relation of two
    segments, -1 for none."""

    ids: list[int]
    starts: list[int]
    relation: int = -1


Make = Callable[[Sequence[Document], Vocabulary, int, torch.Generator], Iterator[Row]]
"""From documents, a vocabulary, the most tokens of a row and a generator to an epoch's rows."""


def sentences(
    documents: Sequence[Document], vocabulary: Vocabulary, length: int, generator: torch.Generator
) -> Iterator[Row]:
    """As many whole sentences as fit (RoBERTa: Liu et al. 2019, arXiv:1907.11692, section 4.2)."""
    for ids in full_sentences(documents, length, first=vocabulary.first, last=vocabulary.last):
        yield Row(ids, [])


def passages(
    documents: Sequence[Document], vocabulary: Vocabulary, length: int, generator: torch.Generator
) -> Iterator[Row]:
    """As many whole sentences of one document as fit, each a segment."""
    for document in documents:
        for pieces in whole_sentences([document], length - 2):
            starts = list(accumulate(map(len, pieces), initial=1))
            yield Row([vocabulary.first, *chain.from_iterable(pieces), vocabulary.last], starts[1:-1])


def stream(
    documents: Sequence[Document], vocabulary: Vocabulary, length: int, generator: torch.Generator
) -> Iterator[Row]:
    """The text without gaps, each document ended by the last token; of causal models. Rows begin at
    another place in each epoch."""
    return _cut([[*document, [vocabulary.last]] for document in documents], length, generator)


def unbroken(
    documents: Sequence[Document], vocabulary: Vocabulary, length: int, generator: torch.Generator
) -> Iterator[Row]:
    """The same without a special token."""
    return _cut(documents, length, generator)


def _cut(documents: Sequence[Document], length: int, generator: torch.Generator) -> Iterator[Row]:
    ids = [i for document in documents for sentence in document for i in sentence]
    start = _draw(min(length, max(1, len(ids) - length + 1)), generator)
    for place in range(start, len(ids) - length + 1, length):
        yield Row(ids[place : place + length], [])


def pairs(related: Callable[..., Iterator[Pair]]) -> Make:
    """Two segments and how they relate; ``related`` is one of ``objectives.pairs``."""

    def make(
        documents: Sequence[Document], vocabulary: Vocabulary, length: int, generator: torch.Generator
    ) -> Iterator[Row]:
        for pair in related(documents, length, generator=generator):
            ids, types = pair.row(first=vocabulary.first, last=vocabulary.last)
            yield Row(ids, [types.index(1)], pair.label)

    return make


def reused(
    documents: Sequence[Document], vocabulary: Vocabulary, length: int, generator: torch.Generator
) -> Iterator[Row]:
    """XLNet's (zihangdai/xlnet, ``data_utils.py``): half a row of text, each where the one before left off; then
    two segments with [SEP] after each, and [CLS]. The first goes on with the text, up to the end of a
    sentence if there is one; the second does so too (relation 0), or in half of the rows begins at another
    sentence (1). What stands behind a row's first half comes again in the next one's."""
    sentences = [sentence for document in documents for sentence in document]
    ids, starts = list(chain.from_iterable(sentences)), list(accumulate(map(len, sentences), initial=0))
    half = length // 2
    room = length - half - 3
    begins = bisect_right(starts, len(ids) - room)  # so many sentences have a row's second segment behind them
    for place in range(_draw(half, generator), len(ids) - half - room + 1, half):
        first, end = place + half, place + half + room
        cuts = starts[bisect_right(starts, first) : bisect_left(starts, end)]
        cut = cuts[_draw(len(cuts), generator)] if cuts else first + room // 2
        other = _draw(2, generator)
        second = starts[_draw(begins, generator)] if other else cut
        row = [*ids[place:cut], vocabulary.last, *ids[second : second + end - cut], vocabulary.last, vocabulary.first]
        yield Row(row, [cut - place + 1, length - 1], other)


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


@dataclass(frozen=True)
class Rows:
    """Rows as a batch, ``(B, S)`` padded on the right; S is the same of all batches.

    Args:
        ids, types: ``(B, S)``: tokens, and the numbers of their segments, 0 for padding.
        lengths, relation: ``(B,)``.
        epoch, number: ``(B,)``: where a row comes from.
    """

    ids: Tensor
    types: Tensor
    lengths: Tensor
    relation: Tensor
    epoch: Tensor
    number: Tensor

    def __getitem__(self, part: slice) -> Rows:
        return Rows(*(getattr(self, name)[part] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.ids)


class Epoch:
    """All rows of one pass over the text, one after the other in memory."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.ids, self.ends = array("i"), array("q", [0])
        self.starts, self.bounds, self.relation = array("i"), array("q", [0]), array("i")
        for row in rows:
            self.ids.extend(row.ids)
            self.ends.append(len(self.ids))
            self.starts.extend(row.starts)
            self.bounds.append(len(self.starts))
            self.relation.append(row.relation)

    def __len__(self) -> int:
        return len(self.relation)

    def __getitem__(self, number: int) -> Row:
        ids = self.ids[self.ends[number] : self.ends[number + 1]].tolist()
        starts = self.starts[self.bounds[number] : self.bounds[number + 1]].tolist()
        return Row(ids, starts, self.relation[number])


Order = Callable[[int, int, torch.Generator], list[int]]
"""From the number of an epoch's rows, that of a batch's and a generator to the order in which rows come."""


def shuffled(count: int, batch: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=generator).tolist()


class Examples(Protocol):
    """An endless sequence of batches. After :meth:`go_to` they are those that came after the same place
    before."""

    epoch: int
    place: int

    def go_to(self, epoch: int, place: int) -> None: ...

    def take(self) -> Any: ...


class Batches:
    """An endless sequence of batches, in an order drawn anew for each epoch.

    It is a function of its arguments: after :meth:`go_to`, the batches are those that came after the
    same place before.

    Args:
        batch: Rows of a batch.
        copies: After so many epochs the rows that were drawn come again (static masking), 0 for never.
    """

    def __init__(
        self, documents: Sequence[Document], make: Make, vocabulary: Vocabulary, order: Order = shuffled,
        *, length: int, batch: int, seed: int, copies: int,
    ) -> None:  # fmt: skip
        self.documents, self.make, self.vocabulary, self.ordered = documents, make, vocabulary, order
        self.length, self.batch, self.seed, self.copies = length, batch, seed, copies
        self.go_to(0, 0)

    def go_to(self, epoch: int, place: int) -> None:
        """The next row is the ``place``-th of an epoch."""
        source = draws.generator(self.seed, "rows", epoch % self.copies if self.copies else epoch)
        self.rows = Epoch(self.make(self.documents, self.vocabulary, self.length, source))
        if not len(self.rows):
            raise ValueError(f"text: enough for one row of {self.length} tokens (length) is allowed, it is shorter")
        self.order = self.ordered(len(self.rows), self.batch, draws.generator(self.seed, "order", epoch))
        if not self.order:
            raise ValueError(
                f"text: enough for {self.batch} rows (batch) of {self.length} tokens (length) is allowed, it is shorter"
            )
        self.epoch, self.place = epoch, place

    def take(self) -> Rows:
        """The next batch; over the end of an epoch if need be."""
        taken, epochs, numbers = [], [], []
        for _ in range(self.batch):
            if self.place == len(self.order):
                self.go_to(self.epoch + 1, 0)
            number = self.order[self.place]
            self.place += 1
            taken.append(self.rows[number])
            epochs.append(self.epoch)
            numbers.append(number)
        return self._padded(taken, epochs, numbers)

    def _padded(self, rows: list[Row], epochs: list[int], numbers: list[int]) -> Rows:
        ids = torch.full((len(rows), self.length), self.vocabulary.pad)
        types = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            types[i, row.starts] = 1
        lengths = torch.tensor([len(row.ids) for row in rows])
        types = types.cumsum(1).masked_fill(torch.arange(self.length) >= lengths[:, None], 0)
        relation = torch.tensor([row.relation for row in rows])
        return Rows(ids, types, lengths, relation, torch.tensor(epochs), torch.tensor(numbers))
