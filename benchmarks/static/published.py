"""The same figures of published kernels whose speed is known, counted by this tool out of their binaries.

Binaries: the wheel fa3-fwd 0.0.3, in which FlashAttention-3 (Shah et al. 2024, arXiv:2407.08608) brings
kernels for sm_90a, and for sm_80 those of FlashAttention-2 (Dao 2023, arXiv:2307.08691); forward, bf16, dense,
by rows of queries x keys of a tile. Known: what the abstracts of these papers measured, over all sizes.
"""

from __future__ import annotations

from typing import Any

_TWO, _ON_HOPPER, _THREE = "0.50 to 0.73 (FlashAttention-2)", "0.35 (FlashAttention-3)", "up to 0.75 (FlashAttention-3)"
_ROWS = [
    ("forward 64, 128 x 112, 4 warps", "sm_80", 1.0, 0.64, _TWO),
    ("forward 128, 128 x 128, 8 warps", "sm_80", 0.88, 0.61, _TWO),
    ("forward 128, 128 x 64, 4 warps", "sm_80", 1.0, 0.64, _TWO),
    ("sm_80's forward 128, 128 x 64, 4 warps", "sm_90", 0.62, 0.36, _ON_HOPPER),
    ("forward 128, 128 x 176, 3 groups of warps", "sm_90", 1.0, 0.77, _THREE),
]
PUBLISHED: list[dict[str, Any]] = [
    dict(zip(("kernel", "chip", "bound", "estimate", "known"), row, strict=True)) for row in _ROWS
]
