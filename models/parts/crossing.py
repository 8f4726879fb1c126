"""Attention of one text to another: a decoder's tokens look at the encoder's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ...attention import attention
from ...patterns import dense
from .attention import join_heads, split_heads
from .embeddings import inputs_layout
from .layouts import Masked, Packed, Ragged, Unpadded, Whole
from .linear import Linear

Pair = tuple[Tensor, Tensor]


class Joined(Packed):
    """Every token of the ``(B, S)`` batch is real, and its rows lie in one, beside another text that
    is packed."""

    def __init__(self, batch: int, size: int, device: torch.device) -> None:
        super().__init__(torch.arange(batch + 1, device=device) * size, batch * size)
        self.shape = (batch, size)

    def pack(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)[None]

    def unpack(self, x: Tensor, fill: float = 0.0) -> Tensor:
        return x[0].unflatten(0, self.shape)

    def labels(self, labels: Tensor) -> Tensor:
        return self.pack(labels)


def layouts_of(source: tuple[Any, ...], target: tuple[Any, ...]) -> tuple[Whole, Whole]:
    """The layouts of an encoder's and a decoder's arguments of :func:`inputs_layout`.

    Where padding is on the right of both, both are packed; elsewhere both lie as they came.
    """
    both = (inputs_layout(*source, packs_up_to=0), inputs_layout(*target, packs_up_to=0, of="decoder_"))
    packed = [isinstance(layout, Packed) for layout in both]
    sizes = [len(x.offsets) - 1 if isinstance(x, Packed) else x.shape[0] for x in both]
    if any(packed) and not all(packed):
        raise ValueError("offsets, decoder_offsets: both or none of them is allowed, got one")
    if sizes[0] != sizes[1]:
        what = "decoder_offsets: as many texts" if all(packed) else "decoder_input_ids: as many rows"
        raise ValueError(f"{what} as the encoder's ({sizes[0]}) are allowed, got {sizes[1]}")
    padded = any(isinstance(layout, Ragged) for layout in both)
    if torch.compiler.is_compiling() or not padded or any(isinstance(layout, Masked) for layout in both):
        return both
    return _joined(both[0]), _joined(both[1])


def _joined(layout: Whole) -> Packed:
    if isinstance(layout, Ragged):
        return Unpadded(layout.real)
    return Joined(*layout.shape, layout.device)


def crossed(
    q: Tensor, k: Tensor, v: Tensor, queries: Whole, keys: Whole, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """:func:`pkernels.attention` of tokens to another text's, as two layouts have them, both packed or none.

    Example:
        >>> q, k = torch.randn(2, 1, 3, 8), torch.randn(2, 1, 5, 8)
        >>> two, three = (Whole(2, size, q.device) for size in (3, 5))
        >>> crossed(q, k, k, two, three).shape
        torch.Size([2, 1, 3, 8])
    """
    bias = keys.bias if isinstance(keys, Masked) else None
    lengths = (None, keys.lengths) if isinstance(keys, Ragged) else None
    offsets = (cast(Packed, queries).offsets, keys.offsets) if isinstance(keys, Packed) else None
    out = attention(q, k, v, dense, bias, scale=scale, lengths=lengths, offsets=offsets, dropout=dropout)
    return cast(Tensor, out)


class Looked(Protocol):
    """What is looked at."""

    def attend(
        self, q: Tensor, project: Callable[[Tensor], Pair], queries: Whole, dropout: float, scale: float | None
    ) -> Tensor:
        """From queries ``(B, H, T, D)``, and what makes keys and values out of states, to values."""


@dataclass
class Memory:
    """Hidden states ``(1 or B, n, width)`` of an encoder, as ``layout`` has them."""

    states: Tensor
    layout: Whole

    def attend(
        self, q: Tensor, project: Callable[[Tensor], Pair], queries: Whole, dropout: float, scale: float | None
    ) -> Tensor:
        return crossed(q, *project(self.states), queries, self.layout, dropout=dropout, scale=scale)


class CrossAttention(nn.Module):
    """Multi-head attention of one text's tokens to another's (Vaswani et al. 2017, section 3.2.3,
    "encoder-decoder attention"); arguments as :class:`SelfAttention` has them.

    Example:
        >>> x, y = torch.randn(2, 5, 12), torch.randn(2, 9, 12)
        >>> memory = Memory(y, Whole(2, 9, y.device))
        >>> CrossAttention(12, heads=3)(x, Whole(2, 5, x.device), memory).shape
        torch.Size([2, 5, 12])
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        head: int | None = None,
        scale: float | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.scale = heads, dropout, scale
        inner = width if head is None else heads * head
        self.q = Linear(width, inner, bias=bias)
        self.kv = Linear(width, 2 * inner, bias=bias)
        self.out = Linear(inner, width, bias=bias)

    def pair(self, states: Tensor) -> Pair:
        """Keys and values of another text's states."""
        return cast(Pair, split_heads(self.kv(states), 2, self.heads))

    def forward(self, x: Tensor, layout: Whole, memory: Looked) -> Tensor:
        (q,) = split_heads(self.q(x), 1, self.heads)
        mixed = memory.attend(q, self.pair, layout, self.dropout if self.training else 0.0, self.scale)
        return self.out(join_heads(mixed))


class Texts:
    """The encoder's texts while a decoder writes: keys and values of all its layers, made once.

    Several rows may write about one text (beams): as long as these stand beside one another, as many
    of each, they are queries of that text, and no key is copied.

    Args:
        pairs: Of each layer, ``(B, H, S, D)``.
        layout: Which of the keys are real; not packed.
    """

    def __init__(self, pairs: Sequence[Pair], layout: Whole) -> None:
        self.pairs, self.layout = list(pairs), layout
        self.rows = torch.arange(layout.shape[0], device=layout.device)  # the text of each row

    def reorder(self, rows: Tensor) -> None:
        """Row b writes about what row ``rows[b]`` wrote about."""
        texts, rows = self.layout.shape[0], self.rows[rows]
        beside = torch.arange(texts, device=rows.device).repeat_interleave(len(rows) // texts)
        if torch.equal(rows, beside):
            self.rows = rows
            return
        self.pairs = [(k[rows], v[rows]) for k, v in self.pairs]
        self.layout = _picked(self.layout, rows)
        self.rows = torch.arange(len(rows), device=rows.device)

    def __getitem__(self, layer: int) -> Kept:
        return Kept(self, layer)


@dataclass(frozen=True)
class Kept:
    """Those of one layer."""

    texts: Texts
    layer: int

    def attend(
        self, q: Tensor, project: Callable[[Tensor], Pair], queries: Whole, dropout: float, scale: float | None
    ) -> Tensor:
        layout, rows = self.texts.layout, len(q)
        beams = (layout.shape[0], rows // layout.shape[0])
        q = q.unflatten(0, beams).transpose(1, 2)  # (texts, H, beams, T, D)
        mixed = crossed(q.flatten(2, 3), *self.texts.pairs[self.layer], queries, layout, dropout=dropout, scale=scale)
        return mixed.unflatten(2, (beams[1], -1)).transpose(1, 2).flatten(0, 1)


def _picked(layout: Whole, rows: Tensor) -> Whole:
    if isinstance(layout, Ragged):
        return Ragged(layout.lengths[rows], layout.shape[1])
    if isinstance(layout, Masked):
        return Masked(layout.real[rows])
    return Whole(len(rows), layout.shape[1], layout.device)
