"""The steps of a training: forward, backward, optimizer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ...patterns import Band
from . import draws
from .checkpoint import State
from .memory import Memories, Memory
from .objectives import Objective
from .processes import Alone, Processes
from .rows import Rows
from .settings import Settings
from .vocabulary import Vocabulary

Report = Callable[[dict[str, Any]], object]


def optimizer(module: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Decay is that of matrices, not of biases and norms (google-research/bert, ``optimization.py``)."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    chosen, rate = settings.way
    return chosen.make(groups, rate, settings.beta)


def moved(x: Any, device: torch.device) -> Any:
    """Arguments as objectives make them, with all tensors on the device."""
    if isinstance(x, Tensor):
        return x.to(device)
    if isinstance(x, Band):
        return replace(x, columns=moved(x.columns, device))
    if isinstance(x, dict):
        return {name: moved(value, device) for name, value in x.items()}
    return [moved(value, device) for value in x] if isinstance(x, list) else x


class Loop:
    """Takes the steps of a training.

    What is random in a micro-batch (what is hidden, dropout) is a function of the seed, the step and the
    number of the micro-batch within the step; so it does not matter which process computes it.

    Args:
        module: A ``Learning``, maybe shared by many processes.
    """

    def __init__(
        self, module: Alone, objective: Objective, vocabulary: Vocabulary, settings: Settings, processes: Processes
    ) -> None:
        self.module, self.objective, self.vocabulary = module, objective, vocabulary
        self.settings, self.processes = settings, processes
        self.device = processes.device
        self.parts = settings.microbatches(processes.count)

    def step(self, state: State) -> dict[str, Tensor]:
        """One step; the means of the losses over this process's micro-batches, and the gradient's norm."""
        epoch, rows = state.batches.epoch, state.batches.take()
        # Where the text begins anew, nothing was before.
        before, state.memory = state.memory if state.batches.epoch == epoch else Memory(), Memory()
        for group in state.optimizer.param_groups:
            group["lr"] = self.settings.rate_of(state.step)
        size, found = len(rows) // self.parts, []
        mine = range(self.processes.rank, self.parts, self.processes.count)
        for number in mine:
            with self.module.gathering(last=number + self.processes.count >= self.parts):
                here = slice(number * size, (number + 1) * size)
                losses, mems = self._losses(rows[here], state.step, number, before.of(here, self.device))
                state.memory.keep(here, mems)
                (losses["loss"] / len(mine)).backward()
            found.append({name: loss.detach().float() for name, loss in losses.items()})
        norm = nn.utils.clip_grad_norm_(state.learner.parameters(), self.settings.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.tokens += int(rows.lengths.sum())
        means = {name: torch.stack([losses[name] for losses in found]).mean() for name in found[0]}
        return {**means, "gradient": norm.full_tensor() if isinstance(norm, DTensor) else norm}

    def _losses(
        self, rows: Rows, step: int, number: int, remembered: dict[str, Memories]
    ) -> tuple[dict[str, Tensor], Memories]:
        seed = self.settings.seed
        drawn = self.objective(rows, self.vocabulary, draws.generator(seed, "objective", step, number))
        arguments = moved(drawn, self.device)
        torch.manual_seed(draws.number(seed, "model", step, number))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            return self.module.module(**arguments, **remembered)

    def run(self, state: State, until: int, report: Report, save: Callable[[], None]) -> None:
        """Steps until ``state.step`` is ``until``.

        Args:
            report: Gets the lines of the log.
            save: Called each ``settings.save`` steps, and at the end.

        Raises:
            FloatingPointError: If a loss is no number; then nothing is saved.
        """
        began, counted, found = time.perf_counter(), state.tokens, []
        while state.step < until:
            found.append(self.step(state))
            due = state.step == until or state.step % self.settings.save == 0
            if not due and state.step % self.settings.log:
                continue
            row = self._row(state, found)
            row["tokens_per_second"] = round((state.tokens - counted) / (time.perf_counter() - began), 1)
            report(row)
            if due:
                save()
            began, counted, found = time.perf_counter(), state.tokens, []

    def _row(self, state: State, found: list[dict[str, Tensor]]) -> dict[str, Any]:
        """Means over the steps since the last line of the log."""
        means = torch.stack([torch.stack([*losses.values()]).double() for losses in found]).mean(0)
        means = self.processes.sum(means) / self.processes.count
        row: dict[str, Any] = {"step": state.step, **dict(zip(found[0], means.tolist(), strict=True))}
        if not math.isfinite(row["loss"] + row["gradient"]):
            raise FloatingPointError(
                f"step {state.step}: the loss is {row['loss']}, the gradient's norm {row['gradient']}: "
                "a lower rate may help"
            )
        return {**row, "rate": self.settings.rate_of(state.step - 1), "tokens": state.tokens}
