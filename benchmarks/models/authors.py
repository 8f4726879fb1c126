"""A model that writes one word after another behind a context, as pkernels has it and as transformers does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pkernels.models.parts.config import BaseConfig

Step = Callable[[Tensor], Tensor]
"""From words ``(B,)``, which are the next ones, to the scores ``(B, V)`` of those after them."""
Read = Callable[[Any, Tensor, int], tuple[Tensor, Step]]
"""From a model, ids ``(B, S)`` and how many words will follow, to the scores of the first and a step."""


@dataclass(frozen=True)
class Author:
    """An entry.

    Attributes:
        name: As tables show it.
        architecture: The class in transformers, and what ``pkernels.models.build`` calls it.
        config: From places and layers to our config, with the vocabulary of ``corpus`` and without dropout.
        sizes: (context, layers, rows of the batch) of ``--full``, and ``quick`` of a quick run.
        peers: How transformers' model reads and steps, by the names that tables show.
        tolerance: Largest difference of scores over the largest score.
    """

    name: str
    architecture: str
    config: Callable[[int, int], BaseConfig]
    sizes: tuple[tuple[int, int, int], ...]
    peers: Mapping[str, Read]
    quick: tuple[tuple[int, int, int], ...] = ()
    tolerance: float = 1e-4


def ours(model: Any, ids: Tensor, words: int) -> tuple[Tensor, Step]:
    """What ``model.generate`` does, word by word."""
    prompt = model.prepare(ids, room=lambda size: words + 1)  # the last word is read, too
    return prompt.scores, lambda ids: model.step(ids, prompt.caches)


def growing(model: Any, ids: Tensor, words: int) -> tuple[Tensor, Step]:
    """transformers' default: keys and values are concatenated with each new word's."""
    return _behind(model, ids, None)


def static(model: Any, ids: Tensor, words: int) -> tuple[Tensor, Step]:
    """Memory of the final size is taken at once, and attention is over all of it."""
    from transformers import StaticCache

    return _behind(model, ids, StaticCache(model.config, max_cache_len=ids.shape[1] + words))


def _behind(model: Any, ids: Tensor, cache: Any) -> tuple[Tensor, Step]:
    out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    return out.logits[:, -1], lambda ids: model(ids[:, None], past_key_values=cache, use_cache=True).logits[:, -1]


def anew(model: Any, ids: Tensor, words: int) -> tuple[Tensor, Step]:
    """A decoder beside an encoder, whose text is the context."""
    encoded, cache = model.get_encoder()(ids), None

    def step(ids: Tensor) -> Tensor:
        nonlocal cache
        out = model(encoder_outputs=encoded, decoder_input_ids=ids[:, None], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        return out.logits[:, -1]

    return step(torch.full_like(ids[:, 0], model.config.decoder_start_token_id)), step


BEHIND: dict[str, Read] = {"transformers": growing, "transformers, static": static}
BESIDE: dict[str, Read] = {"transformers": anew}
