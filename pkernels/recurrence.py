"""Steps of a recurrence over ragged rows, in either direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recurrence:
    """What a call says beside its tensors.

    Attributes:
        lengths: ``(B,)`` steps of each row, or None: all.
        cell_clip, projection_clip: Bounds of c and h, or None.
        reverse: From the last step to the first.
    """

    lengths: Tensor | None
    cell_clip: float | None
    projection_clip: float | None
    reverse: bool

    def order(self, count: int) -> range:
        """Of ``count`` steps."""
        return range(count)[::-1] if self.reverse else range(count)

    def steps(self, x: Tensor, *, backward: bool = False) -> Iterator[tuple[int, Tensor]]:
        """Steps of ``x (B, S, ...)`` in the order of work, or of its derivative, each with the
        ``(B, 1)`` booleans of the rows that take part."""
        count = x.shape[1]
        lengths = x.new_full((x.shape[0],), count) if self.lengths is None else self.lengths.to(x.device)
        for t in reversed(self.order(count)) if backward else self.order(count):
            yield t, (t < lengths)[:, None]

    def previous(self, states: Tensor, first: Tensor) -> Tensor:
        """States ``(B, S, n)`` one step of work before each, ``first (B, n)`` before the first one."""
        if not states.shape[1]:
            return states
        if not self.reverse:
            return torch.cat([first[:, None], states[:, :-1]], 1)
        later = torch.cat([states[:, 1:], first[:, None]], 1)
        if self.lengths is None:
            return later
        last = torch.arange(1, states.shape[1] + 1, device=states.device) == self.lengths.to(states.device)[:, None]
        return first[:, None].where(last[..., None], later)
