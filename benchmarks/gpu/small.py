"""``python -m benchmarks.gpu.small``: one small call of each kind, forward and backward, for compute-sanitizer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import pkernels
from pkernels import Blocks, Distance, causal, dense, window

ROWS = 133
"""No tile divides it."""
BACKENDS = ("cuda", "triton")


def calls(device: str, backends: tuple[str, ...] = BACKENDS) -> Iterator[str]:
    """Run each call that a backend can do, and name it."""
    torch.manual_seed(0)
    for backend in backends:
        for pattern in (dense, causal, window(20), window(9, globals=2), Blocks.of([[0], [0, 1], [2]], 64)):
            for bias in (None, Distance(torch.randn(2, 2 * ROWS - 1, device=device))):
                q, k, v = (torch.randn(2, 2, ROWS, 64, device=device, dtype=torch.bfloat16) for _ in range(3))
                if pkernels.why_not(backend, q, k, v, pattern, bias) is None:
                    _both(q, k, v, pattern, bias, backend)
                    yield f"{backend} {pattern.__class__.__name__}{' with a bias' if bias else ''}"


def _both(q: Tensor, k: Tensor, v: Tensor, pattern, bias, backend: str) -> None:
    leaves = [x.requires_grad_() for x in (q, k, v)]
    attend: Any = pkernels.attention
    lengths = torch.tensor([ROWS, ROWS - 32], device=q.device) if isinstance(pattern, pkernels.Band) else None
    out = attend(q, k, v, pattern, bias, lengths=lengths, dropout=0.1, seed=1, backend=backend)
    grads = torch.autograd.grad(out.sum(), leaves)
    if q.device.type == "cuda":
        torch.cuda.synchronize()
    if not all(x.isfinite().all() for x in (out, *grads)):
        raise ArithmeticError(f"{backend}: {pattern!r} gave what is not finite")


if __name__ == "__main__":
    names = list(calls("cuda"))
    print(f"calls that were checked: {len(names)}")
    sys.exit(0 if names else 1)
