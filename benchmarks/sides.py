"""The two sides of a case: a forward of pkernels' model and one of the other's, to be called in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pkernels.models import Model

from . import memory
from .check import Verdict, same_gradients, worst
from .models import Encoder, twins

NOISE = 0.05
"""Scores of a base model's attention then vary by about 2, as a trained one's do."""


@dataclass(frozen=True)
class Long:
    """A model over one long text or a batch, or its first layer's attention alone, at one length."""

    encoder: Encoder
    length: int
    layers: int
    alone: bool = False

    @property
    def family(self) -> str:
        """The table it stands in."""
        if self.alone:
            return "long attention"
        return "long text" if len(self.encoder.rows) == 1 else "encoders"

    @property
    def model(self) -> str:
        """What one line of a figure shows."""
        layers = f"{self.layers} layer{'s' if self.layers > 1 else ''}"
        return self.encoder.name if self.alone else f"{self.encoder.name}, {layers}"

    @property
    def name(self) -> str:
        """Unique within the family."""
        batch = f" B={len(self.encoder.rows)}" if len(self.encoder.rows) > 1 else ""
        return f"{self.model} float32 S={self.length}{batch}"

    @property
    def contenders(self) -> tuple[str, str]:
        """Ours comes first."""
        return "pkernels", self.encoder.rival

    @property
    def real(self) -> list[int]:
        """Tokens of each row that are no padding."""
        return [round(part * self.length) for part in self.encoder.rows]

    @property
    def title(self) -> str:
        """Family and name."""
        return f"{self.family}: {self.name}"

    @property
    def work(self) -> int:
        """What memory is at most in proportion to: tokens times layers."""
        return sum(self.real) * self.layers

    def smallest(self) -> Long:
        """The least work of the same kind that the suite has, or this."""
        sizes = [(length, 1) for length in self.encoder.lengths] if self.alone else self.encoder.sizes
        return min(self, *(replace(self, length=n, layers=m) for n, m in sizes), key=lambda case: case.work)


@dataclass
class Side:
    """One of the two.

    Attributes:
        name: The contender's.
        module: Whose parameters get gradients.
        forward: Returns hidden states ``(1, S, width)``, or of real tokens ``(total, width)``.
        named: Gives our tensors transformers' names.
        leaf: What beside parameters gets a gradient.
    """

    name: str
    module: nn.Module
    forward: Callable[[], Tensor]
    named: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
    leaf: Tensor | None = None

    def ahead(self) -> Tensor:
        """Inference."""
        with torch.no_grad():
            return self.forward()

    def step(self) -> Tensor:
        """A training step but for the optimizer: forward, and backward of a mean over all
        tokens that weighs the features differently (their plain mean is 0 behind a norm)."""
        self.clear()
        states = self.forward()
        weights = torch.linspace(-1, 1, states.shape[-1], device=states.device)
        (states * weights).sum(-1).square().mean().backward()
        return states.detach()

    def clear(self) -> None:
        """Forget the gradients."""
        self.module.zero_grad(set_to_none=True)
        if self.leaf is not None:
            self.leaf.grad = None

    def gradients(self) -> dict[str, Tensor]:
        """Of the last step, under transformers' names."""
        own = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}
        beside = {} if self.leaf is None or self.leaf.grad is None else {"input": self.leaf.grad}
        return {**self.named(own), **beside}


def sides(case: Long, device: str) -> tuple[Side, Side]:
    """pkernels and its rival with the same weights and inputs."""
    encoder = case.encoder
    ours, theirs = twins(encoder.architecture, encoder.config(case.length, case.layers), device, NOISE, encoder.peer)
    if case.alone:
        return _attentions(case, ours, theirs, device)
    real = (torch.arange(case.length) < torch.tensor(case.real)[:, None]).to(device)
    given, arguments = encoder.given(real), encoder.arguments(case.length, device)
    told = arguments if encoder.told is None else encoder.told(case.length, device)
    padded = not bool(real.all())

    def calling(model: nn.Module, arguments: Mapping[str, Any]) -> Callable[[], Tensor]:
        if padded:
            return lambda: encoder.states(model(**given, **arguments))[real]
        return lambda: encoder.states(model(**given, **arguments))

    # What is plain torch is our model but for what computes.
    files = theirs.named_tensors if isinstance(theirs, Model) else encoder.files
    return (
        Side("pkernels", ours, calling(ours, arguments), ours.named_tensors),
        Side(encoder.rival, theirs, calling(theirs, told), files),
    )


def _attentions(case: Long, ours: Any, theirs: Any, device: str) -> tuple[Side, Side]:
    assert case.encoder.attention is not None
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, case.length, theirs.config.hidden_size, generator=generator).to(device)
    mine, other = (x.clone().requires_grad_() for _ in range(2))
    attend, attend_too = case.encoder.attention(ours, theirs, case.length, device)
    return (
        Side("pkernels", ours, lambda: attend(mine), ours.named_tensors, mine),
        Side("transformers", theirs, lambda: attend_too(other), dict, other),
    )


@dataclass
class First:
    """A side's first call at full size: what it took and gave. The next calls are ``run``."""

    run: Callable[[], Tensor]
    seconds: float
    memory: int | None
    states: Tensor
    gradients: dict[str, Tensor]


def first(side: Side, direction: str, device: str) -> First:
    """Call a side once and keep what it gave."""
    run = side.ahead if direction == "forward" else side.step
    side.module.train(direction != "forward")
    side.clear()
    if device == "cuda":
        run()  # compiles
        side.clear()
    given: list[Tensor] = []
    started = time.perf_counter()
    taken = memory.peak(lambda: given.append(run()), device)
    return First(run, time.perf_counter() - started, taken, given[0], side.gradients())


def with_torchs_linear(side: Side, direction: str, device: str) -> First:
    """What our side gives when torch multiplies for its linear maps, as for the rival's."""
    with torch.backends.mkldnn.flags(enabled=False):  # models.parts.linear heeds it
        return first(side, direction, device)


def same(ours: First, theirs: First, case: Long) -> Verdict:
    """Whether states and gradients agree; the worst of them over what is allowed."""
    allowed = case.encoder.tolerance * float(theirs.states.abs().max())
    error = float((ours.states - theirs.states).abs().nan_to_num(nan=torch.inf).max()) / allowed
    verdicts = [Verdict(error <= 1, error, "states")]
    if ours.gradients or theirs.gradients:
        verdicts.append(same_gradients(ours.gradients, theirs.gradients))
    found = worst(verdicts)
    return replace(found, where=f"{found.where} at {case.name}")
