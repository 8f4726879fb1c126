"""The layout of a batch, by the mask, lengths or offsets that a caller gives."""

from __future__ import annotations

import torch
from torch import Tensor

from .layouts import Masked, Packed, Ragged, Unpadded, Whole


def layout(
    batch: int,
    size: int,
    device: torch.device,
    attention_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    *,
    packs: bool = True,
) -> Whole:
    """The layout of a ``(batch, size)`` batch; at most one of the three is given.

    Args:
        attention_mask: ``(B, S)``, 1 for real tokens and 0 for padding. An eager call looks
            at its values (on a GPU that waits for the device) and drops padding on the
            right; a traced one keeps every token and masks keys.
        lengths: ``(B,)`` real tokens of each row. The same, but traces at no cost.
        offsets: ``(n + 1,)`` where ``batch == 1``: sequences that were packed before.
        packs: Whether padding may be dropped; not for patterns of the batch's rows (``Blocks``).

    Example:
        >>> packed = layout(2, 3, torch.device("cpu"), torch.tensor([[1, 1, 1], [1, 0, 0]]))
        >>> packed.pack(torch.tensor([[5, 6, 7], [8, 0, 0]]))
        tensor([[5, 6, 7, 8]])
        >>> packed.unpack(torch.tensor([[5, 6, 7, 8]]))
        tensor([[5, 6, 7],
                [8, 0, 0]])
    """
    given = {"attention_mask": attention_mask, "lengths": lengths, "offsets": offsets}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{', '.join(names)}: one of them is allowed, got {len(names)}")
    if offsets is not None:
        return Packed(_offsets(offsets, batch, size, device), size)
    if lengths is not None:
        lengths = _lengths(lengths, batch, size, device)
        if torch.compiler.is_compiling():
            return Ragged(lengths, size)
        return _by_value(torch.arange(size, device=device) < lengths[:, None], packs)
    if attention_mask is None:
        return Whole(batch, size, device)
    real = _real(attention_mask, batch, size, device)
    return Masked(real) if torch.compiler.is_compiling() else _by_value(real, packs)


def _by_value(real: Tensor, packs: bool) -> Whole:
    if bool(real.all()):
        return Whole(real.shape[0], real.shape[1], real.device)
    on_the_right = (real[:, 1:] <= real[:, :-1]).all()
    if not packs:
        return Ragged(real.sum(1), real.shape[1]) if bool(on_the_right) else Masked(real)
    return Unpadded(real) if bool(on_the_right & real[:, 0].all()) else Masked(real)


def _real(mask: Tensor, batch: int, size: int, device: torch.device) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != (batch, size):
        given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask: a tensor of shape ({batch}, {size}) is allowed, got {given}")
    if not torch.compiler.is_compiling() and bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(f"attention_mask: 1 (real) and 0 (padding) are allowed, got {mask.unique().tolist()[:8]}")
    return mask.to(device=device, dtype=torch.bool)


def _lengths(lengths: Tensor, batch: int, size: int, device: torch.device) -> Tensor:
    lengths = _integers("lengths", lengths, device)
    if lengths.shape != (batch,):
        raise ValueError(f"lengths: shape ({batch},) is allowed, got {tuple(lengths.shape)}")
    if not torch.compiler.is_compiling() and bool(((lengths < 0) | (lengths > size)).any()):
        raise ValueError(f"lengths: between 0 and {size} is allowed, got {lengths.tolist()}")
    return lengths


def _offsets(offsets: Tensor, batch: int, size: int, device: torch.device) -> Tensor:
    offsets = _integers("offsets", offsets, device)
    if batch != 1:
        raise ValueError(f"offsets: packed input of shape (1, total) is allowed, got batch size {batch}")
    if offsets.dim() != 1 or offsets.shape[0] < 2:
        raise ValueError(f"offsets: shape (sequences + 1,) is allowed, got {tuple(offsets.shape)}")
    if torch.compiler.is_compiling():
        return offsets
    if int(offsets[0]) != 0 or int(offsets[-1]) != size or bool((offsets.diff() < 1).any()):
        raise ValueError(f"offsets: must rise from 0 to {size} (the tokens there are), got {offsets.tolist()}")
    return offsets


def _integers(name: str, value: Tensor, device: torch.device) -> Tensor:
    try:
        value = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: integers are allowed, got {value!r}") from error
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(f"{name}: integers are allowed, got dtype {value.dtype}")
    return value.long()
