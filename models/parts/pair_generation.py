"""Writing to a picture, a text, or both: sources see one another and are read once, then one word after
the other is written, each seeing what stands before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...patterns import causal, dense
from .cache import Caches, Growing, Reading, Writing
from .embeddings import Embeddings
from .heads import States
from .joint import Joint, Row, real_places
from .layouts import Whole
from .padding import layout
from .writing import PLAIN, Read


class JointWriter(Joint):
    """A :class:`Joint` whose text stands last, and that writes targets to sources.

    Args:
        begin: The word that begins a target.
    """

    def __init__(
        self, embeddings: Embeddings, regions: nn.Module, layers: Iterable[nn.Module], order: tuple[str, str],
        *, begin: int,
    ) -> None:  # fmt: skip
        super().__init__(embeddings, regions, layers, order)
        self.begin = begin

    def prepare(self, *inputs: Any, room: Callable[[int], int], **given: Any) -> Read:
        """Read sources, as :meth:`Joint.embedded` takes them; ``room`` as :class:`writing.Writer` has it."""
        known = self.embeddings.words.num_embeddings
        if not 0 <= self.begin < known:
            raise ValueError(f"bos_token_id: a word of the vocabulary ({known}) is allowed, got {self.begin}")
        row = self.embedded(*inputs, **given)
        x, counts = together(row)
        batch, size = x.shape[:2]
        text = row.parts.get("text")
        # Words of the text so far: where the next one stands among positions.
        told = torch.zeros_like(counts) if text is None else real_places(text).sum(1)
        words, most = room(0), self.embeddings.longest - int(told.max())
        if words > most:
            raise ValueError(
                f"max_new_tokens: at most {most} (max_position_embeddings less the longest source) is allowed, "
                f"got {words}"
            )
        caches = Caches((Growing(size + words) for _ in self.layers), told)
        where = layout(batch, size, x.device, lengths=counts)
        caches.through(self.sequence(), where.pack(x), partial(Reading, where, counts), None, dense)
        first = torch.full((batch, 1), self.begin, device=x.device)
        return Read(self.step(first, caches), caches, first[:, :0], rules=PLAIN)

    def step(self, ids: Tensor, caches: Caches) -> States:
        """States of ``ids (B, n)``, the words that follow those in ``caches``."""
        batch, size = ids.shape
        where = Whole(batch, size, ids.device)
        places = caches.lengths[:, None] + torch.arange(size, device=ids.device) + self.embeddings.numbering.first
        x = self.embeddings(where, ids, None, places, None)
        x = caches.through(self.sequence(), x, partial(Writing, batch, size, ids.device), None, causal)
        caches.lengths = caches.lengths + size
        return States(x, where, self.embeddings.words.weight)


def together(row: Row) -> tuple[Tensor, Tensor]:
    """``(B, longest, width)``, what is real of each row in front, and ``(B,)`` how much that is.

    Example:
        >>> from pkernels.models.parts.layouts import Whole
        >>> whole = Whole(1, 2, torch.device("cpu"))
        >>> [n.tolist() for n in together(Row(torch.tensor([[[5.0], [6.0]]]), whole, {"text": whole}))]
        [[[[5.0], [6.0]]], [2]]
    """
    real = real_places(row.layout)
    lengths = real.sum(1)
    order = torch.sort((~real).int(), dim=1, stable=True).indices[:, : int(lengths.max())]
    x = row.layout.unpack(row.x)
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2])), lengths
