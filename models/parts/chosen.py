"""Which tokens of a batch are global: what a caller says, and what a task makes of a text."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...globals import Globals, locate
from .layouts import Whole

Choose = Callable[[Whole, Tensor | None], Tensor | None]
"""From a layout and the ids ``(B, S)`` to positions or a mask, as ``Whole.globals`` takes them, or None."""


def split_mask(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """An attention mask of 0 (padding), 1 (local) and 2 (global): real tokens, and global ones if there
    are any. What traces cannot look for them, and is told of global tokens by their positions."""
    if not isinstance(mask, Tensor):
        return mask, None
    if torch.compiler.is_compiling():
        torch._assert_async((mask <= 1).all(), "attention_mask: while tracing, 0 and 1 are allowed")
        return mask, None
    _check_values("attention_mask", mask, (0, 1, 2))
    marked = mask == 2
    return (mask.clamp(max=1), marked) if bool(marked.any()) else (mask, None)


def chosen(
    layout: Whole, marked: Tensor | None, mask: Tensor | None, positions: Tensor | None, default: Tensor | None
) -> Globals | None:
    """The global tokens, None if there are none.

    Args:
        marked: Those of the attention mask.
        mask: ``global_attention_mask (B, S)``, 1 where a token is global.
        positions: ``global_positions``, integers ``(G,)`` or ``(B, G)``, -1 filling up.
        default: Taken where neither of these two is given.
    """
    if mask is not None and positions is not None:
        raise ValueError("global_attention_mask, global_positions: one of them is allowed, got both")
    found = default if positions is None else positions
    if positions is not None:
        locate(positions, layout.shape, layout.device, "global_positions")  # which names it if it is wrong
    if mask is not None:
        if not isinstance(mask, Tensor) or tuple(mask.shape) != tuple(layout.shape):
            given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"global_attention_mask: a tensor of shape {layout.shape} is allowed, got {given}")
        _check_values("global_attention_mask", mask, (0, 1))
        found = mask.to(device=layout.device, dtype=torch.bool)
    if marked is not None:
        marked = marked.to(layout.device)
        found = marked if found is None else marked | locate(found, layout.shape, layout.device)[0]
    if found is None or (found.dtype == torch.bool and not torch.compiler.is_compiling() and not bool(found.any())):
        return None
    return layout.globals(found)


def first_token(layout: Whole, ids: Tensor | None) -> Tensor:
    """[CLS]: it stands for the whole text."""
    return layout.firsts()


def before_separator(separator: int | None) -> Choose:
    """A question that stands before its text: all before the first ``separator``."""
    return _Beside(separator, after=False)


def after_separator(separator: int | None) -> Choose:
    """An answer that stands behind its text: all but one after the first ``separator`` (between the
    two stand two separators, in RoBERTa's format of pairs)."""
    return _Beside(separator, after=True)


class _Beside:
    def __init__(self, separator: int | None, *, after: bool) -> None:
        self.separator, self.after = separator, after

    def __call__(self, layout: Whole, ids: Tensor | None) -> Tensor | None:
        if ids is None:
            return None
        if self.separator is None:
            raise ValueError("global_attention_mask: needed, as the config has no sep_token_id")
        found = layout.pack(ids.expand(layout.shape)) == self.separator
        seen = layout.count(found)
        if not torch.compiler.is_compiling():
            texts = len(layout.first(found))
            have = int((found & (seen == 1)).sum())
            if have < texts:
                raise ValueError(
                    f"input_ids: a sep_token_id ({self.separator}) in every text or a global_attention_mask is "
                    f"needed, {texts - have} of {texts} texts have none"
                )
        return layout.unpack(layout.count(seen > 0) > 2 if self.after else seen == 0)


def _check_values(name: str, mask: Tensor, allowed: tuple[int, ...]) -> None:
    if torch.compiler.is_compiling():
        return
    if bool(torch.stack([mask != value for value in allowed]).all(0).any()):
        listed = ", ".join(map(str, allowed))
        raise ValueError(f"{name}: {listed} are allowed, got {mask.unique().tolist()[:8]}")
