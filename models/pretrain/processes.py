"""One process or many, as torchrun starts them, and how they share a model."""

from __future__ import annotations

import atexit
import os
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ..parts.model import Model


@dataclass(frozen=True)
class Processes:
    """Which of how many this is, and its device."""

    rank: int
    count: int
    device: torch.device

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, in the first one; a part of it in the others."""
        if self.count == 1:
            return [value]
        found = [None] * self.count
        dist.gather_object(value, found if self.rank == 0 else None)
        return found

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes."""
        if self.count > 1:
            dist.all_reduce(values)
        return values


def joined(device: str) -> Processes:
    """The processes that torchrun started, or this one alone. On "cuda" each has a GPU of its own.

    The group stays until the process ends: torchrun's store knows one group alone.
    """
    if device not in ("cpu", "cuda"):
        raise ValueError(f'device: "cpu" or "cuda" is allowed, got {device!r}')
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: cuda is allowed where torch finds a GPU, it finds none")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if device == "cuda" else torch.device("cpu")
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if count > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Processes(dist.get_rank() if count > 1 else 0, count, own)


@dataclass(frozen=True)
class Alone:
    """A module as it is."""

    module: nn.Module

    def gathering(self, last: bool) -> AbstractContextManager[Any]:
        """While a micro-batch is computed: gradients are summed over processes after the last alone."""
        return nullcontext()


class Replicated(Alone):
    """Every process has all parameters (DDP)."""

    def gathering(self, last: bool) -> AbstractContextManager[Any]:
        assert isinstance(self.module, DistributedDataParallel)
        return nullcontext() if last else self.module.no_sync()


class Sharded(Alone):
    """Every process has a part of each parameter (FSDP2)."""

    def gathering(self, last: bool) -> AbstractContextManager[Any]:
        assert isinstance(self.module, FSDPModule)
        self.module.set_requires_gradient_sync(last)
        return nullcontext()


def alone(module: nn.Module, processes: Processes) -> Alone:
    return Alone(module)


def ddp(module: nn.Module, processes: Processes) -> Alone:
    return Replicated(DistributedDataParallel(module))


def fsdp(module: nn.Module, processes: Processes) -> Alone:
    """Layers are put together when they are needed, and the rest of the model once a step; with it what
    several layers have in common."""
    mesh = dist.init_device_mesh(processes.device.type, (processes.count,))
    layers = list(dict.fromkeys(_layers(module)))
    common = _common(module, layers)
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=common)
    fully_shard(module, mesh=mesh)
    return Sharded(module)


PARALLEL: dict[str, Callable[[nn.Module, Processes], Alone]] = {"ddp": ddp, "fsdp": fsdp}


def _layers(module: nn.Module) -> Iterable[nn.Module]:
    """The layers of all models. Reversible ones, which read parameters in ways of their own, are no
    ``body.layers`` and stay with the rest."""
    for part in module.modules():
        if isinstance(part, Model):
            yield from _flat(getattr(part.body, "layers", ()))


def _flat(layers: Iterable[Any]) -> Iterable[nn.Module]:
    for layer in layers:
        if isinstance(layer, nn.ModuleList):
            yield from _flat(layer)
        else:
            yield layer


def _common(module: nn.Module, layers: list[nn.Module]) -> set[nn.Parameter]:
    """Parameters of more than one layer, or of one and of what is none."""
    places = [f"{name}." for name, part in module.named_modules(remove_duplicate=False) if part in layers]
    named = module.named_parameters(remove_duplicate=False)
    outside = {p for name, p in named if not name.startswith(tuple(places))}
    counts = Counter(p for layer in layers for p in layer.parameters())
    return {p for p, count in counts.items() if count > 1 or p in outside}


def whole(tensor: Tensor) -> Tensor:
    """On the CPU, put together from all processes, all of which must call this."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def fill(tensor: Tensor, values: Tensor) -> None:
    """Put values into a tensor, or each process's part of them."""
    with torch.no_grad():
        if isinstance(tensor, DTensor):
            full = values.to(tensor.device)
            tensor.copy_(distribute_tensor(full, tensor.device_mesh, tensor.placements))
        else:
            tensor.copy_(values)
