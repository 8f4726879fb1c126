"""Plain torch: scaled_dot_product_attention, and attention with everything written out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import dropout, pad, scaled_dot_product_attention

from ..masks import scores_bias, square_bytes, visible
from ..memory import available
from ..workload import Inputs, Workload
from .base import Forward

Drop = Callable[[Tensor], Tensor]
"""Dropout of the weights."""


class Masked:
    """softmax(Q Kᵀ + bias, masked) V, with the scores in memory."""

    name = "masked"

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """Scores that would not fit."""
        return _too_large(workload, copies=4 if direction == "forward" else 7, device=device)

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """The mask is built once."""
        mask = visible(workload, x)
        hidden = None if mask is None else ~mask
        fixed = None if train else scores_bias(workload, x)
        group = workload.heads // workload.hkv

        def forward() -> Tensor:
            bias = scores_bias(workload, x) if train else fixed
            k, v = (y if group == 1 else y.repeat_interleave(group, 1) for y in (x.k, x.v))
            return materialised(x.q, k, v, hidden, bias, lambda p: dropout(p, workload.dropout))

        return forward


def materialised(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, bias: Tensor | None, drop: Drop) -> Tensor:
    """Attention as the equations stand, every step in q's dtype."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return drop(torch.softmax(scores, dim=-1)) @ v


class Sdpa:
    """``scaled_dot_product_attention``: without a mask where it can, else with one."""

    name = "sdpa"

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """Masks that would not fit."""
        if not _needs_mask(workload):
            return None if workload.dropout == 0 else _too_large(workload, copies=6, device=device)
        # With a bias that wants gradients, or dropout, torch falls back to its "math" form.
        copies = 6 if workload.bias or workload.dropout else 2 / workload.heads
        return _too_large(workload, copies, device)

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """The mask is built once; a bias of distances once per call if gradients want it."""
        causal = _is_causal(workload)
        mask = visible(workload, x) if _needs_mask(workload) else None
        gqa = workload.hkv != workload.heads
        fixed = None if train else _added(workload, x, mask)

        def forward() -> Tensor:
            added = _added(workload, x, mask) if train else fixed
            return scaled_dot_product_attention(x.q, x.k, x.v, added, workload.dropout, causal, enable_gqa=gqa)

        return forward


class SdpaEach:
    """``scaled_dot_product_attention`` of each ragged sequence in turn: no padded work."""

    name = "sdpa each"

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """Batches that are not ragged."""
        if workload.lengths is None or workload.bias or not (_full(workload) or _triangle(workload)):
            return "for plain ragged batches"
        return None

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """One call per sequence, and the results put together."""
        causal, lengths = _triangle(workload), workload.lengths or ()

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return scaled_dot_product_attention(q, k, v, None, workload.dropout, causal)

        def packed() -> Tensor:
            parts = zip(*(y.split(lengths, 2) for y in (x.q, x.k, x.v)), strict=True)
            return torch.cat([attend(*part) for part in parts], 2)

        def padded() -> Tensor:
            # unbind and stack: slices of the whole batch would cost a whole batch of zeros each.
            rows = zip(*(y.unbind(0) for y in (x.q, x.k, x.v)), lengths, strict=True)
            parts = [attend(*(y[None, :, :n] for y in row))[0] for *row, n in rows]
            return torch.stack([pad(part, (0, 0, 0, workload.queries - part.shape[1])) for part in parts])

        return packed if workload.packed else padded


def _full(workload: Workload) -> bool:
    return all(workload.pattern.pairs(*shape) == shape[0] * shape[1] for shape in set(workload.sequences()))


def _triangle(workload: Workload) -> bool:
    shapes = set(workload.sequences())
    return all(sq == sk and workload.pattern.pairs(sq, sk) == sq * (sq + 1) // 2 for sq, sk in shapes)


def _is_causal(workload: Workload) -> bool:
    plain = workload.lengths is None and not workload.positions and workload.bias is None
    return plain and workload.queries > 1 and _triangle(workload)


def _needs_mask(workload: Workload) -> bool:
    plain = workload.lengths is None and not workload.positions and workload.bias is None
    return not plain or not (_full(workload) or _is_causal(workload))


def _added(workload: Workload, x: Inputs, mask: Tensor | None) -> Tensor | None:
    bias = scores_bias(workload, x)
    if bias is None or mask is None:
        return mask if bias is None else bias
    return bias.masked_fill(~mask, -torch.inf)


def _too_large(workload: Workload, copies: float, device: str) -> str | None:
    need, limit = copies * square_bytes(workload), available(device) / 3
    if need > limit:
        return f"its tensors of Sq x Sk would take {need / 2**30:.0f} GiB, more than a third of the free memory"
    return None
