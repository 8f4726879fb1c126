"""How pre-training chooses what to predict."""

from __future__ import annotations

import torch
from torch import Tensor

from .layouts import IGNORED


def mask_tokens(
    input_ids: Tensor,
    special: Tensor,
    *,
    mask_id: int,
    words: int,
    rate: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Masked LM's input and labels (Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1).

    Each token is chosen with probability ``rate``; of the chosen, 80 % become [MASK], 10 % a
    random word, and 10 % stay as they are.

    Args:
        input_ids: Integers of any shape.
        special: Booleans of the same shape: [CLS], [SEP] and padding, never chosen.
        mask_id: Id of [MASK].
        words: Size of the vocabulary that random words come from.

    Returns:
        ``(input_ids, labels)``; labels are -100 where nothing was chosen.

    Example:
        >>> ids = torch.full((1, 1000), 7)
        >>> masked, labels = mask_tokens(ids, ids == 0, mask_id=3, words=10, rate=1.0)
        >>> bool((labels == 7).all()), round(float((masked == 3).float().mean()), 1)
        (True, 0.8)
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: in [0, 1] is allowed, got {rate}")
    if special.shape != input_ids.shape or special.dtype != torch.bool:
        raise ValueError(
            f"special: booleans of shape {tuple(input_ids.shape)} are allowed, "
            f"got {special.dtype} of {tuple(special.shape)}"
        )
    draw, fate = (torch.rand(input_ids.shape, generator=generator, device=input_ids.device) for _ in range(2))
    chosen = (draw < rate) & ~special
    random = torch.randint(words, input_ids.shape, generator=generator, device=input_ids.device)
    masked = input_ids.masked_fill(chosen & (fate < 0.8), mask_id)
    masked = torch.where(chosen & (fate >= 0.9), random.to(input_ids.dtype), masked)
    return masked, input_ids.masked_fill(~chosen, IGNORED)
