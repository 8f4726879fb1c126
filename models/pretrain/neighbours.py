"""Similar words out of a text alone, for MacBERT, whose authors took them from word2vec."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import torch
from torch import Tensor

from ..parts.objectives import similar_by_vectors
from ..parts.objectives.similar import Word
from .text import Corpus
from .vocabulary import Vocabulary

WINDOW = 2
"""Words on each side that count as a word's company."""


def neighbours(corpus: Corpus, vocabulary: Vocabulary, *, words: int = 2048) -> dict[Word, Word]:
    """For each of the commonest words the one that keeps the most similar company.

    A word's vector holds its positive pointwise mutual information with all others within two
    words; word2vec's vectors factorise such a matrix (Levy and Goldberg 2014, "Neural Word Embedding
    as Implicit Matrix Factorization", section 3).

    Args:
        words: How many are looked at; memory grows with their square.
    """
    sequence, common = _words(corpus, vocabulary, words)
    counts = torch.zeros(len(common), len(common))
    for apart in range(1, WINDOW + 1):
        left, right = sequence[:-apart], sequence[apart:]
        both = (left >= 0) & (right >= 0)
        counts.index_put_((left[both], right[both]), torch.ones(()), accumulate=True)
    counts += counts.T.clone()
    vectors = _information(counts)
    names = [str(number) for number in range(len(common))]
    return similar_by_vectors(names, vectors, lambda name: common[int(name)], least=1e-6)


def _words(corpus: Corpus, vocabulary: Vocabulary, most: int) -> tuple[Tensor, list[Word]]:
    """The text as numbers of its commonest words (-1 for the others), and those words."""
    tokens = corpus.tokens.tolist()
    begins = vocabulary.starts[corpus.tokens.long()].clone()
    begins[corpus.sentences[:-1]] = True
    edges = [*begins.nonzero().flatten().tolist(), len(tokens)]
    found = [tuple(tokens[start:end]) for start, end in pairwise(edges)]
    common = [word for word, _ in Counter(found).most_common(most)]
    number = {word: i for i, word in enumerate(common)}
    return torch.tensor([number.get(word, -1) for word in found]), common


def _information(counts: Tensor) -> Tensor:
    total = counts.sum()
    expected = counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True) / total.clamp(min=1)
    return (counts / expected.clamp(min=1e-12)).clamp(min=1).log()
