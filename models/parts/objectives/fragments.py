"""Spans to fill in and fragments to write (Li et al. 2020, arXiv:2012.15409, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..layouts import IGNORED
from .masking import check_rate
from .packing import padded

SPANS = tuple(0.2 * 0.8**n / (1 - 0.8**10) for n in range(10))
"""Lengths of spans in words: geometric with p = 0.2, at most 10 (section 2.2, as SpanBERT's: Joshi et al.
2019, arXiv:1907.10529), for :func:`choose_ngrams`."""


@dataclass
class FragmentBatch:
    """Sources with their targets behind them.

    Args:
        input_ids, labels: ``(B, S)``, padded on the right. A label stands at the word before the one that
            it names: what a word is to predict, -100 where it is nothing.
        lengths, source_lengths: ``(B,)``.
    """

    input_ids: Tensor
    labels: Tensor
    lengths: Tensor
    source_lengths: Tensor


def fragments(
    tokens: Sequence[int],
    *,
    share: float = 0.25,
    lengths: tuple[int, int] = (4, 32),
    generator: torch.Generator | None = None,
) -> tuple[list[int], list[list[int]]]:
    """A text apart: what stays, and fragments of it to be written.

    Lengths are drawn from all of ``lengths`` alike until ``share`` of the text is spent; the last is cut to
    what is left of that. Places are drawn so that fragments do not overlap.

    Args:
        tokens: Ids without special ones, at least two.
        share: Of the tokens, to be written; at least one is, and at least one stays.
        lengths: The shortest and the longest.

    Returns:
        ``(tokens that stay, fragments)``, each in the order of the text.

    Example:
        >>> source, targets = fragments(range(100))
        >>> len(source), sorted([*source, *sum(targets, [])]) == list(range(100))
        (75, True)
    """
    check_rate(share)
    shortest, longest = lengths
    if not 1 <= shortest <= longest:
        raise ValueError(f"lengths: the shortest, at least 1, and the longest are allowed, got {lengths}")
    if len(tokens) < 2:
        raise ValueError(f"tokens: at least 2 are allowed, got {len(tokens)}")
    budget = min(max(int(share * len(tokens)), 1), len(tokens) - 1)
    sizes: list[int] = []
    while sum(sizes) < budget:
        drawn = int(torch.randint(shortest, longest + 1, (), generator=generator))
        sizes.append(min(drawn, budget - sum(sizes)))
    return _apart(tokens, sizes, generator)


def _apart(
    tokens: Sequence[int], sizes: list[int], generator: torch.Generator | None
) -> tuple[list[int], list[list[int]]]:
    """Fragments and the tokens around them, in random order, are the text."""
    single = len(tokens) - sum(sizes)
    order = torch.randperm(len(sizes) + single, generator=generator).tolist()
    source: list[int] = []
    targets: list[list[int]] = []
    place = 0
    for item in order:
        size = sizes[item] if item < len(sizes) else 1
        piece = list(tokens[place : place + size])
        place += size
        if item < len(sizes):
            targets.append(piece)
        else:
            source += piece
    return source, targets


def fragment_batch(
    texts: Sequence[Sequence[int]],
    *,
    first: int,
    last: int,
    padding: int,
    share: float = 0.25,
    lengths: tuple[int, int] = (4, 32),
    generator: torch.Generator | None = None,
) -> FragmentBatch:
    """Generation of fragments: ``[first, source, last]`` and behind it each fragment between ``first`` and
    ``last``, one after the other. Every word of the target but its first is predicted, by the one before it.

    Args:
        texts: Ids without special ones.
        first, last, padding: Ids of [CLS], [SEP] and padding.
        share, lengths: As :func:`fragments` takes them.

    Example:
        >>> batch = fragment_batch([[5, 6, 7, 8]], first=1, last=2, padding=0, share=0.5)
        >>> batch.lengths.tolist(), batch.source_lengths.tolist(), (batch.labels >= 0).sum().item()
        ([8], [4], 3)
    """
    rows, sources = [], []
    for text in texts:
        source, targets = fragments(text, share=share, lengths=lengths, generator=generator)
        row = [first, *source, last]
        sources.append(len(row))
        rows.append(row + [token for target in targets for token in (first, *target, last)])
    ids, sizes = padded(rows, padding)
    begin = torch.tensor(sources)
    place = torch.arange(ids.shape[1])
    written = (place >= begin[:, None]) & (place < sizes[:, None] - 1)
    following = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=IGNORED)
    return FragmentBatch(ids, following.where(written, IGNORED), sizes, begin)
