"""Writing to a picture, a text, or both: sources see one another and are read once, then one word after
the other is written, each seeing what stands before it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ...patterns import causal, dense
from .cloze_generation import Kept
from .heads import States, WordPredictor
from .joint import Joint, Row, real_places
from .model import Model


class Told:
    """The steps (:class:`search.Steps`) of writing a target to sources.

    Args:
        model: Its body is a :class:`Joint` whose text stands last, its head has ``words``.
        begin: The word that begins a target.
        words: At most so many will be written.
        given: Arguments for the body, see :meth:`Joint.embedded`.
    """

    def __init__(self, model: Model, begin: int, words: int, given: dict[str, Any]) -> None:
        self.body, self.words = cast(Joint, model.body), cast(WordPredictor, model.head.words)
        self.begin = begin
        row = self.body.embedded(**given)
        self.x, self.lengths = together(row)
        batch, self.longest = self.x.shape[:2]
        self.kept = Kept(batch, self.longest + words, self.x.device)
        text = row.parts.get("text")
        # Words of the text so far: where the next one stands among positions.
        self.count = torch.zeros_like(self.lengths) if text is None else real_places(text).sum(1)

    def first(self) -> Tensor:
        places = torch.arange(self.longest, device=self.x.device).expand(self.x.shape[:2])
        self.body.through(self.x, self.kept.at(places, self.lengths, self.longest), None, dense)
        return self.next(torch.full_like(self.lengths, self.begin))

    def next(self, words: Tensor) -> Tensor:
        ids = words[:, None]
        embeddings = self.body.embeddings
        layout = self.kept.at(self.lengths[:, None], self.lengths + 1, self.longest + 1)
        x = embeddings(layout, ids, None, (self.count + embeddings.numbering.first)[:, None], None)
        last = self.body.through(x, layout, None, causal).last
        self.lengths, self.count, self.longest = self.lengths + 1, self.count + 1, self.longest + 1
        return self.words(States(last, layout, embeddings.words.weight))[:, 0]

    def select(self, rows: Tensor) -> None:
        self.kept.select(rows)
        self.lengths, self.count = self.lengths[rows], self.count[rows]


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
