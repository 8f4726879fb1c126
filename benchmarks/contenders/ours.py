"""pkernels."""

from __future__ import annotations

import functools
from typing import Any

import torch

import pkernels

from ..workload import Inputs, Workload
from .base import Forward

SEED = 7
"""Of the dropout, so that it can be checked."""


class Pkernels:
    """``pkernels.attention``, or ``global_attention`` for scattered positions.

    Args:
        name: As rows and legends show it.
        threads: Run on so many threads instead of all.
        backend: By default the best there is.
    """

    def __init__(self, name: str = "pkernels", threads: int | None = None, backend: str | None = None) -> None:
        self.name, self.threads, self.backend = name, threads, backend

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """Never; but more threads than the machine has are refused."""
        if self.threads is not None and (device != "cpu" or self.threads > torch.get_num_threads()):
            return f"{self.threads} threads on {device} with {torch.get_num_threads()}"
        return None

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """One call of the public op."""
        options: dict[str, Any] = {"dropout": workload.dropout, "backend": self.backend}
        if workload.dropout:
            options["seed"] = SEED
        if x.positions is not None:
            return functools.partial(
                pkernels.global_attention, x.q, x.k, x.v, x.positions, workload.pattern, lengths=x.lengths, **options
            )
        options |= {"lengths": x.lengths} if x.offsets is None else {"offsets": x.offsets}
        bias = _bias(workload, x)
        attend: Any = pkernels.attention
        return functools.partial(attend, x.q, x.k, x.v, workload.pattern, bias, **options)

    def backend_for(self, workload: Workload, x: Inputs) -> str:
        """The name of the backend that runs it."""
        return pkernels.ops.choose(self.backend, x.q, x.k, x.v, workload.pattern, _bias(workload, x))


def _bias(workload: Workload, x: Inputs) -> pkernels.Distance | pkernels.Dense | pkernels.Relative | None:
    if x.bias is None:
        return None
    if workload.bias == "relative":
        return pkernels.Relative(x.q, x.bias)
    return pkernels.Distance(x.bias) if workload.bias == "distance" else pkernels.Dense(x.bias)
