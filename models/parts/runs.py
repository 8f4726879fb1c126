"""Padding on the left beside a position bias."""

from __future__ import annotations

import torch
from torch import Tensor

from ...attention import attention
from ...bias import Distance
from ...blocks import Blocks
from ...patterns import Band
from .layouts import Bias, Masked, Whole


class Runs(Masked):
    """Each row's real tokens stand together, anywhere in it. Attention packs them, so that a position
    bias, which is all that the kernel adds, needs no mask beside it.

    Distances are the same in the packed row; a pattern's ``columns`` count from the row's first
    place, padding included, and are counted from the first real token here. That is also the one which
    stands for its row ([CLS]).

    Example:
        >>> real = torch.tensor([[False, True, True]])
        >>> q = torch.randn(1, 2, 3, 8)
        >>> Runs(real).attend(q, q, q, Band(), Distance(torch.zeros(2, 5)), 0.0)[0, 0, 0].tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, real: Tensor) -> None:
        super().__init__(real)
        self.rows = real.flatten().nonzero().squeeze(1)
        self.before = real.int().argmax(1)
        self.offsets = torch.nn.functional.pad(real.sum(1).cumsum(0), (1, 0))

    def first(self, x: Tensor) -> Tensor:
        return x[torch.arange(len(x), device=self.device), self.before]

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Band | Blocks, bias: Bias, dropout: float,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        if not isinstance(bias, Distance) or not isinstance(pattern, Band) or pattern.rows:
            return super().attend(q, k, v, pattern, bias, dropout, scale)
        q_, k_, v_ = (x.transpose(1, 2).flatten(0, 1)[self.rows].transpose(0, 1)[None] for x in (q, k, v))
        mixed: Tensor = attention(  # type: ignore[assignment]
            q_, k_, v_, self._within(pattern), bias, scale=scale, offsets=self.offsets, dropout=dropout
        )
        full = mixed.new_zeros(q.shape[0] * q.shape[2], q.shape[1], v.shape[3])
        full = full.index_copy(0, self.rows, mixed[0].transpose(0, 1))
        return full.unflatten(0, self.shape).transpose(1, 2)

    def _within(self, pattern: Band) -> Band:
        columns = pattern.columns
        if not isinstance(columns, Tensor) and columns == 0:
            return pattern
        columns = torch.as_tensor(columns, device=self.device)
        return Band(pattern.left, pattern.right, (columns - self.before).clamp(min=0), dilation=pattern.dilation)


def runs(layout: Whole) -> Whole:
    """The layout, with masked rows packed in attention if their real tokens stand together."""
    if not isinstance(layout, Masked) or torch.compiler.is_compiling():
        return layout
    starts = torch.nn.functional.pad(layout.real, (1, 0)).int().diff(dim=1) > 0
    return layout if bool((starts.sum(1) > 1).any()) else Runs(layout.real)
