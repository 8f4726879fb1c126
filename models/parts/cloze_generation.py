"""Writing with a model that fills gaps: a [MASK] after the text says what comes next, and its place
is taken by what it said (Dong et al. 2019, arXiv:1905.03197, section 2.5).

What is decided sees neither the [MASK] nor what comes after it, so its keys and values never change:
they are kept. Each step works on two tokens, the word just decided and the next [MASK].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ...bias import Dense
from ...patterns import causal, dense
from .cache import Asking, Caches, Growing, Reading
from .decoder import together
from .embeddings import Embeddings
from .encoder import Encoder
from .heads import States
from .layouts import Whole
from .padding import layout
from .relative import RelativeBias
from .writing import PLAIN, Read


class ClozeWriter(Encoder):
    """An encoder that writes targets to sources.

    Args:
        layers: They take a bias and a pattern.
        relative: The bias by distance, if there is one.
        mask: Id of [MASK].
        types: token_type_ids of source and target.
    """

    def __init__(
        self, embeddings: Embeddings, layers: Iterable[nn.Module], relative: RelativeBias | None,
        *, mask: int, types: tuple[int, int],
    ) -> None:  # fmt: skip
        super().__init__(embeddings, layers)
        self.relative, self.mask, self.types = relative, mask, types

    def prepare(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        room: Callable[[int], int],
    ) -> Read:
        """Read sources ``(B, S)``, padded on any side by mask or on the right by ``lengths``. Targets begin with
        nothing; ``room`` as :class:`writing.Writer` has it."""
        known = self.embeddings.words.num_embeddings
        if not 0 <= self.mask < known:
            raise ValueError(f"mask_token_id: a word of the vocabulary ({known}) is allowed, got {self.mask}")
        ids, lengths, _ = together(input_ids, attention_mask, lengths)
        batch, size = ids.shape
        words, most = room(0), self.embeddings.longest - size
        if words > most:
            raise ValueError(
                f"max_new_tokens: at most {most} (max_position_embeddings less the longest source) is allowed, "
                f"got {words}"
            )
        counts = torch.full((batch,), size, device=ids.device) if lengths is None else lengths
        caches = Caches((Growing(size + words) for _ in self.layers), counts)
        where = layout(batch, size, ids.device, lengths=lengths)
        x = self.embeddings(where, ids, torch.full_like(ids, self.types[0]), None, None)
        bias = None if self.relative is None else self.relative(size)
        caches.through(self.sequence(), x, partial(Reading, where, lengths), bias, dense)
        none = ids[:, :0]
        return Read(self.step(none, caches), caches, none, rules=PLAIN)

    def step(self, ids: Tensor, caches: Caches) -> States:
        """The states of a [MASK] behind ``ids (B, n)``, the words that follow those in ``caches``."""
        batch, size = ids.shape[0], ids.shape[1] + 1
        places = caches.lengths[:, None] + torch.arange(size, device=ids.device)
        both = nn.functional.pad(ids, (0, 1), value=self.mask)
        where = Whole(batch, size, ids.device)
        x = self.embeddings(where, both, torch.full_like(both, self.types[1]), places, None)
        bias = self._bias(places, cast(Growing, caches.layers[0]).size + size)
        x = caches.through(self.sequence(), x, partial(Asking, batch, size, ids.device), bias, causal)
        caches.lengths = caches.lengths + ids.shape[1]
        return States(x[:, -1:], Whole(batch, 1, ids.device), self.embeddings.words.weight)

    def _bias(self, places: Tensor, keys: int) -> Dense | None:
        """Of few queries, whose distances differ from row to row."""
        if self.relative is None:
            return None
        steps = torch.arange(keys, device=places.device) - places[..., None]
        return Dense(self.relative.of(steps).transpose(0, 1))
