"""From token ids to the first hidden states."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layouts import Whole
from .padding import layout


@dataclass(frozen=True)
class InOrder:
    """A token's position is its place in the sequence, from 0."""

    first = 0
    padding = None

    def __call__(self, layout: Whole, ids: Tensor | None) -> Tensor:
        return layout.positions()


@dataclass(frozen=True)
class From:
    """The same from ``first`` on (BART: fairseq's table of positions begins with two that are not used)."""

    first: int
    padding = None

    def __call__(self, layout: Whole, ids: Tensor | None) -> Tensor:
        return layout.positions() + self.first


@dataclass(frozen=True)
class AfterPadding:
    """Positions count the tokens other than ``padding``, from ``padding + 1``; paddings stand at
    ``padding`` (RoBERTa: Liu et al. 2019, arXiv:1907.11692; fairseq, ``make_positions``). Of
    embeddings without ids none is taken for padding."""

    padding: int

    @property
    def first(self) -> int:
        return self.padding + 1

    def __call__(self, layout: Whole, ids: Tensor | None) -> Tensor:
        if ids is None:
            return layout.positions() + self.first
        words = ids != self.padding
        return layout.count(words) * words + self.padding


class Embeddings(nn.Module):
    """``dropout(norm(word + type + position))`` (Devlin et al. 2019, arXiv:1810.04805, figure 2).

    Args:
        words, positions, types: Sizes of the three tables; without types there is no such table.
            For words also the table itself, which several may share.
        eps: Of the norm; None for no norm.
        padding: Id of the padding token; its row starts at 0 and gets no gradient here.
        numbering: Where a token stands, if the caller does not say it.
        scale: Factor of the words.
        norm_last: ``norm(dropout(...))`` instead.
        of: What errors put before the names of arguments.
    """

    def __init__(
        self,
        words: int | nn.Embedding,
        positions: int,
        types: int,
        width: int,
        *,
        eps: float | None,
        dropout: float,
        padding: int | None,
        numbering: InOrder | From | AfterPadding = InOrder(),
        scale: float = 1.0,
        norm_last: bool = False,
        of: str = "",
    ) -> None:
        super().__init__()
        self.numbering, self.scale, self.norm_last, self.of = numbering, scale, norm_last, of
        self.words = nn.Embedding(words, width, padding_idx=padding) if isinstance(words, int) else words
        self.positions = nn.Embedding(positions, width, padding_idx=numbering.padding)
        self.types = nn.Embedding(types, width) if types else None
        self.norm = nn.Identity() if eps is None else nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    @property
    def longest(self) -> int:
        """Tokens in the longest sequence for which there are positions."""
        return self.positions.num_embeddings - self.numbering.first

    def forward(
        self,
        layout: Whole,
        input_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of the layout's tokens.

        ``input_ids``, ``token_type_ids`` and ``position_ids`` are ``(B, S)`` or broadcast to
        it; types default to 0, positions to the place in the sequence. ``inputs_embeds
        (B, S, width)`` stands for the looked-up words.
        """
        ids, words = look_up(self.words, layout, input_ids, inputs_embeds, self.of)
        words = words if self.scale == 1 else words * self.scale
        x = self._typed(words, token_type_ids, layout) + self.positions(self._positions(position_ids, layout, ids))
        return self.norm(self.dropout(x)) if self.norm_last else self.dropout(self.norm(x))

    def _typed(self, words: Tensor, token_type_ids: Tensor | None, layout: Whole) -> Tensor:
        if self.types is None:
            if token_type_ids is not None:
                raise ValueError("token_type_ids: None is allowed: the model knows no segments")
            return words
        if token_type_ids is None:
            return words + self.types.weight[0]
        return words + self.types(ids_of("token_type_ids", token_type_ids, layout, self.types))

    def _positions(self, position_ids: Tensor | None, layout: Whole, ids: Tensor | None) -> Tensor:
        if position_ids is not None:
            return ids_of("position_ids", position_ids, layout, self.positions)
        if layout.longest > self.longest:
            raise ValueError(
                f"{self.of}input_ids: at most {self.longest} tokens (max_position_embeddings) in a sequence "
                f"are allowed, got {layout.longest}"
            )
        return self.numbering(layout, ids)


class Words(nn.Module):
    """``dropout(word)``, where positions are told otherwise (T5)."""

    longest = math.inf

    def __init__(self, words: nn.Embedding, *, dropout: float, of: str = "") -> None:
        super().__init__()
        self.words, self.of = words, of
        self.dropout = nn.Dropout(dropout)

    def forward(self, layout: Whole, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None) -> Tensor:
        return self.dropout(look_up(self.words, layout, input_ids, inputs_embeds, self.of)[1])


def look_up(
    table: nn.Embedding, layout: Whole, input_ids: Tensor | None, inputs_embeds: Tensor | None, of: str = ""
) -> tuple[Tensor | None, Tensor]:
    """The layout's tokens, if they are given by id, and their words."""
    if inputs_embeds is None:
        ids = ids_of(f"{of}input_ids", input_ids, layout, table)
        return ids, table(ids)
    if inputs_embeds.shape[-1] != table.embedding_dim:
        wanted = (*layout.shape, table.embedding_dim)
        raise ValueError(f"{of}inputs_embeds: shape {wanted} is allowed, got {tuple(inputs_embeds.shape)}")
    return None, layout.pack(inputs_embeds)


class Unnormed(Embeddings):
    """``dropout(word + position)``; the types, if any, are words (Radford et al. 2018, "Improving
    Language Understanding by Generative Pre-Training", section 3.1, and transformers)."""

    def __init__(self, words: int, positions: int, width: int, *, dropout: float) -> None:
        super().__init__(words, positions, 0, width, eps=None, dropout=dropout, padding=None)

    def _typed(self, words: Tensor, token_type_ids: Tensor | None, layout: Whole) -> Tensor:
        return (
            words
            if token_type_ids is None
            else words + self.words(ids_of("token_type_ids", token_type_ids, layout, self.words))
        )


def ids_of(name: str, ids: Tensor | None, layout: Whole, table: nn.Embedding) -> Tensor:
    """Ids ``(B, S)`` of rows of a table, or such as broadcast, as those of the layout's tokens.

    Raises:
        ValueError: Naming the argument, for ids of another shape or dtype, or that the table does not have.
    """
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        given = f"dtype {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"{name}: an integer tensor is allowed, got {given}")
    if ids.dim() > 2 or any(n not in (1, m) for n, m in zip(ids.shape[::-1], layout.shape[::-1], strict=False)):
        raise ValueError(f"{name}: shape {layout.shape} is allowed, got {tuple(ids.shape)}")
    # A GPU checks ids itself; to look at them here would wait for it.
    look = ids.device.type == "cpu" and ids.numel() > 0 and not torch.compiler.is_compiling()
    if look and (int(ids.min()) < 0 or int(ids.max()) >= table.num_embeddings):
        allowed = f"ids from 0 to {table.num_embeddings - 1}"
        raise ValueError(f"{name}: {allowed} are allowed, got {int(ids.min())} to {int(ids.max())}")
    return layout.pack(ids.expand(layout.shape))


def inputs_layout(
    input_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    attention_mask: Tensor | None,
    lengths: Tensor | None,
    offsets: Tensor | None,
    *,
    packs_up_to: float = float("inf"),
    of: str = "",
) -> Whole:
    """The layout of a model's arguments, in which ``input_ids (B, S)`` or ``inputs_embeds
    (B, S, width)`` gives the shape; of longer batches the padding stays where it is. ``of`` is what
    errors put before the names of both."""
    names = f"{of}input_ids, {of}inputs_embeds"
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError(f"{names}: one of them is allowed, got {'none' if input_ids is None else 'both'}")
    x: Tensor = input_ids if inputs_embeds is None else inputs_embeds  # type: ignore[assignment]
    if x.dim() != (2 if inputs_embeds is None else 3) or x.shape[1] == 0:
        raise ValueError(f"{names}: shape (B, S) or (B, S, width), S at least 1, is allowed, got {tuple(x.shape)}")
    batch, size = x.shape[:2]
    return layout(batch, size, x.device, attention_mask, lengths, offsets, packs=size <= packs_up_to)
