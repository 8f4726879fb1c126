"""Times of contenders that take turns in one process: A B C A B C …"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

SHORTEST = 2e-3
"""A sample lasts at least so many seconds; shorter calls are repeated within it."""


@dataclass(frozen=True)
class Times:
    """Seconds per call: median, 20 % and 80 % quantiles, and the number of samples."""

    median: float
    q20: float
    q80: float
    samples: int

    @staticmethod
    def of(samples: list[float]) -> Times:
        """From single samples.

        Example:
            >>> Times.of([1.0, 2.0, 3.0])
            Times(median=2.0, q20=1.4, q80=2.6, samples=3)
        """
        points = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)
        median, low, high = torch.tensor(samples, dtype=torch.float64).quantile(points).tolist()
        return Times(median, low, high, len(samples))


def interleave(
    runs: Mapping[str, Callable[[], object]],
    device: str,
    seconds: float,
    first: Mapping[str, float] | None = None,
    least: int = 3,
    most: int = 100,
    shortest: float = SHORTEST,
) -> dict[str, Times]:
    """Time every run in turn until ``seconds`` are spent, at least ``least`` rounds.

    Each has been called before; ``first`` says how long that took, where it is known. A run
    so slow that one call takes all of ``seconds`` is sampled once; if it takes ten times
    that, its first call is the sample. With ``shortest`` 0 and no ``first`` each is
    called ``most`` times at most, for what cannot be called at will.
    """
    known = {name: (first or {}).get(name, 0.0) for name in runs}
    for name, run in runs.items():
        if known[name] < 10 * shortest:
            known[name] = _sample(run, 1, device)
    number = {name: max(1, round(shortest / max(known[name], 1e-7))) for name in runs}
    samples = {name: [known[name]] if known[name] > 10 * seconds else [] for name in runs}
    start, rounds = time.perf_counter(), 0
    while rounds < least or (rounds < most and time.perf_counter() - start < seconds):
        for name, run in runs.items():
            if not samples[name] or samples[name][0] < seconds:
                samples[name].append(_sample(run, number[name], device))
        rounds += 1
    return {name: Times.of(values) for name, values in samples.items()}


def _sample(run: Callable[[], object], number: int, device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(number):
        run()
    _wait(device)
    return (time.perf_counter() - start) / number


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
