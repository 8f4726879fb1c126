"""The long text: Python's own documentation (``pydoc_data.topics``), bytes as tokens."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from pkernels.models.parts.objectives import cut, mask_tokens

FIRST, PADDING, LAST, MASK = range(4)
SPECIAL = 4
"""Ids from here on are bytes."""
WORDS = SPECIAL + 256


@functools.cache
def tokens() -> Tensor:
    """The whole text, one id a byte."""
    from pydoc_data.topics import topics

    text = "".join(topics[name] for name in sorted(topics)).encode()
    return SPECIAL + torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def rows(length: int) -> Tensor:
    """The text in rows of ``length``, ``(n, length)``; it is long enough for 14 of 32,768."""
    return cut(tokens(), length, first=FIRST, last=LAST)


def masked(ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What a masked LM is trained on."""
    hidden, labels = mask_tokens(ids, ids < SPECIAL, mask_id=MASK, words=WORDS, generator=generator)
    return {"input_ids": hidden, "labels": labels}


def causal(ids: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What a causal LM is trained on; the model itself shifts the labels by one."""
    return {"input_ids": ids, "labels": ids}
