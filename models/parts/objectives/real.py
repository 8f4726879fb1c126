"""Which tokens of a call are real."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..padding import layout


def real_tokens(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    **others: Any,
) -> Tensor:
    """``(B, S)`` booleans, of a model's arguments as they are.

    Example:
        >>> real_tokens(torch.tensor([[5, 6], [7, 0]]), lengths=torch.tensor([2, 1]))
        tensor([[ True,  True],
                [ True, False]])
    """
    batch, size = input_ids.shape
    found = layout(batch, size, input_ids.device, attention_mask, lengths, offsets)
    return found.unpack(found.pack(torch.ones(batch, size, device=input_ids.device))).bool()
