"""``pkernels::blocks_fwd`` and ``pkernels::blocks_bwd``."""

from __future__ import annotations

from torch import Tensor

from ..blocks import Blocks, Lists
from .shape import Shape


def _pattern(
    offsets: Tensor, columns: Tensor, counts: Tensor,
    back_offsets: Tensor | None, back_columns: Tensor | None, back_counts: Tensor | None,
    size: int,
) -> Blocks:  # fmt: skip
    back = None
    if back_offsets is not None and back_columns is not None and back_counts is not None:
        back = Lists(back_offsets, back_columns, back_counts)
    return Blocks(Lists(offsets, columns, counts), size, back)


blocks = Shape(
    "blocks",
    (
        *("Tensor offsets", "Tensor columns", "Tensor counts"),
        *("Tensor? back_offsets", "Tensor? back_columns", "Tensor? back_counts"),
    ),
    ("SymInt size",),
    _pattern,
).operator()
