"""A language model in each direction (Peters et al. 2018, arXiv:1802.05365, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..characters import marked
from ..layouts import IGNORED


def both_directions(words: Tensor, lengths: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """What each place of a sentence between its marks predicts, going ahead and going back.

    Args:
        words: ``(B, S)`` ids, or -100 for one that is not to be predicted.
        lengths: ``(B,)`` words of each sentence.
        begin, end: The marks' ids.

    Returns:
        Twice ``(B, S + 2)``: the id of the next one, and of the one before; -100 where there is none.

    Example:
        >>> ahead, back = both_directions(torch.tensor([[5, 6, 0]]), torch.tensor([2]), 1, 2)
        >>> ahead.tolist(), back.tolist()
        ([[5, 6, 2, -100, -100]], [[-100, 1, 5, 6, -100]])
    """
    whole = marked(words, lengths, begin, end, IGNORED)
    ahead = F.pad(whole[:, 1:], (0, 1), value=IGNORED)
    inside = torch.arange(whole.shape[1], device=words.device) < (lengths + 2)[:, None]
    back = F.pad(whole[:, :-1], (1, 0), value=IGNORED).masked_fill(~inside, IGNORED)
    return ahead, back
