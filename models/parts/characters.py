"""Words out of their characters: ELMo's input (Peters et al. 2018, arXiv:1802.05365, section 3.4),
after Kim et al. 2015 (arXiv:1508.06615) and Józefowicz et al. 2016 (arXiv:1602.02410).

A word is the bytes of its UTF-8, between marks of its begin and end, filled up to one size. All
ids are one more than the byte or mark (allenai/bilm-tf, ``UnicodeCharsVocabulary``), so that 0 is
no word at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .layers import ACTIVATIONS
from .linear import Linear

BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, FILL = range(257, 262)


def character_ids(sentences: Sequence[Sequence[str]], size: int = 50) -> tuple[Tensor, Tensor]:
    """Words as their characters' ids.

    Args:
        sentences: Each a list of words, without marks of its begin and end.
        size: Ids of a word; what does not fit is cut off.

    Returns:
        ``(ids (B, S, size), lengths (B,))``; words that are not there are 0.

    Example:
        >>> ids, lengths = character_ids([["so", "é"], ["a"]], 5)
        >>> ids[0].tolist(), lengths.tolist()
        ([[259, 116, 112, 260, 261], [259, 196, 170, 260, 261]], [2, 1])
    """
    if size < 3:
        raise ValueError(f"size: at least 3 is allowed, got {size}")
    longest = max(map(len, sentences), default=0)
    rows = [[_word(list(word.encode("utf-8", "ignore")[: size - 2]), size) for word in words] for words in sentences]
    none = [0] * size
    ids = torch.tensor([row + [none] * (longest - len(row)) for row in rows], dtype=torch.int64)
    return ids.reshape(len(rows), longest, size), torch.tensor([len(row) for row in rows], dtype=torch.int64)


def _word(characters: list[int], size: int) -> list[int]:
    ids = [BEGIN_WORD, *(byte + 1 for byte in characters), END_WORD]
    return ids + [FILL] * (size - len(ids))


def sentence_marks(size: int) -> tuple[list[int], list[int]]:
    """The words that stand before and behind a sentence; each has one character."""
    begin, end = ([BEGIN_WORD, mark, END_WORD] for mark in (BEGIN_SENTENCE, END_SENTENCE))
    return begin + [FILL] * (size - 3), end + [FILL] * (size - 3)


def marked(x: Tensor, lengths: Tensor, first: object, last: object, nothing: int) -> Tensor:
    """``x (B, S, ...)`` of ``lengths`` -> ``(B, S + 2, ...)`` with ``first`` before and ``last`` behind
    each row, and ``nothing`` after that.

    Example:
        >>> marked(torch.tensor([[5, 6], [7, 0]]), torch.tensor([2, 1]), 1, 2, 0).tolist()
        [[1, 5, 6, 2], [1, 7, 2, 0]]
    """
    beside = [0, 0] * (x.dim() - 2)
    begin, end = (torch.as_tensor(mark, dtype=x.dtype, device=x.device) for mark in (first, last))
    wide = F.pad(x, (*beside, 1, 1), value=nothing)
    place = torch.arange(wide.shape[1], device=x.device)[None].reshape(1, -1, *[1] * (x.dim() - 2))
    behind = (lengths + 1).reshape(-1, *[1] * (x.dim() - 1))
    wide = wide.where(place < behind, nothing)
    return end.where(place == behind, begin.where(place == 0, wide))


class Highway(nn.Module):
    """``gate relu(transform x) + (1 - gate) x`` (Srivastava et al. 2015, arXiv:1505.00387)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.transform = Linear(width, width)
        self.gate = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x.lerp(F.relu(self.transform(x)), self.gate(x).sigmoid())


class CharacterCNN(nn.Module):
    """Convolutions over a word's characters, each one's largest value, highway layers, a projection.

    Args:
        characters: Rows of the embedding; id 0 gives zeros.
        dim: Width of a character.
        filters: ``(width, number)`` of each convolution.
        width: Of a word.
    """

    def __init__(
        self, characters: int, dim: int, filters: Sequence[tuple[int, int]], highways: int, width: int, act: str
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, dim, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, number, size) for size, number in filters)
        total = sum(number for _, number in filters)
        self.highways = nn.ModuleList(Highway(total) for _ in range(highways))
        self.projection = Linear(total, width)
        self.act = ACTIVATIONS[act]

    def forward(self, ids: Tensor) -> Tensor:
        """``(..., size)`` ids of characters -> ``(..., width)``."""
        x = self.embedding(ids.flatten(0, -2)).mT
        x = torch.cat([self.act(convolution(x).amax(-1)) for convolution in self.convolutions], -1)
        for highway in self.highways:
            x = highway(x)
        return self.projection(x).unflatten(0, ids.shape[:-1])
