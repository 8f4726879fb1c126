"""Attention dropout from a counter: every backend draws these bits.

Philox4x32 with 7 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
3", section 3.3: the fewest that pass BigCrush). One call serves 8 neighbouring keys of one
query with 16 bits each:

    words = philox(key=seed, counter=(query row, key row // 8, query head, batch row))
    bits  = 16 bits at position ``key row % 8`` of the words, least significant first
    kept  iff bits >= round(65536 * dropout)

Rows count from the start of each sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 7
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def threshold(dropout: float) -> int:
    """Bits below this are dropped; dropout is thereby a multiple of 2**-16."""
    return round(65536 * dropout)


def words(seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The four 32-bit outputs, as int64 tensors of the counters' common shape."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(ROUNDS):
        hi0, lo0 = _multiply(MULTIPLIERS[0], c0)
        hi1, lo1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    # 32 x 32 -> 64 bits by 16-bit halves of b: int64 has no unsigned product.
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    total = low + ((high & 0xFFFF) << 16)
    return ((high >> 16) + (total >> 32)) & _MASK, total & _MASK


def kept(seed: int, batch: Tensor, heads: int, sq: int, sk: int, dropout: float) -> Tensor:
    """Which pairs survive dropout.

    Args:
        seed: 64-bit integer.
        batch: Batch rows, int64 of shape ``(B,)``.

    Returns:
        Boolean ``(B, heads, sq, sk)``.

    Example:
        >>> kept(1, torch.arange(1), 2, 64, 64, 0.5).shape
        torch.Size([1, 2, 64, 64])
    """
    device = batch.device
    b = batch[:, None, None, None]
    h = torch.arange(heads, device=device)[None, :, None, None]
    q = torch.arange(sq, device=device)[None, None, :, None]
    group = torch.arange(-(-sk // 8), device=device)[None, None, None, :]
    drawn = torch.stack(words(seed, (q, group, h, b)), dim=-1)
    halves = torch.stack([drawn & 0xFFFF, drawn >> 16], dim=-1)
    bits = halves.flatten(start_dim=-3)[..., :sk]
    return bits >= threshold(dropout)
