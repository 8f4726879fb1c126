"""``pkernels::band_fwd`` and ``pkernels::band_bwd``."""

from __future__ import annotations

from torch import Tensor

from ..patterns import Band
from .shape import Shape


def _pattern(prefix: Tensor | None, left: int, right: int, columns: int, rows: int, dilation: int) -> Band:
    return Band(left, right, columns if prefix is None else prefix, rows, dilation)


band = Shape(
    "band",
    ("Tensor? prefix",),
    ("SymInt left", "SymInt right", "SymInt columns", "SymInt rows", "SymInt dilation"),
    _pattern,
).operator()
