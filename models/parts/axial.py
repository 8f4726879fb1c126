"""Embeddings whose positions stand on a grid (Kitaev et al. 2020, arXiv:2001.04451; google/trax,
``AxialPositionalEncoding``)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Grid(nn.Module):
    """Position i stands in row ``i // columns`` and column ``i % columns`` of a grid, and has the
    embeddings of both side by side. Dropout takes whole columns.

    Args:
        shape: Rows and columns.
        widths: Of the embeddings of both.

    Example:
        >>> Grid((3, 4), (2, 6), std=1.0, dropout=0.0)(1, 10, None).shape
        torch.Size([1, 10, 8])
    """

    def __init__(self, shape: tuple[int, ...], widths: tuple[int, ...], *, std: float, dropout: float) -> None:
        super().__init__()
        rows, columns = shape
        self.columns, self.longest, self.dropout = columns, rows * columns, dropout
        self.of_rows = nn.Parameter(std * torch.randn(rows, 1, widths[0]))
        self.of_columns = nn.Parameter(std * torch.randn(1, columns, widths[1]))

    def forward(self, batch: int, size: int, places: Tensor | None) -> Tensor:
        """``(B or 1, S, width)``; ``places`` are ``(B, S)``, or None for 0 to S - 1."""
        rows = -(-size // self.columns) if places is None else self.longest // self.columns
        of_rows = self.of_rows[:rows].expand(-1, self.columns, -1)
        grid = torch.cat([of_rows, self.of_columns.expand(rows, -1, -1)], -1)[None]
        if self.training and self.dropout > 0:
            grid = grid * F.dropout(grid.new_ones(batch, 1, self.columns, 1), self.dropout)
        grid = grid.flatten(1, 2)
        if places is None:
            return grid[:, :size]
        return grid.expand(batch, -1, -1).gather(1, places[..., None].expand(-1, -1, grid.shape[2]))


class Table(nn.Module):
    """An embedding for each position, called as a :class:`Grid`."""

    def __init__(self, positions: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.longest = positions
        self.embedding = nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: int, size: int, places: Tensor | None) -> Tensor:
        if places is None:
            places = torch.arange(size, device=self.embedding.weight.device).expand(batch, size)
        return self.dropout(self.embedding(places))


class Embeddings(nn.Module):
    """``dropout(word) + position``."""

    def __init__(self, words: int, width: int, positions: Grid | Table, *, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.positions = positions
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, places: Tensor | None) -> Tensor:
        x = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        batch, size, _ = x.shape
        if size > self.positions.longest:
            raise ValueError(f"input_ids: at most {self.positions.longest} tokens are allowed, got {size}")
        if places is not None:
            places = places.expand(batch, size)
        return self.dropout(x) + self.positions(batch, size, places)
