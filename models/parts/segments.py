"""A body that reads a text in segments, each after the memories of those before: Transformer-XL's (Dai et
al. 2019, arXiv:1901.02860, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .adaptive import AdaptiveEmbedding, AdaptiveStates
from .cache import Caches, Reading, Writing
from .decoder import together
from .embeddings import inputs_layout, look_up
from .layouts import Masked, Whole
from .recurrence import Biases, Memories, Sliding, check_memories, encodings, rates, remember
from .recurrent_layers import Layer
from .writing import Read


class Body(nn.Module):
    """Embeddings, and layers over a segment and its memories.

    Args:
        biases: What all layers share for the query's place, if they do.
        memory: Tokens that are remembered.
        clamp: Largest distance that is told apart; 0 or less for no limit.
    """

    def __init__(
        self, embeddings: AdaptiveEmbedding, layers: Iterable[Layer], biases: Biases | None,
        *, memory: int, clamp: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.memory, self.clamp = embeddings.embedding_dim, memory, clamp
        self.embeddings = embeddings
        self.biases = biases
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("rates", rates(self.width))  # for files alone: transformers reads it

    def forward(
        self,
        input_ids: Tensor | None = None,
        mems: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> AdaptiveStates:
        """A segment ``(B, S)`` after memories, by default of zeros. Padding stands on the right."""
        layout = self._layout(input_ids, inputs_embeds, attention_mask, lengths)
        counts = getattr(layout, "lengths", None)
        x = self.dropout(self._embedded(layout, input_ids, inputs_embeds))
        memories = self._memories(mems, layout, x)
        trace, new = [x], []
        # No token sees those on its right, so none sees padding.
        where = Whole(x.shape[0], x.shape[1], x.device)
        steps = self._steps(x.shape[1], (0 if memories is None else memories[0].shape[0]) + x.shape[1], x)
        for i, layer in enumerate(self.layers):
            memory = None if memories is None else memories[i]
            if memories is not None:
                new.append(remember(trace[-1], memory, self.memory, counts))
            x = layer(trace[-1], where, steps, memory)
            trace = [*(trace if output_hidden_states else ()), x]
        trace[-1] = self.dropout(trace[-1])
        hidden = tuple(layout.unpack(x) for x in trace) if output_hidden_states else None
        return self._states(trace[-1], layout, hidden, tuple(new) or None)

    def prepare(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, mems: Any = None,
        *, lengths: Tensor | None = None, room: Callable[[int], int],
    ) -> Read:  # fmt: skip
        """Read a prompt ``(B, P)``, padded on any side, after ``mems``; see :class:`writing.Writer`."""
        if self.memory == 0:
            raise ValueError("mem_len: at least 1 is needed to write: what was read is remembered, or lost")
        ids, lengths, real = together(input_ids, attention_mask, lengths)
        room(input_ids.shape[1])
        layout = Whole(ids.shape[0], ids.shape[1], ids.device)
        x = self._embedded(layout, ids, None)
        memories = self._memories(mems, layout, x)
        if memories is None:
            raise AssertionError("memories: a model with mem_len has some")
        before, size = memories[0].shape[0], x.shape[1]
        counts = torch.full((len(ids),), size, device=ids.device) if lengths is None else lengths
        caches = Caches((Sliding(self.memory) for _ in self.layers), counts)
        steps = self._steps(size, before + size, x)
        for layer, cache, memory in zip(self.layers, caches, memories, strict=True):
            x = layer(x, Reading(layout, None if lengths is None else before + lengths, cache), steps, memory)
        last = x[torch.arange(len(x), device=x.device), counts - 1][:, None]
        return Read(self._states(last, Whole(len(x), 1, x.device)), caches, input_ids, real)

    def step(self, ids: Tensor, caches: Caches) -> AdaptiveStates:
        """States of ``ids (B, S)``, the words that follow those in ``caches``."""
        layout = Whole(ids.shape[0], ids.shape[1], ids.device)
        x = self._embedded(layout, ids, None)
        steps = self._steps(x.shape[1], len(cast(Sliding, caches.layers[0])) + x.shape[1], x)
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, Writing(x.shape[0], x.shape[1], x.device, cache), steps)
        caches.lengths = caches.lengths + x.shape[1]
        return self._states(x, layout)

    def _layout(self, ids: Any, embeds: Any, mask: Tensor | None, lengths: Tensor | None) -> Whole:
        layout = inputs_layout(ids, embeds, mask, lengths, None, packs_up_to=0)
        if isinstance(layout, Masked):
            raise ValueError("attention_mask: padding on the right is allowed, for memories stand before a text")
        return layout

    def _embedded(self, layout: Whole, ids: Tensor | None, embeds: Tensor | None) -> Tensor:
        return look_up(self.embeddings, layout, ids, embeds)[1]  # type: ignore[arg-type]

    def _memories(self, mems: Any, layout: Whole, x: Tensor) -> tuple[Tensor, ...] | None:
        if mems is None and self.memory > 0:
            return (x.new_zeros(self.memory, x.shape[0], self.width),) * len(self.layers)
        return check_memories(mems, len(self.layers), layout, self.width)

    def _steps(self, queries: int, keys: int, x: Tensor) -> Tensor:
        steps = encodings(queries, keys, self.width, clamp=self.clamp, device=x.device)
        return self.dropout(steps.to(x.dtype))

    def _states(
        self, x: Tensor, layout: Whole, hidden: Memories | None = None, mems: Memories | None = None
    ) -> AdaptiveStates:
        tables = self.embeddings.parts()
        return AdaptiveStates(x, layout, tables[0][0], hidden, mems=mems, tables=tables)
