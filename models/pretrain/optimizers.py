"""How parameters follow their gradients, and how fast from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Groups = list[dict[str, Any]]
"""Parameters with the decay of their weights."""


@dataclass(frozen=True)
class Optimizer:
    """
    Args:
        make: From groups, the rate and the memory of squared gradients.
        rate: Of a step n, from 1: a function of n, the steps of the warm-up and of the training, and the
            highest rate.
        parallel: The ways to share a model between processes that it works with.
    """

    make: Callable[[Groups, float, float], torch.optim.Optimizer]
    rate: Callable[[int, int, int, float], float]
    parallel: tuple[str, ...]


def adamw(groups: Groups, rate: float, beta: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, beta), eps=1e-6)


def adafactor(groups: Groups, rate: float, beta: float) -> torch.optim.Optimizer:
    """Shazeer and Stern 2018, arXiv:1804.04235: the rate is in proportion to a parameter's size, and the memory of
    squared gradients grows with the steps (``beta`` plays no part)."""
    return torch.optim.Adafactor(groups, lr=rate)


UNROLLED = 20


def adagrad(groups: Groups, rate: float, beta: float) -> torch.optim.Optimizer:
    """ELMo's (allenai/bilm-tf, ``training.py``): nothing is forgotten, and weights do not decay. The authors take the
    gradient of the loss times the 20 words of a row, and begin with squares of 1: of the loss itself those are 1 / 400,
    and their bound of the gradient's norm, 10, is 0.5."""
    still = [{**group, "weight_decay": 0.0} for group in groups]
    return torch.optim.Adagrad(still, lr=rate, initial_accumulator_value=UNROLLED**-2)


def straight(n: int, warmup: int, steps: int, highest: float) -> float:
    """It rises from 0 over the warm-up and falls to 0 behind the last step, both in a straight line (Devlin et
    al. 2019, arXiv:1810.04805, appendix A.2).

    Example:
        >>> [straight(n, 10, 100, 1.0) for n in (1, 10, 11, 100)]
        [0.1, 1.0, 1.0, 0.011111111111111112]
    """
    return highest * n / warmup if n <= warmup else highest * (steps - n + 1) / max(1, steps - warmup)


def inverse_root(n: int, warmup: int, steps: int, highest: float) -> float:
    """It is the same over a warm-up of k steps, and falls by their root: ``highest * sqrt(k / max(n, k))``. Where
    the highest is 1 / sqrt(k), that is T5's 1 / sqrt(max(n, k)) (Raffel et al. 2020, arXiv:1910.10683, section
    3.1.2). It is no more than 1 / sqrt(n), to which Adafactor holds it.

    Example:
        >>> [inverse_root(n, 100, 1000, 0.1) for n in (1, 100, 400)]
        [0.1, 0.1, 0.05]
    """
    same = max(1, warmup)
    return min(highest * (same / max(n, same)) ** 0.5, n**-0.5)


def level(n: int, warmup: int, steps: int, highest: float) -> float:
    """It is always the same."""
    return highest


OPTIMIZERS = {
    "adamw": Optimizer(adamw, straight, ("ddp", "fsdp")),
    # torch's takes norms over rows and columns in place, which those of a part of a matrix cannot be.
    "adafactor": Optimizer(adafactor, inverse_root, ("ddp",)),
    "adagrad": Optimizer(adagrad, level, ("ddp", "fsdp")),
}
