"""MacBERT's corruption: words that look right instead of [MASK], which no text after pre-training
has (Cui et al. 2020, arXiv:2004.13922, section 3.1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..layouts import IGNORED
from .masking import BERT, fates, random_words, same_shape
from .spans import check_words, word_starts

Word = tuple[int, ...]
"""The tokens of a word."""


def corrupt_similar(
    input_ids: Tensor,
    chosen: Tensor,
    word_ids: Tensor,
    similar: Mapping[Word, Word],
    *,
    words: int,
    shares: tuple[float, float] = BERT,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """MacBERT's input and labels: of the chosen words 80 % become a similar word, 10 % a random
    one, 10 % stay. Where there is no similar word, a random one takes its place. The words of an
    n-gram are replaced one by one.

    Args:
        input_ids: ``(B, S)`` integers.
        chosen: ``(B, S)`` booleans, all tokens of a word or none
            (:func:`choose_ngrams` with ``lengths=MACBERT``).
        word_ids: ``(B, S)``, as for :func:`choose_ngrams`.
        similar: A word -> a similar one of as many tokens (:func:`similar_in_table`,
            :func:`similar_by_vectors`).
        words: Size of the vocabulary that random tokens come from.

    Returns:
        ``(input_ids, labels)``; labels are the true tokens, -100 where nothing was chosen.

    Example:
        >>> ids, word_ids = torch.tensor([[11, 12, 13]]), torch.tensor([[0, 0, 1]])
        >>> chosen = torch.tensor([[True, True, False]])
        >>> corrupt_similar(ids, chosen, word_ids, {(11, 12): (21, 22)}, words=99, shares=(1.0, 0.0))
        (tensor([[21, 22, 13]]), tensor([[  11,   12, -100]]))
    """
    same_shape("chosen", chosen, input_ids)
    check_words(word_ids)
    starts = word_starts(word_ids)
    word = starts.flatten().cumsum(0).reshape(starts.shape) - 1
    fate = torch.rand(int(starts.sum()), generator=generator, device=input_ids.device)
    hidden, random = fates(fate[word], chosen, shares)
    drawn = random_words(input_ids, words, generator)
    masked = torch.where(hidden | random, drawn, input_ids)
    flat, ids, number = masked.flatten(), input_ids.flatten().tolist(), word.flatten().tolist()
    places: dict[int, list[int]] = defaultdict(list)
    for place in hidden.flatten().nonzero().flatten().tolist():
        places[number[place]].append(place)
    for tokens in places.values():
        replacement = similar.get(tuple(ids[place] for place in tokens))
        if replacement is not None:
            flat[tokens] = torch.tensor(_as_long(replacement, tokens), dtype=flat.dtype, device=flat.device)
    return flat.reshape(masked.shape), input_ids.masked_fill(~chosen, IGNORED)


def _as_long(replacement: Word, tokens: Sequence[int]) -> Word:
    if len(replacement) != len(tokens):
        raise ValueError(f"similar: {len(tokens)} tokens for a word of {len(tokens)} are allowed, got {replacement}")
    return replacement


def similar_in_table(table: Mapping[str, Iterable[str]], encode: Callable[[str], Sequence[int]]) -> dict[Word, Word]:
    """Similar words out of a thesaurus.

    Args:
        table: A word -> similar ones, the most similar first. The first that has as many tokens
            is taken; a word without one is left out.
        encode: A word's tokens, without special ones.

    Example:
        >>> similar_in_table({"big": ["enormous", "fat"]}, lambda word: [ord(letter) for letter in word])
        {(98, 105, 103): (102, 97, 116)}
    """
    found = {}
    for word, others in table.items():
        tokens = tuple(encode(word))
        fitting = (tuple(encode(other)) for other in others)
        best = next((other for other in fitting if len(other) == len(tokens) and other != tokens), None)
        if tokens and best is not None:
            found[tokens] = best
    return found


def similar_by_vectors(
    vocabulary: Sequence[str],
    vectors: Tensor,
    encode: Callable[[str], Sequence[int]],
    *,
    least: float = 0.0,
    rows: int = 1024,
) -> dict[Word, Word]:
    """For each word the one with the nearest vector (cosine) among those of as many tokens, as the
    Synonyms toolkit finds them in word2vec's.

    Args:
        vocabulary: n words.
        vectors: ``(n, d)``, one for each.
        encode: A word's tokens, without special ones.
        least: Words with no neighbour of at least this cosine are left out.
        rows: Words that are compared with all at a time.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> similar_by_vectors(["a", "b", "c"], vectors, lambda word: [ord(word)])
        {(97,): (98,), (98,): (97,), (99,): (98,)}
    """
    if vectors.dim() != 2 or len(vectors) != len(vocabulary):
        raise ValueError(f"vectors: shape ({len(vocabulary)}, d) is allowed, got {tuple(vectors.shape)}")
    groups: dict[int, dict[Word, int]] = defaultdict(dict)
    for i, word in enumerate(vocabulary):
        tokens = tuple(encode(word))
        groups[len(tokens)].setdefault(tokens, i)
    units = F.normalize(vectors.float(), dim=1)
    found: dict[Word, Word] = {}
    for size, group in groups.items():
        if size == 0 or len(group) == 1:
            continue
        alike, mine = list(group), units[list(group.values())]
        for first in range(0, len(mine), rows):
            cosines = mine[first : first + rows] @ mine.T
            cosines.diagonal(first).fill_(-torch.inf)  # no word is similar to itself
            best, place = cosines.max(1)
            pairs = zip(alike[first : first + rows], best.tolist(), place.tolist(), strict=True)
            found.update({word: alike[j] for word, cosine, j in pairs if cosine >= least})
    return found
