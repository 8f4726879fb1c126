"""Few queries and many keys, as in decoding: the keys are dealt out in parts, for the whole GPU to work.

A CTA has a tile of queries and visits its part of the keys; a second kernel puts the parts together by
their log-sum-exps (``csrc/cuda/merge.cuh``). How many parts there are depends on sizes and on the GPU
alone, so that results are the same bits again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..patterns import Band
from ..problem import Problem

ROWS = 128  # of a tile of queries
KEYS = 256  # of a part, at least
MOST = 64


def parts(q: Tensor, k: Tensor, problem: Problem) -> int:
    """In how many parts the keys of a call are worked."""
    sq, sk = q.shape[2], k.shape[2]
    pattern: Band = problem.pattern  # type: ignore[assignment]
    if sq > ROWS or pattern.dilation != 1:
        return 1
    seen = sk
    if isinstance(pattern.columns, int) and pattern.rows == 0:
        seen = min(sk, pattern.columns + max(0, pattern.left + pattern.right + sq))
    ctas = q.shape[1] * problem.batch(q)
    return max(1, min(MOST, 2 * multiprocessors(q.device) // max(1, ctas), seen // KEYS))


def multiprocessors(device: torch.device) -> int:
    """Of the GPU that a tensor lies on; 1 where there is none."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
