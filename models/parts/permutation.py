"""A body that reads a text both ways and predicts its words in any order: XLNet's (Yang et al. 2019,
arXiv:1906.08237)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...patterns import INF, Band, dense
from .cache import Caches
from .decoder import together
from .embeddings import inputs_layout, look_up
from .heads import States
from .layouts import Masked, Ragged, Unpadded, Whole
from .order import Order, places_of
from .recurrence import Memories, Sliding, check_memories, encodings, remember
from .streams import InOrder
from .two_streams import Layer, Sight
from .writing import Read

SEGMENTS = 5
"""Kinds of segments: A, B, [CLS], [SEP] and padding (zihangdai/xlnet, data_utils.py)."""


class Open(Caches):
    """While writing: the last word of each row ``(B, 1)`` is read again with the next, which it may see; and
    whether keys say which are padding."""

    word: Tensor
    padded: bool

    def reorder(self, rows: Tensor) -> None:
        super().reorder(rows)
        self.word = self.word[rows]


class Body(nn.Module):
    """Words, and layers with one stream or two.

    Args:
        layers: As :class:`two_streams.Layer`.
        clamp: Largest distance that is told apart; 0 or less for no limit.
        sees: From the number of tokens remembered to which of them and of a segment's a token sees.
        both_ways: The second half of a batch is read backwards.
        memory: Tokens that are remembered, None for all; ``reuse``: of a segment the first alone.
        remembers: Whether memories come out by default, in evaluation and in training.
    """

    def __init__(
        self, layers: Iterable[Layer], words: int, width: int, *, dropout: float, clamp: int,
        sees: Callable[[int], Band], both_ways: bool, memory: int | None, reuse: int | None,
        remembers: tuple[bool, bool],
    ) -> None:  # fmt: skip
        super().__init__()
        self.width, self.clamp, self.sees, self.both_ways = width, clamp, sees, both_ways
        self.memory, self.reuse, self.remembers = memory, reuse, remembers
        self.words = nn.Embedding(words, width)
        self.unknown = nn.Parameter(torch.empty(1, 1, width))
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mems: Any = None,
        perm_mask: Tensor | None = None,
        target_mapping: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        input_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_mems: bool | None = None,
        *,
        ranks: Tensor | None = None,
        split: int = 0,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> States:
        """A segment ``(B, S)`` after memories, if there are any; ``input_mask`` is 1 where ``attention_mask`` is
        0. With ``target_mapping`` the states are those of its rows ``(B, P)``."""
        order = Order(perm_mask, target_mapping, ranks, split)
        mask = _mask(attention_mask, input_mask)
        packs = mems is None and not order.given and not self.both_ways
        where = inputs_layout(input_ids, inputs_embeds, mask, lengths, offsets, packs_up_to=math.inf if packs else 0)
        where = _closed(where) if packs else where
        if offsets is not None and not packs:
            raise ValueError("offsets: texts without mems, perm_mask, target_mapping, ranks and bi_data are allowed")
        order.check(*where.shape)
        memories = check_memories(mems, len(self.layers), where, self.width)
        if use_mems is None:
            use_mems = self.remembers[self.training] and offsets is None
        elif use_mems and offsets is not None:
            raise ValueError("use_mems: without offsets True is allowed: packed texts have no memories in common")
        if self.sees(0) != dense and ranks is not None:
            raise ValueError('ranks: allowed where attn_type is "bi"')
        x = self.dropout(look_up(self.words, where, input_ids, inputs_embeds)[1])
        call = _Call(where, x, memories, order, _segments(token_type_ids, where), use_mems, output_hidden_states)
        if not self.both_ways:
            return self._read(call, 1)
        batch = where.shape[0]
        if batch % 2:
            raise ValueError(f"bi_data: an even batch is allowed, half of it is read backwards, got {batch}")
        halves = slice(batch // 2), slice(batch // 2, batch)
        after = where if target_mapping is None else Whole(batch, target_mapping.shape[1], x.device)
        return _joined(after, [self._read(call.rows(rows), way) for rows, way in zip(halves, (1, -1), strict=True)])

    def _read(self, call: _Call, way: int) -> States:
        """One way: distances count in direction ``way``."""
        sight = self._sight(call, way)
        mapping = call.order.target_mapping
        h, g = call.x, None
        if mapping is not None:
            g = self.dropout(self.unknown.expand(len(mapping), mapping.shape[1], -1))
        after = call.layout if mapping is None else Whole(mapping.shape[0], mapping.shape[1], h.device)
        hidden: list[Tensor] = []
        new: list[Tensor] = []

        def keep() -> None:
            hidden.extend([call.layout.unpack(h)] + ([] if g is None else [g]))

        for i, layer in enumerate(self.layers):
            memory = None if call.memories is None else call.memories[i]
            if call.use_mems:
                new.append(remember(call.layout.unpack(h)[:, : self.reuse], memory, self.memory))
            if call.keep:
                keep()
            h, g = layer(h, g, sight, memory, ends=i == len(self.layers) - 1 and not call.keep)
        if call.keep:
            keep()
        last = self.dropout(h if g is None else g)
        states = tuple(hidden) if call.keep else None
        return States(last, after, self.words.weight, states, mems=tuple(new) if call.use_mems else None)

    def _sight(self, call: _Call, way: int) -> Sight:
        where, order, size = call.layout, call.order, call.layout.longest
        before = 0 if call.memories is None else call.memories[0].shape[0]
        steps = self._steps(size, before + size, call.x, way=way)
        real = None
        if isinstance(where, (Masked, Ragged)):
            real = nn.functional.pad(where.real, (before, 0), value=True)
            where = Whole(where.shape[0], where.shape[1], where.device)
        content, query = order.streams(where, before, self.sees(before))
        ids, segments = call.segments or (None, 0)
        features = None
        if ids is not None and segments > 1:
            targets = None if order.target_mapping is None else ids.gather(1, places_of(order.target_mapping))
            features = nn.functional.pad(ids, (before, 0)), ids, targets, segments
        return Sight(content, query, steps, real, features)

    def _steps(self, queries: int, keys: int, x: Tensor, *, way: int = 1, ahead: int = 0) -> Tensor:
        steps = encodings(queries, keys, self.width, clamp=self.clamp, device=x.device, ahead=ahead, way=way)
        return self.dropout(steps.to(x.dtype))

    def prepare(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, mems: Any = None,
        *, lengths: Tensor | None = None, room: Callable[[int], int],
    ) -> Read:  # fmt: skip
        """Read a prompt ``(B, P)``, padded on any side, after ``mems``; see :class:`writing.Writer`.

        As in transformers, the words so far see one another both ways, and the last one is read again
        with the next, so that it sees it too; what was before stays as it is.
        """
        ids, real, given = _at_the_end(input_ids, attention_mask, lengths)
        room(input_ids.shape[1])
        where = Whole(ids.shape[0], ids.shape[1], ids.device)
        memories = check_memories(mems, len(self.layers), where, self.width)
        before = 0 if memories is None else memories[0].shape[0]
        kept = None if self.memory is None else max(self.memory - 2, 0)
        caches = Open((Sliding(kept) for _ in self.layers), torch.full((len(ids),), ids.shape[1], device=ids.device))
        caches.padded = real is not None
        keys = None if real is None else nn.functional.pad(real, (before, 0), value=True)
        return Read(self._write(ids, caches, memories, keys), caches, input_ids, given)

    def step(self, ids: Tensor, caches: Caches) -> States:
        """The states in which the words behind ``ids (B, 1)`` are predicted; ``ids`` follow those in ``caches``."""
        if ids.shape[1] != 1:
            raise ValueError(f"ids: one word at a time is allowed, got {ids.shape[1]}")
        caches = cast(Open, caches)
        both = torch.cat([caches.word, ids], 1)
        real = torch.ones(both.shape, dtype=torch.bool, device=ids.device) if caches.padded else None
        caches.lengths = caches.lengths + 1
        return self._write(both, caches, None, real)

    def _write(self, ids: Tensor, caches: Open, memories: Memories | None, real: Tensor | None) -> States:
        caches.word = ids[:, -1:]
        h = look_up(self.words, Whole(ids.shape[0], ids.shape[1], ids.device), ids, None)[1]
        g: Tensor | None = self.unknown.expand(len(ids), 1, -1)
        size = ids.shape[1]
        before = len(cast(Sliding, caches.layers[0])) + (0 if memories is None else memories[0].shape[0])
        seen = self.sees(before)
        content = InOrder(Whole(len(ids), size, ids.device), seen)
        # The place of the next word is behind all keys.
        one, seen = Whole(len(ids), 1, ids.device), Band(seen.left - 1 if seen.left < INF else INF)
        query = InOrder(one, seen, self._steps(1, before + size, h, ahead=1))
        sight = Sight(content, query, self._steps(size, before + size, h), real, kept=size - 1)
        for i, (layer, cache) in enumerate(zip(self.layers, caches, strict=True)):
            h, g = layer(h, g, sight, None if memories is None else memories[i], cast(Sliding, cache))
        return States(cast(Tensor, g), one, self.words.weight)


@dataclass
class _Call:
    """The inputs of a segment."""

    layout: Whole
    x: Tensor
    memories: Memories | None
    order: Order
    segments: tuple[Tensor, int] | None
    use_mems: bool
    keep: bool

    def rows(self, rows: slice) -> _Call:
        """Of some rows of the batch."""
        where = self.layout
        real: Tensor | None = getattr(where, "real", None)
        x = self.x[rows]
        return replace(
            self,
            layout=Whole(x.shape[0], x.shape[1], x.device) if real is None else Masked(real[rows]),
            x=x,
            memories=None if self.memories is None else tuple(y[:, rows] for y in self.memories),
            order=self.order.rows(rows),
            segments=None if self.segments is None else (self.segments[0][rows], self.segments[1]),
        )


def _joined(where: Whole, parts: list[States]) -> States:
    """The halves of a batch as one."""
    hidden, mems = [part.hidden_states for part in parts], [part.mems for part in parts]
    return States(
        torch.cat([part.last for part in parts]),
        where,
        parts[0].words,
        None if hidden[0] is None else tuple(torch.cat(xs) for xs in zip(*cast(Any, hidden), strict=True)),
        mems=None if mems[0] is None else tuple(torch.cat(xs, 1) for xs in zip(*cast(Any, mems), strict=True)),
    )


def _mask(attention_mask: Tensor | None, input_mask: Tensor | None) -> Tensor | None:
    if input_mask is None:
        return attention_mask
    if attention_mask is not None:
        raise ValueError("attention_mask, input_mask: one of them is allowed, got both")
    return 1 - input_mask


def _closed(where: Whole) -> Whole:
    """Padding on both sides of a text can be dropped as well: only distances within it count."""
    if type(where) is not Masked or torch.compiler.is_compiling():
        return where
    starts = nn.functional.pad(where.real.int(), (1, 0)).diff(dim=1) > 0
    return Unpadded(where.real) if bool((starts.sum(1) == 1).all()) else where


def _segments(token_type_ids: Tensor | None, where: Whole) -> tuple[Tensor, int] | None:
    """Segments of the layout's tokens, and how many there are."""
    ids = token_type_ids
    if ids is None:
        return None
    if ids.is_floating_point() or tuple(ids.shape) not in (tuple(where.shape), (1, where.shape[1])):
        raise ValueError(
            f"token_type_ids: integers of shape {where.shape} are allowed, got {ids.dtype}, {tuple(ids.shape)}"
        )
    ids = where.pack(ids.expand(where.shape))
    if torch.compiler.is_compiling():
        return ids, SEGMENTS
    if int(ids.min()) < 0 or int(ids.max()) >= SEGMENTS:
        raise ValueError(f"token_type_ids: 0 to {SEGMENTS - 1} are allowed, got {int(ids.min())} to {int(ids.max())}")
    return ids, int(ids.max()) + 1


def _at_the_end(
    ids: Tensor, mask: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Real tokens at each row's end, which ones they are there, and which they were; Nones if all are."""
    together_, counts, real = together(ids, mask, lengths)
    if counts is None or real is None:
        return ids, None, None
    size = together_.shape[1]
    index = torch.arange(size, device=ids.device) - (size - counts[:, None])
    return together_.gather(1, index % size), index >= 0, real
