"""The pairs and biases of a workload written out, for contenders that need them so."""

from __future__ import annotations

import torch
from torch import Tensor

from .workload import Inputs, Workload


def visible(workload: Workload, x: Inputs) -> Tensor | None:
    """Boolean mask that broadcasts to ``(B, 1, Sq, Sk)``, or None if every pair is kept.

    Padded queries see what real ones see, as people write it: their rows mean nothing.
    """
    sq, sk, device = workload.queries, workload.sk, x.q.device
    if x.offsets is not None:
        return _documents(workload, x)[None, None]
    mask = None
    if workload.pattern.pairs(sq, sk) != sq * sk:
        mask = workload.pattern.dense(sq, sk, device=device)[None, None]
    if x.positions is not None:
        chosen = torch.zeros(sk, dtype=torch.bool, device=device).index_fill(0, x.positions, True)
        mask = chosen[:, None] | chosen[None, :] | (mask if mask is not None else False)
    if x.lengths is not None:
        keys = (torch.arange(sk, device=device) < x.lengths[:, None])[:, None, None, :]
        mask = keys if mask is None else mask & keys
    return mask


def _documents(workload: Workload, x: Inputs) -> Tensor:
    mask = torch.zeros(workload.queries, workload.sk, dtype=torch.bool, device=x.q.device)
    first = 0
    for n in workload.lengths or ():
        mask[first : first + n, first : first + n] = workload.pattern.dense(n, n, device=x.q.device)
        first += n
    return mask


def scores_bias(workload: Workload, x: Inputs) -> Tensor | None:
    """The bias as ``(1, H, Sq, Sk)``, differentiable, in q's dtype."""
    if x.bias is None or workload.bias == "dense":
        return x.bias
    i = torch.arange(workload.queries, device=x.q.device)[:, None]
    j = torch.arange(workload.sk, device=x.q.device)[None, :]
    if workload.bias == "relative":
        products = workload.dim**-0.5 * x.q @ x.bias.mT
        return products.gather(3, (j - i + workload.queries - 1).expand(*x.q.shape[:2], -1, -1))
    return x.bias[:, j - i + workload.queries - 1][None].to(x.q.dtype)


def square_bytes(workload: Workload) -> int:
    """Bytes of one tensor of scores, ``(B, H, Sq, Sk)``."""
    size = torch.empty(0, dtype=workload.dtype).element_size()
    return workload.batch * workload.heads * workload.queries * workload.sk * size
