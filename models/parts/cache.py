"""Keys and values that a decoder keeps, so that a new token is all it has to read.

Decoding needs no other layers than training does. A layer asks its layout for attention
(:mod:`layouts`); here are two layouts that put a cache in between: :class:`Reading`, while a
prompt is read, and :class:`Writing`, when words follow one another (:class:`Asking`, with one that
is not to stay). What the cache keeps is
its own affair: all (:class:`Growing`), or the last ones (:class:`Ring`). A new kind is a class
with ``append``, ``lengths`` and ``reorder``. (What an encoder gave once and for all is
:class:`crossing.Texts`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ...patterns import INF, Band
from .layouts import Whole

Pair = tuple[Tensor, Tensor]


class Cache(Protocol):
    """Of one layer.

    Attributes:
        lengths: ``(B,)`` how many of the keys that ``append`` gave last are real, from the first
            on; None if all are.
    """

    lengths: Tensor | None

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Pair:
        """Keys and values ``(B, H, S, D)`` of new tokens, the first ``lengths (B,)`` of each row
        being real -> those that the new tokens may see, their own at the end."""

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row ``rows[b]`` was; there may be more or fewer rows than before."""


class Growing:
    """All keys and values, in memory that holds ``room`` tokens, then twice as many and so on.

    Example:
        >>> cache = Growing()
        >>> k = torch.arange(6.0).view(2, 1, 3, 1)
        >>> _ = cache.append(k, k, torch.tensor([3, 1]))  # two prompts, of 3 tokens and of 1
        >>> keys, _ = cache.append(k[:, :, :1] + 9, k[:, :, :1] + 9)
        >>> cache.lengths.tolist(), keys[1, 0, :2, 0].tolist()
        ([4, 2], [3.0, 12.0])
    """

    def __init__(self, room: int = 0) -> None:
        self.lengths: Tensor | None = None
        self.room, self.size = room, 0  # the longest row has at most `size` tokens

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Pair:
        start, self.size = self.size, self.size + k.shape[2]
        if start == 0:
            self.k, self.v = (_roomy(x, max(self.room, self.size)) for x in (k, v))
        elif self.size > self.k.shape[2]:
            self.k, self.v = (_roomy(x[:, :, :start], 2 * self.size) for x in (self.k, self.v))
        before = self.lengths
        if before is None:
            self.k[:, :, start : self.size] = k
            self.v[:, :, start : self.size] = v
            self.lengths = None if lengths is None else start + lengths
        else:
            places = before[:, None] + torch.arange(k.shape[2], device=k.device)
            _put(self.k, places, k)
            _put(self.v, places, v)
            self.lengths = before + (k.shape[2] if lengths is None else lengths)
        return self.k[:, :, : self.size], self.v[:, :, : self.size]

    def forget(self, count: int) -> None:
        """The last tokens of each row, whose places the next ones take."""
        self.size -= count
        self.lengths = None if self.lengths is None else self.lengths - count

    def reorder(self, rows: Tensor) -> None:
        self.k, self.v = (_picked(x, rows, self.size) for x in (self.k, self.v))
        self.lengths = None if self.lengths is None else self.lengths[rows]


class Ring:
    """The last ``window`` keys and values, of a layer that sees no more: a new token takes the
    oldest one's place. Their order is not kept, which softmax does not mind; a bias by distance
    would.

    Example:
        >>> cache = Ring(2)
        >>> for i in range(4):
        ...     keys, _ = cache.append(torch.full((1, 1, 1, 1), i), torch.zeros(1, 1, 1, 1))
        >>> keys.flatten().tolist()
        [2, 3]
    """

    def __init__(self, window: int) -> None:
        self.lengths: Tensor | None = None
        self.window = window
        self.size = 0  # as in Growing; `counts (B,)` are the rows' own, None if they are alike
        self.counts: Tensor | None = None

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> Pair:
        if self.size == 0:
            self.k, self.v = (x.new_zeros(*x.shape[:2], self.window, x.shape[3]) for x in (k, v))
        if k.shape[2] == 1 and lengths is None:
            return self._one(k, v)
        new = self._counted(k.shape[2], k, lengths)
        before = self._counted(self.size, k, self.counts)
        seen = self._seen(k, v, before)
        # Of a row's new tokens the last `window` stay.
        index = torch.arange(k.shape[2], device=k.device)
        stays = (index < new[:, None]) & (index >= new[:, None] - self.window)
        places = ((before[:, None] + index) % self.window).where(stays, self.window)
        self.k, self.v = (_kept(x, places, y) for x, y in ((self.k, k), (self.v, v)))
        alike = lengths is None and self.counts is None
        self.size += k.shape[2]
        self.counts = None if alike else before + new
        self.lengths = None if alike else before.clamp(max=self.window) + new
        return seen

    def _one(self, k: Tensor, v: Tensor) -> Pair:
        if self.counts is None:
            place = self.size % self.window
            self.k[:, :, place : place + 1] = k
            self.v[:, :, place : place + 1] = v
        else:
            places = (self.counts % self.window)[:, None]
            _put(self.k, places, k)
            _put(self.v, places, v)
            self.counts = self.counts + 1
        self.size += 1
        self.lengths = None if self.counts is None else self.counts.clamp(max=self.window)
        held = min(self.size, self.window)
        return self.k[:, :, :held], self.v[:, :, :held]

    def _seen(self, k: Tensor, v: Tensor, before: Tensor) -> Pair:
        """What is kept, in its order, with the new tokens behind: those of each row without a gap."""
        held = before.clamp(max=self.window)[:, None]
        index = torch.arange(min(self.size, self.window) + k.shape[2], device=k.device)
        old = (before[:, None] - held + index) % self.window
        places = old.where(index < held, (self.window + index - held).clamp(max=self.window + k.shape[2] - 1))
        both = (torch.cat(pair, 2) for pair in ((self.k, k), (self.v, v)))
        return tuple(_gathered(x, places) for x in both)  # type: ignore[return-value]

    @staticmethod
    def _counted(size: int, like: Tensor, counts: Tensor | None) -> Tensor:
        return torch.full((like.shape[0],), size, device=like.device) if counts is None else counts

    def reorder(self, rows: Tensor) -> None:
        self.k, self.v = self.k[rows], self.v[rows]
        self.counts = None if self.counts is None else self.counts[rows]
        self.lengths = None if self.lengths is None else self.lengths[rows]


def cache_of(pattern: Band, room: int) -> Growing | Ring:
    """The cache of a layer whose tokens look back as ``pattern`` says.

    Args:
        room: Tokens that there will be, for which memory is taken at once; without a bias by
            distance, of a layer with a narrower window that much alone.

    Example:
        >>> from pkernels import causal, window
        >>> type(cache_of(causal, 8)).__name__, cache_of(window(2, 0), 8).window
        ('Growing', 3)
    """
    if pattern.right != 0 or pattern.rows:
        raise ValueError(f"pattern: words follow one another where none sees later ones (right = 0), got {pattern!r}")
    window = pattern.left + 1
    others = isinstance(pattern.columns, Tensor) or pattern.columns > 0 or pattern.dilation > 1
    return Growing(room) if others or pattern.left >= INF or 0 < room <= window else Ring(window)


class Caches:
    """Of all layers of a model, and how far its rows have come.

    Args:
        layers: A cache for each layer, or whatever a layer needs that has ``reorder``.
        lengths: ``(B,)`` tokens of each row so far: the position of the next one.
    """

    def __init__(self, layers: Iterable[Cache], lengths: Tensor) -> None:
        self.layers, self.lengths = list(layers), lengths

    def __iter__(self) -> Iterator[Cache]:
        return iter(self.layers)

    def through(
        self, layers: Iterable[Callable[..., Tensor]], x: Tensor, where: Callable[[Any], Whole], *context: Any
    ) -> Tensor:
        """``x`` after all layers, each with the layout that ``where`` makes of its cache, and the ``context``."""
        for layer, cache in zip(layers, self, strict=True):
            x = layer(x, where(cache), *context)
        return x

    def reorder(self, rows: Tensor) -> None:
        """Row b becomes what row ``rows[b]`` was."""
        self.lengths = self.lengths[rows]
        for layer in self.layers:
            layer.reorder(rows)


class Reading(Whole):
    """A layer's layout while the prompt is read: attention is ``layout``'s, and ``cache``, which is
    empty, keeps the keys and values."""

    def __init__(self, layout: Whole, lengths: Tensor | None, cache: Cache) -> None:
        super().__init__(layout.shape[0], layout.shape[1], layout.device)
        self.layout, self.lengths, self.cache = layout, lengths, cache

    def attend(self, q: Tensor, k: Tensor, v: Tensor, *how: Any, **named: Any) -> Tensor:
        rows = [self.layout.unpack(x.transpose(1, 2)).transpose(1, 2) for x in (k, v)]
        self.cache.append(rows[0], rows[1], self.lengths)
        return self.layout.attend(q, k, v, *how, **named)


class Writing(Whole):
    """A layer's layout for tokens ``(B, S)`` that follow those in ``cache``, and see them."""

    def __init__(self, batch: int, size: int, device: torch.device, cache: Cache) -> None:
        super().__init__(batch, size, device)
        self.cache = cache

    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        k, v = self.cache.append(k, v)
        return k, v, {"lengths": None if self.cache.lengths is None else (None, self.cache.lengths)}


class Asking(Writing):
    """The same of tokens of which the last is forgotten again, so ``cache`` is a :class:`Growing`."""

    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        found = super().seen(k, v)
        cast(Growing, self.cache).forget(1)
        return found


def _roomy(x: Tensor, room: int) -> Tensor:
    """``x (B, H, S, D)`` at the start of memory for ``room`` tokens. What is not real is 0, for a
    kernel may multiply it by 0."""
    out = x.new_zeros(*x.shape[:2], room, x.shape[3])
    out[:, :, : x.shape[2]] = x
    return out


def _put(x: Tensor, places: Tensor, new: Tensor) -> None:
    """``new (B, H, S, D)`` to the places ``(B, S)`` of each row."""
    x.scatter_(2, places[:, None, :, None].expand(new.shape), new)


def _kept(x: Tensor, places: Tensor, new: Tensor) -> Tensor:
    """The same, where the place behind the last one keeps nothing."""
    out = torch.cat([x, x[:, :, :1]], 2)
    _put(out, places, new)
    return out[:, :, :-1].contiguous()


def _gathered(x: Tensor, places: Tensor) -> Tensor:
    index = places[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, index)


def _picked(x: Tensor, rows: Tensor, size: int) -> Tensor:
    """``x[rows]``, of which only ``size`` tokens are worth a copy."""
    some = x[:, :, :size][rows]
    if len(rows) != len(x):
        return _roomy(some, x.shape[2])
    x[:, :, :size] = some
    return x
