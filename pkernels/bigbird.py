"""Which blocks see one another in BigBird (Zaheer et al. 2020, arXiv:2007.14062).

Section 2 and appendix D: a sequence is cut into blocks of 64. The first and the last block see
all and are seen by all; any other sees itself, its two neighbours and ``random`` blocks that are
drawn once, for each head. What is drawn depends on who draws:

- the authors (google-research/bigbird, ``core/attention.py``), in training and evaluation alike:
  :func:`bigbird`;
- transformers, in training the same but for 2,048 tokens: :func:`bigbird_training`;
- transformers, in evaluation nothing: :func:`bigbird_evaluation`.

All are functions of numbers alone, and remember their last results.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor

from .attention import Result, attention
from .blocks import Blocks

Drawn = list[list[list[int]]]
"""Of each head and each block but the first and the last: the blocks drawn, in their order."""

_FOCUS = 1024
_LENGTHS = (1024, 2048, 3072, 4096)


@lru_cache(maxsize=512)
def bigbird(
    length: int,
    heads: int,
    *,
    size: int = 64,
    random: int = 3,
    seed: int = 0,
    longest: int = 4096,
    focused: tuple[int, ...] = _LENGTHS,
) -> Blocks:
    """The authors' layout: global blocks, a window of three and ``random`` blocks for each head.

    Args:
        length: Rows; of the last block there may be fewer than ``size``.
        random: Blocks that are drawn for each block of each head. One that the head's block sees
            anyway counts twice. Where fewer can be drawn, all of them are.
        seed: Of NumPy's ``RandomState``; of a model, the number of the layer.
        longest: For ``focused`` lengths, the length that is drawn for, and of which the first
            rows are taken.
        focused: Lengths (up to the end of the last block) whose random blocks all lie within
            the first 1,024 rows. Those of other lengths lie within the first ``5 + 2 * random``
            blocks, if there are more.

    Zaheer et al. 2020, section 2 and appendix D ("ITC").

    Example:
        >>> bigbird(9, 2, size=1, random=1)
        Blocks(9 x 9 blocks of 1)
        ■■■■■■■■■
        ■■■■····■
        ■■■■·■··■
        ■·■■■■··■
        ■■·■■■··■
        ■··■■■■·■
        ■·■··■■■■
        ■····■■■■
        ■■■■■■■■■
    """
    _check(random, length=length, heads=heads, size=size)
    blocks, draw = -(-length // size), np.random.RandomState(seed)
    if blocks * size in focused:
        return _layout(blocks, size, _draw_focused(draw, blocks, heads, size, random, longest))
    return _layout(blocks, size, _draw(draw, blocks, heads, random))


def bigbird_training(
    length: int, heads: int, *, size: int = 64, random: int = 3, seed: int = 0, longest: int = 4096
) -> Blocks:
    """What transformers' BigBird draws in training.

    Args:
        seed: Number of the layer.
        longest: The model's ``max_position_embeddings``.

    The others as for :func:`bigbird`, which it is but for 2,048 rows. NumPy's generator, which
    transformers seeds anew in each layer, stays as it is.

    Example:
        >>> layout = bigbird_training(4096, 12, seed=3)
        >>> round(layout.pairs(4096, 4096) / 4096**2, 2)
        0.15
    """
    focused = (1024, 3072, 4096)
    return bigbird(length, heads, size=size, random=random, seed=seed, longest=longest, focused=focused)


@lru_cache(maxsize=512)
def bigbird_evaluation(length: int, *, size: int = 64, random: int = 3) -> Blocks:
    """What transformers' BigBird sees in evaluation, in all heads: instead of each random block
    it takes the first block once more, which so weighs ``1 + random`` times in all but the global rows.

    Example:
        >>> bigbird_evaluation(6, size=1).counts(6)[0].tolist()[2]
        [4, 1, 1, 1, 0, 1]
    """
    _check(random, length=length, size=size)
    blocks = -(-length // size)
    return _layout(blocks, size, [[[0] * random] * (blocks - 2)])


def bigbird_attention(q: Tensor, k: Tensor, v: Tensor, layout: Blocks | None = None, **options: Any) -> Result:
    """Attention over global, neighbouring and random blocks (Zaheer et al. 2020, section 2).

    Args:
        layout: One of this module's, by default ``bigbird`` of q's length and heads.

    ``options`` and shapes as for :func:`pkernels.attention`. There is no attention dropout in
    the authors' models.

    Example:
        >>> import torch
        >>> q = torch.randn(1, 2, 1000, 16)
        >>> bigbird_attention(q, q, q, bigbird(1000, 2, size=32)).shape
        torch.Size([1, 2, 1000, 16])
    """
    return attention(q, k, v, bigbird(q.shape[2], q.shape[1]) if layout is None else layout, **options)


def _check(random: int, **numbers: int) -> None:
    for least, named in ((0, {"random": random}), (1, numbers)):
        for name, value in named.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}: an int of at least {least} is allowed, got {value!r}")


def _layout(blocks: int, size: int, drawn: Drawn) -> Blocks:
    """With the global blocks and the window added to what was drawn."""
    every, last = list(range(blocks)), blocks - 1
    lists = [
        [every if i in (0, last) else [*{0, i - 1, i, i + 1, last}, *of_head[i - 1]] for i in every]
        for of_head in drawn
    ]
    return Blocks.of(lists, size)


def _draw(draw: np.random.RandomState, blocks: int, heads: int, random: int) -> Drawn:
    """Row by row, and for each row head by head."""
    drawn: Drawn = [[[] for _ in range(blocks)] for _ in range(heads)]
    for rows, first, end, count in _parts(blocks, random):
        for i in rows if count else ():
            for of_head in drawn:
                order = draw.permutation(np.arange(first, end)).tolist()
                of_head[i] += [j for j in order if _allowed(i, j, end)][:count]
    return [of_head[1:-1] for of_head in drawn]


def _parts(blocks: int, random: int) -> Iterable[tuple[range, int, int, int]]:
    """``(rows, first, end, count)``: so many blocks are drawn for each of the rows between the two ends."""
    near, far = random + 5, 2 * random + 5
    if blocks > far:
        return [(range(1, blocks), 0, far, random)]
    if blocks <= near:
        return [(range(1, blocks), 0, blocks, random)]
    half = random // 2
    return [
        (rows, first, end, count)
        for rows in (range(1, near), range(near, blocks))
        for first, end, count in ((0, near, half), (near, blocks, random - half))
    ]


def _allowed(i: int, j: int, end: int) -> bool:
    """Whether row i may draw block j out of those before ``end``: not from the window or the ends."""
    return abs(i - j) > 1 and 0 < j < end - 1 and (i, j) not in ((1, end - 2), (end - 2, 1))


def _draw_focused(draw: np.random.RandomState, blocks: int, heads: int, size: int, random: int, longest: int) -> Drawn:
    """Head by head, and for each head row by row; the rows before the last two of ``longest`` may
    draw from their window."""
    most = max(longest // size, blocks)
    last = min(_FOCUS // size - 1 if 2 * size < _FOCUS else most - 1, most - 2)
    drawn: Drawn = []
    for _ in range(heads):
        rows = []
        for i in range(1, most - 1):
            free = i >= max(3, most - 3)
            allowed = [j for j in range(1, last + 1) if free or abs(i - j) > 1]
            rows.append(draw.permutation(np.array(allowed, dtype=np.int64))[:random].tolist())
        drawn.append(rows[: blocks - 2])
    return drawn
