"""An entry made ready for its turns: prepared, called once, its memory taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import memory
from .case import Entry
from .contenders import Pkernels
from .workload import Inputs

Run = Callable[[], "list[Tensor]"]


@dataclass
class Ready:
    """What is timed, and what its first call at full size took and gave."""

    run: Run
    seconds: float
    memory: int | None
    results: list[Tensor]


def ready(entry: Entry, x: Inputs, direction: str, device: str) -> Ready | str:
    """Prepare and call an entry once; or why it takes no part.

    A baseline that breaks (no compiler for FlexAttention, no memory) is left out with its
    error; pkernels that breaks stops everything.
    """
    reason = entry.contender.refuses(entry.workload, direction, device)
    if reason is not None:
        return reason
    try:
        run = _on_threads(entry, _directed(entry, x, direction))
        results: list[Tensor] = []
        if device == "cuda":
            run()  # compiles
        started = time.perf_counter()
        taken = memory.peak(lambda: results.extend(run()), device)
        results = [x.real(results[0])] if direction == "forward" else results
        return Ready(run, time.perf_counter() - started, taken, results)
    except Exception as error:
        if is_ours(entry):
            raise
        return f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error) else ''}"


def is_ours(entry: Entry) -> bool:
    """Whether the entry is pkernels."""
    return isinstance(entry.contender, Pkernels)


def _directed(entry: Entry, x: Inputs, direction: str) -> Run:
    """The forward alone, the backward of a graph that is kept, or both."""
    forward = entry.contender.prepare(entry.workload, x, direction != "forward")

    def ahead() -> list[Tensor]:
        with torch.no_grad():
            return [forward()]

    def both() -> list[Tensor]:
        return list(torch.autograd.grad(forward(), x.leaves(), x.dout))

    if direction == "backward":
        out = _on_threads(entry, forward)()
        return lambda: list(torch.autograd.grad(out, x.leaves(), x.dout, retain_graph=True))
    return ahead if direction == "forward" else both


def _on_threads(entry: Entry, run: Callable) -> Callable:
    threads = getattr(entry.contender, "threads", None)
    if threads is None:
        return run

    def limited() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return limited
