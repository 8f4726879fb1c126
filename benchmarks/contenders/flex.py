"""torch's FlexAttention, compiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pkernels.show import kept

from ..workload import Inputs, Workload
from .base import Forward

BLOCK = 128


class Flex:
    """``torch.compile(flex_attention)`` with a block mask; compiled for the very shape."""

    name = "flex"

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """What FlexAttention cannot do."""
        if device == "cpu" and direction != "forward":
            return "FlexAttention has no backward on the CPU"
        if device == "cpu" and torch.backends.cpu.get_cpu_capability() == "DEFAULT":
            return "FlexAttention wants AVX2"
        if workload.dropout:
            return "FlexAttention has no dropout"
        if workload.bias in ("dense", "relative") or workload.positions or workload.lengths:
            return "left to the masked baselines"
        return None

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """Compiles, once, with the shapes fixed."""
        from torch.nn.attention.flex_attention import flex_attention

        # Past a number of recompilations torch would quietly run the uncompiled form.
        torch._dynamo.reset()
        torch._functorch.config.donated_buffer = False  # the backward alone is called more than once
        compiled = torch.compile(flex_attention, dynamic=False)
        mask, score = block_mask(workload, x.q.device), _score(workload, x, train)
        gqa = workload.hkv != workload.heads
        q, k, v = (y if train else y.detach() for y in (x.q, x.k, x.v))

        def forward() -> Tensor:
            return compiled(q, k, v, score_mod=score, block_mask=mask, enable_gqa=gqa)

        with torch.set_grad_enabled(train):
            out = forward()
        if train:
            torch.autograd.grad(out, x.leaves(), x.dout)
        return forward


def block_mask(workload: Workload, device: torch.device):
    """The BlockMask that ``create_block_mask`` gives, without its Sq x Sk tensor."""
    from torch.nn.attention.flex_attention import BlockMask

    sq, sk, pattern = workload.queries, workload.sk, workload.pattern
    if pattern.pairs(sq, sk) == sq * sk:
        return None
    counts = kept(pattern, sq, sk, BLOCK, BLOCK)
    # A block at the ragged edge never counts as full: it has rows or keys too many.
    full = counts == BLOCK * BLOCK
    lists = [_lists((counts > 0) & ~full, device), _lists(full, device)]
    return BlockMask.from_kv_blocks(
        *lists[0], *lists[1], BLOCK_SIZE=BLOCK, mask_mod=_predicate(workload), seq_lengths=(sq, sk)
    )


def _lists(chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per row of blocks how many are chosen, and which, ``(1, 1, …)`` int32."""
    order = torch.argsort(chosen.to(torch.int8), dim=1, descending=True, stable=True)
    count, order = chosen.sum(1).to(device, torch.int32), order.to(device, torch.int32)
    return count[None, None], order[None, None].contiguous()


def _predicate(workload: Workload) -> Callable:
    pattern, shift = workload.pattern, workload.sk - workload.queries
    left, right, d = pattern.left * pattern.dilation, pattern.right * pattern.dilation, pattern.dilation
    columns, rows = int(pattern.columns), pattern.rows

    def keep(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        step = j - i - shift
        kept = (step >= -left) & (step <= right)
        if d > 1:
            kept = kept & (step % d == 0)
        if columns:
            kept = kept | (j < columns)
        return kept | (i + shift < rows) if rows else kept

    return keep


def _score(workload: Workload, x: Inputs, train: bool) -> Callable | None:
    if x.bias is None:
        return None
    values, zero = x.bias if train else x.bias.detach(), workload.queries - 1
    return lambda s, b, h, i, j: s + values[h, j - i + zero]
