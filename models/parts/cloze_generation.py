"""Writing with a model that fills gaps: a [MASK] after the text says what comes next, and its place
is taken by what it said (Dong et al. 2019, arXiv:1905.03197, section 2.5).

What is decided sees neither the [MASK] nor what comes after it, so its keys and values never change:
they are kept. Each step works on two tokens, the word just decided and the next [MASK].
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ...attention import attention
from ...bias import Dense, Distance
from ...blocks import Blocks
from ...patterns import Band, causal, dense
from .encoder import Encoder
from .heads import States, WordPredictor
from .layouts import Bias, Whole
from .model import Model
from .relative import RelativeBias


class Kept(Whole):
    """Some tokens of each row; attention finds the keys and values of those before where earlier calls
    put them.

    Args:
        rows: Number of texts.
        size: Tokens in the longest one, to come.

    A call works on the tokens at ``places (R, n)``, the last of which is the last in the row. Layers
    are known by the order in which they ask.
    """

    def __init__(self, rows: int, size: int, device: torch.device) -> None:
        super().__init__(rows, 0, device)
        self.size = size
        self.layers: list[tuple[Tensor, Tensor]] = []

    def at(self, places: Tensor, lengths: Tensor, longest: int) -> Kept:
        """``lengths (R,)``: the tokens there are then, at most ``longest``."""
        self.shape = (places.shape[0], places.shape[1])
        self.places, self.lengths, self.longest = places, lengths, longest
        self.asked = 0
        return self

    def select(self, rows: Tensor) -> None:
        self.layers = [(k[rows], v[rows]) for k, v in self.layers]

    def positions(self) -> Tensor:
        return self.places

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Band | Blocks, bias: Bias, dropout: float,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        if self.asked == len(self.layers):
            # Never read before it is written, but 0 * NaN is NaN.
            self.layers.append(tuple(x.new_zeros(*x.shape[:2], self.size, x.shape[3]) for x in (k, v)))  # type: ignore[arg-type]
        kept = self.layers[self.asked]
        self.asked += 1
        rows = torch.arange(len(self.places), device=self.device)[:, None]
        for all_, some in zip(kept, (k, v), strict=True):
            all_[rows, :, self.places] = some.transpose(1, 2)
        keys, values = (x[:, :, : self.longest] for x in kept)
        return attention(  # type: ignore[return-value]
            q, keys, values, pattern, bias, scale=scale, lengths=(None, self.lengths), dropout=dropout
        )


class Gaps:
    """The steps (:class:`search.Steps`) of writing targets to sources.

    Args:
        model: Its body is an :class:`Encoder` whose layers take a bias and a pattern, its head has
            ``words``.
        sources: ``(B, S)`` ids, padded on the right.
        lengths: ``(B,)``.
        words: At most so many will be written.
        mask: Id of [MASK].
        types: token_type_ids of source and target, if the model knows segments.
        relative: The bias by distance, if there is one.
    """

    def __init__(
        self, model: Model, sources: Tensor, lengths: Tensor, words: int, *, mask: int,
        types: tuple[int, int], relative: RelativeBias | None,
    ) -> None:  # fmt: skip
        self.body, self.words = cast(Encoder, model.body), cast(WordPredictor, model.head.words)
        self.sources, self.lengths, self.mask = sources, lengths, mask
        self.types, self.relative = types, relative
        self.longest = sources.shape[1]
        self.kept = Kept(len(sources), self.longest + words, sources.device)

    def first(self) -> Tensor:
        size = self.longest
        places = torch.arange(size, device=self.sources.device).expand(self.sources.shape)
        bias = None if self.relative is None else self.relative(size)
        layout = self.kept.at(places, self.lengths, size)
        self._through(layout, self.sources, torch.full_like(places, self.types[0]), bias, dense)
        return self._gap(self.lengths.new_empty(len(self.lengths), 0))

    def next(self, words: Tensor) -> Tensor:
        return self._gap(words[:, None])

    def select(self, rows: Tensor) -> None:
        self.kept.select(rows)
        self.lengths = self.lengths[rows]

    def _gap(self, words: Tensor) -> Tensor:
        """Scores for a [MASK] after the ``words (R, 0 or 1)`` that were just decided."""
        ids = torch.nn.functional.pad(words, (0, 1), value=self.mask)
        self.longest, self.lengths = self.longest + 1, self.lengths + 1
        places = self.lengths[:, None] - torch.arange(ids.shape[1], 0, -1, device=ids.device)
        layout = self.kept.at(places, self.lengths, self.longest)
        last = self._through(layout, ids, torch.full_like(ids, self.types[1]), self._bias(places), causal)
        return self.words(States(last[:, -1:], layout, self.body.embeddings.words.weight))[:, 0]

    def _bias(self, places: Tensor) -> Dense | None:
        """Of at most two queries, whose distances differ from row to row."""
        if self.relative is None:
            return None
        keys = torch.arange(self.longest, device=places.device)
        return Dense(self.relative.of(keys - places[..., None]).transpose(0, 1))

    def _through(
        self, layout: Kept, ids: Tensor, types: Tensor, bias: Distance | Dense | None, pattern: Band
    ) -> Tensor:
        x = self.body.embeddings(layout, ids, types, layout.places, None)
        return self.body.through(x, layout, bias, pattern).last
