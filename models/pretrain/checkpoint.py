"""All that a training needs to go on as if it had never stopped.

Files hold whole tensors, whoever wrote them: one process can go on where eight stopped.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..parts.objectives.distillation import Taught
from .memory import Memory
from .processes import Processes, fill, whole
from .rows import Examples


@dataclass
class State:
    """A training as far as it has come. Of what is random nothing has to be kept: see ``draws``."""

    learner: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Examples
    memory: Memory = field(default_factory=Memory)
    step: int = 0
    tokens: int = 0

    def trained(self) -> dict[str, Tensor]:
        """Parameters and buffers, but for those of a teacher."""
        teachers = tuple(f"{name}.teacher." for name, part in self.learner.named_modules() if isinstance(part, Taught))
        teachers = tuple(start.removeprefix(".") for start in teachers)  # the learner's own name is empty
        return {name: tensor for name, tensor in self.learner.state_dict().items() if not name.startswith(teachers)}


def save(path: Path, state: State, processes: Processes) -> dict[str, Tensor]:
    """Write the state; returns the learner's tensors. All processes must call this, the first writes."""
    learner = {name: whole(tensor) for name, tensor in state.trained().items()}
    moments = state.optimizer.state_dict()["state"]
    optimizer = {
        number: {name: whole(value) for name, value in of_parameter.items()} for number, of_parameter in moments.items()
    }
    memories = processes.gathered(state.memory.rows)
    if processes.rank == 0:
        values = {
            "learner": learner,
            "optimizer": optimizer,
            "memory": {row: x.cpu() for rows in memories for row, x in rows.items()},
            "place": (state.batches.epoch, state.batches.place),
            "step": state.step,
            "tokens": state.tokens,
        }
        unfinished = path.with_suffix(".unfinished")
        torch.save(values, unfinished)
        os.replace(unfinished, path)  # a stop while writing leaves the file of before
    processes.wait()
    return learner


def load(path: Path, state: State) -> None:
    """Put the state in a file into ``state``, whose learner and optimizer are new.

    Raises:
        ValueError: If the file is broken or of another learner.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        _fill(state, values)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: a checkpoint of this training is allowed; {error!r}") from error


def _fill(state: State, values: dict[str, Any]) -> None:
    for name, tensor in state.trained().items():
        fill(tensor, values["learner"][name])
    groups = state.optimizer.param_groups
    parameters = [p for group in groups for p in group["params"]]
    for number, parameter in enumerate(parameters):
        if number in values["optimizer"]:
            state.optimizer.state[parameter] = {
                name: _like(value, parameter) for name, value in values["optimizer"][number].items()
            }
    state.batches.go_to(*values["place"])
    state.memory.rows = values["memory"]
    state.step, state.tokens = values["step"], values["tokens"]


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A moment as the optimizer keeps it: shared out as its parameter is, if it has its shape; the number of steps as
    it is."""
    if value.dim() == 0:
        return value.clone()
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    moment = torch.zeros_like(parameter, requires_grad=False)
    fill(moment, value)
    return moment
