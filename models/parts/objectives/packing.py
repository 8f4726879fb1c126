"""From texts of any length to rows of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

Sentence = Sequence[int]
"""Token ids, none of them special."""
Document = Sequence[Sentence]


def cut(tokens: Sequence[int] | Tensor, length: int, *, first: int, last: int) -> Tensor:
    """A long text as rows ``[first, length - 2 of its tokens, last]``, no row padded
    (FULL-SENTENCES of Liu et al. 2019, arXiv:1907.11692, section 4.2, within one text).

    Args:
        tokens: Ids without special ones; those that fill no row are left out.
        first, last: Ids of the special tokens ([CLS] and [SEP]).

    Returns:
        ``(n, length)``, int64.

    Example:
        >>> cut(range(10, 15), 4, first=0, last=2)
        tensor([[ 0, 10, 11,  2],
                [ 0, 12, 13,  2]])
    """
    inner = length - 2
    if inner < 1 or len(tokens) < inner:
        raise ValueError(f"length: from 3 to {len(tokens) + 2} (the tokens and two) is allowed, got {length}")
    count = len(tokens) // inner
    rows = torch.as_tensor(tokens[: count * inner], dtype=torch.int64).reshape(count, inner)
    return torch.cat([rows.new_full((count, 1), first), rows, rows.new_full((count, 1), last)], dim=1)


def full_sentences(
    documents: Iterable[Document], length: int, *, first: int, last: int, separator: int | None = None
) -> Iterator[list[int]]:
    """Rows ``[first, as many whole sentences as fit, last]``, over the ends of documents, with a
    separator between two of them (FULL-SENTENCES of Liu et al. 2019, arXiv:1907.11692,
    section 4.2). Of one document at a time, this is their DOC-SENTENCES.

    Args:
        length: The most tokens of a row. A sentence that is longer than a row is cut into rows.
        first, last, separator: Ids of the special tokens (``<s>`` and ``</s>``); the separator
            is ``last`` if not given.

    Yields:
        Rows of different lengths (see :func:`padded`).

    Example:
        >>> list(full_sentences([[[5, 6], [7]], [[8]]], 6, first=0, last=2))
        [[0, 5, 6, 7, 2], [0, 8, 2]]
        >>> list(full_sentences([[[5, 6], [7]], [[8]]], 7, first=0, last=2))
        [[0, 5, 6, 7, 2, 8, 2]]
    """
    if length < 3:
        raise ValueError(f"length: at least 3 is allowed, got {length}")
    for pieces in whole_sentences(documents, length - 2, between=[last if separator is None else separator]):
        yield [first, *chain.from_iterable(pieces), last]


def whole_sentences(documents: Iterable[Document], length: int, *, between: Sentence = ()) -> Iterator[list[list[int]]]:
    """The same rows as lists of their sentences, without special tokens.

    Args:
        length: The most tokens of a row.
        between: Tokens between two documents, at the front of the sentence behind them.

    Example:
        >>> list(whole_sentences([[[5, 6], [7]], [[8]]], 3))
        [[[5, 6], [7]], [[8]]]
    """
    if length < 1:
        raise ValueError(f"length: at least 1 without special tokens is allowed, got {length}")
    row: list[list[int]] = []
    for document in documents:
        joint = between
        for sentence in document:
            for start in range(0, len(sentence), length):
                piece = list(sentence[start : start + length])
                if row and sum(map(len, row)) + len(joint) + len(piece) > length:
                    yield row
                    row = []
                row.append([*joint, *piece] if row else piece)
                joint = ()
    if row:
        yield row


def padded(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Rows as a batch: ``(B, longest)`` padded on the right, and ``lengths (B,)``; both int64.

    Example:
        >>> padded([[5, 6], [7]], padding=1)
        (tensor([[5, 6],
                [7, 1]]), tensor([2, 1]))
    """
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    longest = max(map(len, rows), default=0)
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], dtype=torch.int64)
    return ids.reshape(len(rows), longest), lengths
