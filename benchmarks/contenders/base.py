"""What a contender is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ..workload import Inputs, Workload

Forward = Callable[[], Tensor]


class Contender(Protocol):
    """A way to compute the attention of a workload."""

    name: str

    def refuses(self, workload: Workload, direction: str, device: str) -> str | None:
        """Why it takes no part, or None if it does."""
        ...

    def prepare(self, workload: Workload, x: Inputs, train: bool) -> Forward:
        """A function that returns ``(B, H, Sq, Dv)``. What a user would do once (masks,
        compilation) is done here, outside of the timing; what gradients must flow through is
        done inside if ``train``."""
        ...
