"""GPT's decoder: an encoder's parts where no token sees later ones, normed before its sublayers
(Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import prenorm
from .attention import SelfAttention
from .cache import Cache, Caches, Reading, Writing, cache_of
from .embeddings import Embeddings
from .encoder import Encoder
from .heads import States
from .layouts import Whole
from .padding import layout
from .writing import Read


class Layer(prenorm.Layer):
    """One that can read on where it stopped."""

    def cache(self, room: int) -> Cache:
        """An empty one, for ``room`` tokens."""
        return cache_of(cast(SelfAttention, self.attention.inner).pattern, room)


class Decoder(Encoder):
    """Embeddings, layers, and a norm at the end. It can read a prompt and go on word by word.

    Example:
        >>> from pkernels import causal
        >>> from pkernels.models.parts.embeddings import Unnormed
        >>> attention = SelfAttention(12, 3, pattern=causal)
        >>> layer = Layer(attention, 12, 24, act="gelu", dropout=0.0, eps=1e-5)
        >>> body = Decoder(Unnormed(99, 40, 12, dropout=0.0), [layer], nn.LayerNorm(12))
        >>> read = body.prepare(torch.tensor([[5, 6, 7]]), room=lambda prompt: 1)
        >>> body.step(torch.tensor([[8]]), read.caches).last.shape
        torch.Size([1, 1, 12])
    """

    def __init__(self, embeddings: Embeddings, layers: Iterable[nn.Module], norm: nn.Module) -> None:
        super().__init__(embeddings, layers)
        self.norm = norm

    def sequence(self) -> Iterable[Any]:
        """The layers, the last one with the norm behind it."""
        *first, last = self.layers
        return [*first, lambda x, layout: self.norm(last(x, layout))]

    def prepare(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        room: Callable[[int], int],
    ) -> Read:
        """Read a prompt ``(B, P)``, padded on any side by mask or on the right by ``lengths``; what
        is masked takes no position. ``room`` as :class:`writing.Writer` has it."""
        ids, lengths, real = together(input_ids, attention_mask, lengths)
        where = layout(ids.shape[0], ids.shape[1], ids.device, lengths=lengths)
        size = where.longest + room(input_ids.shape[1])
        # The last new word is not read.
        if size - 1 > self.embeddings.longest:
            raise ValueError(
                f"max_new_tokens: prompt and new words of at most {self.embeddings.longest + 1} tokens "
                f"(max_position_embeddings + 1) are allowed, got {size}"
            )
        counts = torch.full((len(ids),), ids.shape[1], device=ids.device) if lengths is None else lengths
        caches = Caches((cast(Layer, layer).cache(size - 1) for layer in self.layers), counts)
        x = self.embeddings(where, ids, None, None, None)
        x = caches.through(self.sequence(), x, partial(Reading, where, lengths))
        return Read(self._states(where.last(x)[:, None]), caches, input_ids, real)

    def step(self, ids: Tensor, caches: Caches) -> States:
        """States of ``ids (B, S)``, the words that follow those in ``caches``."""
        batch, size = ids.shape
        places = caches.lengths[:, None] + torch.arange(size, device=ids.device)
        x = self.embeddings(Whole(batch, size, ids.device), ids, None, places, None)
        x = caches.through(self.sequence(), x, partial(Writing, batch, size, ids.device))
        caches.lengths = caches.lengths + size
        return self._states(x)

    def _states(self, x: Tensor) -> States:
        return States(x, Whole(x.shape[0], x.shape[1], x.device), self.embeddings.words.weight)


def together(ids: Tensor, mask: Tensor | None, lengths: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Real tokens of each row at its start, how many there are, and which were real; Nones if all are."""
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[1] == 0:
        given = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"input_ids: shape (B, P), P at least 1, is allowed, got {given}")
    where = layout(ids.shape[0], ids.shape[1], ids.device, mask, lengths, packs=False)
    real: Tensor | None = getattr(where, "real", None)
    if real is None:
        return ids, None, None
    if not bool(real.any(1).all()):
        raise ValueError("attention_mask, lengths: at least one real token in each row is allowed")
    order = (~real).to(torch.int8).argsort(dim=1, stable=True)
    counts = real.sum(1)
    return ids.gather(1, order)[:, : int(counts.max())], counts, real


def initialise(model: nn.Module, std: float) -> None:
    """Weights from a normal distribution, biases 0; of layers that end in a residual sum narrower by
    the root of the number of such layers (Radford et al. 2019, section 2.3)."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    layers = [cast(Any, module) for module in model.modules() if isinstance(module, Layer)]
    for layer in layers:
        for module in (layer.attention.inner.out, layer.feed_forward.inner.down):
            nn.init.normal_(module.weight, std=std / (2 * len(layers)) ** 0.5)
