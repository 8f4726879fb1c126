"""The steps of a training: forward, backward, AdamW."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import draws
from .checkpoint import State
from .objectives import Objective
from .processes import Alone, Processes
from .rows import Rows
from .settings import Settings
from .vocabulary import Vocabulary

Report = Callable[[dict[str, Any]], object]


def adamw(module: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """Decay is that of matrices, not of biases and norms (google-research/bert, ``optimization.py``)."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, settings.beta), eps=1e-6)


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
        self.parts = settings.microbatches(processes.count)

    def step(self, state: State) -> tuple[dict[str, Tensor], Tensor]:
        """One step; the means of the losses over this process's micro-batches, and the gradient's norm."""
        rows = state.batches.take(self.settings.batch)
        for group in state.optimizer.param_groups:
            group["lr"] = self.settings.rate_of(state.step)
        size, sums = len(rows) // self.parts, {}
        mine = range(self.processes.rank, self.parts, self.processes.count)
        for number in mine:
            with self.module.gathering(last=number + self.processes.count >= self.parts):
                losses = self._losses(rows[number * size : (number + 1) * size], state.step, number)
                (losses["loss"] / len(mine)).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach() / len(mine)
        norm = nn.utils.clip_grad_norm_(state.learner.parameters(), self.settings.clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.tokens += int(rows.lengths.sum())
        return sums, norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _losses(self, rows: Rows, step: int, number: int) -> dict[str, Tensor]:
        seed, device = self.settings.seed, self.processes.device
        drawn = self.objective(rows, self.vocabulary, draws.generator(seed, "objective", step, number))
        arguments = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in drawn.items()}
        torch.manual_seed(draws.number(seed, "model", step, number))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.bf16):
            return self.module.module(**arguments)

    def run(self, state: State, until: int, report: Report, save: Callable[[], None]) -> None:
        """Steps until ``state.step`` is ``until``.

        Args:
            report: Gets the lines of the log.
            save: Called each ``settings.save`` steps, and at the end.

        Raises:
            FloatingPointError: If a loss is no number; then nothing is saved.
        """
        began, counted = time.perf_counter(), state.tokens
        while state.step < until:
            losses, norm = self.step(state)
            done = state.step == until
            if done or state.step % self.settings.log == 0:
                row = self._row(state, losses, norm)
                seconds = time.perf_counter() - began
                row["tokens_per_second"] = round((state.tokens - counted) / seconds, 1)
                report(row)
                began, counted = time.perf_counter(), state.tokens
            if done or state.step % self.settings.save == 0:
                save()
                began, counted = time.perf_counter(), state.tokens

    def _row(self, state: State, losses: dict[str, Tensor], norm: Tensor) -> dict[str, Any]:
        means = self.processes.sum(torch.stack([*losses.values()]).double()) / self.processes.count
        row: dict[str, Any] = {"step": state.step, **dict(zip(losses, means.tolist(), strict=True))}
        row |= {"gradient": float(norm), "rate": self.settings.rate_of(state.step - 1), "tokens": state.tokens}
        if not math.isfinite(row["loss"] + row["gradient"]):
            raise FloatingPointError(
                f"step {state.step}: the loss is {row['loss']}, the gradient's norm {row['gradient']}: "
                "a lower rate may help"
            )
        return row
