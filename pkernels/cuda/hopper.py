"""The forward for GPUs of compute capability 9.0 (``csrc/cuda/hopper_forward.cuh``), and which calls it takes.

It multiplies with ``wgmma`` and copies with TMA, which no other GPU has. What it leaves out, the general forward
does on those GPUs as on all: biases, dropout, dilation, float32, head dimensions above 128, rows that TMA cannot
copy, and few queries that meet many keys in parts. The backward is the general one in any case.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..patterns import Band
from ..problem import Problem
from . import operators


def serves(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> bool:
    """Whether a forward over a Band, in one part, is that of this GPU. Rows have neighbours along D."""
    pattern: Band = problem.pattern  # type: ignore[assignment]
    biases = (problem.distance, problem.dense, problem.query)
    return (
        capability(q.device) == (9, 0)
        and operators().has_hopper()
        and q.dtype in (torch.bfloat16, torch.float16)
        and max(q.shape[-1], v.shape[-1]) <= 128
        and all(bias is None for bias in biases)
        and problem.dropout == 0
        and pattern.dilation == 1
        and all(map(in_boxes, (q, k, v)))
    )


def in_boxes(x: Tensor) -> bool:
    """Whether TMA can copy rows of a tensor of 16 bits: there are some, and each begins at a multiple of 16 bytes."""
    apart = [step for step, size in zip(x.stride(), x.shape[:-1], strict=False) if size > 1]
    apart.append(x.shape[-1])  # what stands for the distance of a row that is alone
    return x.numel() > 0 and x.data_ptr() % 16 == 0 and all(step > 0 and step % 8 == 0 for step in apart)


def capability(device: torch.device) -> tuple[int, int]:
    """Of the GPU that a tensor lies on; (0, 0) where there is none."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
