"""Two stacks of LSTMs, one for each direction, that know nothing of one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...lstm import projected_lstm
from .linear import Linear


@dataclass(frozen=True)
class LSTMStates:
    """What the LSTMs carry from one batch to the next, per layer, direction and batch row.

    Attributes:
        h: ``(layers, 2, B, P)``.
        c: ``(layers, 2, B, C)``.
    """

    h: Tensor
    c: Tensor

    def detach(self) -> LSTMStates:
        """The same, through which no gradient goes: truncated backpropagation through time."""
        return LSTMStates(self.h.detach(), self.c.detach())

    def rows(self, count: int) -> LSTMStates:
        """The first ``count`` batch rows; what is not there is 0."""
        more = max(0, count - self.h.shape[2])
        return LSTMStates(*(nn.functional.pad(x[:, :, :count], (0, 0, 0, more)) for x in (self.h, self.c)))

    def after(self, new: LSTMStates) -> LSTMStates:
        """``new`` ones of the first rows; the others stay as they are."""
        count = new.h.shape[2]
        pairs = ((new.h, self.h), (new.c, self.c))
        return LSTMStates(*(torch.cat([x, old[:, :, count:]], 2) for x, old in pairs))


class ProjectedLSTM(nn.Module):
    """One direction of one layer; see :func:`pkernels.projected_lstm`.

    Args:
        width: Of the input, and of the output.
        cells: Of the memory.
    """

    def __init__(
        self, width: int, cells: int, *, cell_clip: float | None, projection_clip: float | None, reverse: bool
    ) -> None:
        super().__init__()
        self.input = Linear(width, 4 * cells)
        self.recurrent = nn.Parameter(torch.empty(4 * cells, width))
        self.projection = nn.Parameter(torch.empty(width, cells))
        self.cell_clip, self.projection_clip, self.reverse = cell_clip, projection_clip, reverse

    def forward(
        self, x: Tensor, lengths: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        gates = self.input(x)
        recurrent, projection = self.recurrent.to(gates.dtype), self.projection.to(gates.dtype)
        if state is not None:
            state = state[0].to(gates.dtype), state[1].to(gates.dtype)
        return projected_lstm(
            gates,
            recurrent,
            projection,
            state,
            lengths=lengths,
            cell_clip=self.cell_clip,
            projection_clip=self.projection_clip,
            reverse=self.reverse,
        )


class BothWays(nn.Module):
    """One layer: ``ahead`` sees what stands before a word, ``back`` what stands behind it."""

    def __init__(self, width: int, cells: int, **clips: float | None) -> None:
        super().__init__()
        self.ahead = ProjectedLSTM(width, cells, **clips, reverse=False)
        self.back = ProjectedLSTM(width, cells, **clips, reverse=True)

    def forward(
        self, x: tuple[Tensor, Tensor], lengths: Tensor, h: Tensor | None, c: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """``x``: of both directions, each ``(B, S, P)``; ``h, c``: ``(2, B, .)`` of both."""
        states = (None, None) if h is None or c is None else zip(h, c, strict=True)
        both = (self.ahead, self.back)
        (ahead, one), (back, two) = (f(y, lengths, s) for f, y, s in zip(both, x, states, strict=True))
        return (ahead, back), torch.stack([one[0], two[0]]), torch.stack([one[1], two[1]])


class BidirectionalLSTM(nn.Module):
    """All layers. From the second one on, a layer's input is added to its output; while training,
    inputs are dropped before (allenai/bilm-tf, ``DropoutWrapper`` around ``ResidualWrapper``)."""

    def __init__(self, layers: int, width: int, cells: int, *, dropout: float, **clips: float | None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(BothWays(width, cells, **clips) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, lengths: Tensor, states: LSTMStates | None = None
    ) -> tuple[list[tuple[Tensor, Tensor]], LSTMStates]:
        """``x (B, S, P)`` -> both directions of each layer, each ``(B, S, P)``, and the states after it."""
        given = None if states is None else states.rows(x.shape[0])
        found, ends, both = [], [], (x, x)
        for number, layer in enumerate(self.layers):
            both = self.dropout(both[0]), self.dropout(both[1])
            h, c = (None, None) if given is None else (given.h[number], given.c[number])
            outs, *end = layer(both, lengths, h, c)
            both = outs if number == 0 else (outs[0] + both[0], outs[1] + both[1])
            found.append(both)
            ends.append(end)
        new = LSTMStates(*(torch.stack(parts) for parts in zip(*ends, strict=True)))
        return found, new if states is None else states.after(new)
