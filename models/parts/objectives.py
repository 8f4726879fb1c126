"""How pre-training chooses what to predict."""

from __future__ import annotations

from collections.abc import Sequence

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
    random word, and 10 % stay as they are. Called again whenever a text is seen again, it hides
    other tokens: dynamic masking (Liu et al. 2019, arXiv:1907.11692, section 4.1).

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


def cut(tokens: Sequence[int] | Tensor, length: int, *, first: int, last: int) -> Tensor:
    """A long text as rows ``[first, length - 2 of its tokens, last]``, no row padded
    (FULL-SENTENCES of Liu et al. 2019, arXiv:1907.11692, section 4.2, within one text).

    Args:
        tokens: Ids without special ones; those that fill no row are left out.
        first, last: Ids of the special tokens ([CLS] and [SEP]).

    Returns:
        ``(n, length)``, int64.

    Example:
        >>> cut(range(10, 15), 4, first=0, last=2)
        tensor([[ 0, 10, 11,  2],
                [ 0, 12, 13,  2]])
    """
    inner = length - 2
    if inner < 1 or len(tokens) < inner:
        raise ValueError(f"length: from 3 to {len(tokens) + 2} (the tokens and two) is allowed, got {length}")
    count = len(tokens) // inner
    rows = torch.as_tensor(tokens[: count * inner], dtype=torch.int64).reshape(count, inner)
    return torch.cat([rows.new_full((count, 1), first), rows, rows.new_full((count, 1), last)], dim=1)
