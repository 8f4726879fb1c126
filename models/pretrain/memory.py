"""A text read in order, in as many streams as a batch has rows, and what is remembered of each stream from step
to step (Dai et al. 2019, arXiv:1901.02860, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

Memories = tuple[Tensor, ...]
"""Of each layer ``(M, B, width)``; none of models without memories."""


def in_streams(count: int, batch: int, generator: torch.Generator) -> list[int]:
    """An order of ``count`` rows in which each is followed, in the next batch at the same place, by the one behind
    it. The last ones, which are too few to fill a batch, are left out.

    Example:
        >>> in_streams(7, 2, torch.Generator())
        [0, 3, 1, 4, 2, 5]
    """
    long = count // batch
    return [stream * long + step for step in range(long) for stream in range(batch)]


class Memory:
    """What was remembered of the rows of the last batch; of learners without memory nothing.

    Attributes:
        rows: The number of a row within the batch -> ``(layers, M, width)``. A process has those that it
            computed.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Tensor] = {}

    def of(self, rows: slice, device: torch.device) -> dict[str, Memories]:
        """The argument ``mems``, or none."""
        if rows.start not in self.rows:
            return {}
        found = torch.stack([self.rows[row] for row in range(rows.start, rows.stop)], 2)
        return {"mems": tuple(found.to(device))}

    def keep(self, rows: slice, mems: Memories) -> None:
        if mems:
            parts = torch.stack(mems).unbind(2)
            self.rows |= {row: x.contiguous() for row, x in zip(range(rows.start, rows.stop), parts, strict=True)}
