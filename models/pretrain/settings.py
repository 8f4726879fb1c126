"""What decides a training beside the family and the text."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from .optimizers import OPTIMIZERS, Optimizer


def _one(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "kind": type(default)})


def _own(kind: type, meaning: str) -> Any:
    """The family's own by default (``Recipe``)."""
    return field(default=None, metadata={"meaning": meaning, "kind": kind})


@dataclass(frozen=True)
class Settings:
    """How a model learns. How the rate goes from step to step is the optimizer's (:mod:`optimizers`).

    Raises:
        ValueError: Naming the argument.

    Example:
        >>> settings = Settings(steps=100, warmup=0.1).of_family("adamw", 1.0)
        >>> [settings.rate_of(step) for step in (0, 9, 10, 99)]
        [0.1, 1.0, 1.0, 0.011111111111111112]
    """

    length: int = _one(128, "tokens of a row, at most")
    batch: int = _one(16, "rows of a step, all processes together")
    micro: int = _one(0, "rows that go through the model at once (0: a process's share of the batch)")
    steps: int = _one(1000, "steps of the whole training")
    optimizer: str | None = _own(str, f"one of {', '.join(OPTIMIZERS)}")
    rate: float | None = _own(float, "highest learning rate")
    warmup: float = _one(0.1, "part of the steps before the rate falls, in which AdamW's rises")
    decay: float = _one(0.01, "weight decay, of matrices alone")
    clip: float = _one(1.0, "greatest norm of a step's gradient")
    beta: float = _one(0.98, "AdamW's memory of squared gradients")
    copies: int = _one(-1, "ways in which each row is masked: 0 anew each time, -1 as the family's paper")
    seed: int = _one(0, "of everything random")
    bf16: bool = _one(False, "compute in bfloat16 where that is safe (autocast)")
    log: int = _one(10, "steps from one line of the log, with their means, to the next")
    save: int = _one(500, "steps from one checkpoint to the next")

    def __post_init__(self) -> None:
        for name in ("batch", "steps", "log", "save"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("length", self.length >= 8, "at least 8")
        self._check("micro", self.micro >= 0, "at least 0")
        self._check("copies", self.copies >= -1, "at least -1")
        for name in ("rate", "clip"):
            self._check(name, getattr(self, name) is None or getattr(self, name) > 0, "above 0")
        self._check("optimizer", self.optimizer in (None, *OPTIMIZERS), f"one of {', '.join(OPTIMIZERS)}")
        self._check("decay", self.decay >= 0, "at least 0")
        self._check("warmup", 0 <= self.warmup <= 1, "in [0, 1]")
        self._check("beta", 0 <= self.beta < 1, "in [0, 1)")

    def _check(self, name: str, right: bool, allowed: str) -> None:
        if not right:
            raise ValueError(f"{name}: {allowed} is allowed, got {getattr(self, name)}")

    def of_family(self, optimizer: str, rate: float) -> Settings:
        """With the family's own where nothing is said. A rate belongs to its optimizer: of another one it must
        be named."""
        if self.rate is None and self.optimizer not in (None, optimizer):
            raise ValueError(f"rate: must be given with {self.optimizer}, the family's {rate} is one of {optimizer}")
        return replace(self, optimizer=self.optimizer or optimizer, rate=self.rate or rate)

    @property
    def way(self) -> tuple[Optimizer, float]:
        """The optimizer and the highest rate, of settings that are a family's."""
        assert self.optimizer is not None and self.rate is not None
        return OPTIMIZERS[self.optimizer], self.rate

    def rate_of(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        optimizer, highest = self.way
        return optimizer.rate(step + 1, round(self.warmup * self.steps), self.steps, highest)

    def microbatches(self, processes: int) -> int:
        """How many parts a step's rows are computed in, all processes together.

        Raises:
            ValueError: If they cannot be shared out evenly.
        """
        micro = self.micro or self.batch // processes
        if micro == 0 or self.batch % (micro * processes):
            raise ValueError(
                f"batch: a multiple of micro ({micro}) times the number of processes ({processes}) is allowed, "
                f"got {self.batch}"
            )
        return self.batch // micro


@dataclass(frozen=True)
class Sizes:
    """Of a small model, which learns in minutes on a CPU."""

    hidden: int = _one(128, "size of a token in the layers")
    layers: int = _one(2, "layers")
    heads: int = _one(2, "heads of attention")
    inner: int = _one(512, "size of a token within the feed-forward network")
    pixels: int = _one(32, "height and width of a picture as the model sees it")
    patch: int = _one(8, "height and width of a patch of it")
    vocabulary: int = _one(400, "tokens of a vocabulary that is made from the text")
    dropout: float = _one(0.0, "of sublayers and of attention (papers: mostly 0.1, of much longer trainings)")

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "inner", "pixels", "patch", "vocabulary"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: at least 1 is allowed, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: in [0, 1) is allowed, got {self.dropout}")
        if self.hidden % (4 * self.heads):
            raise ValueError(f"hidden: a multiple of 4 * heads ({4 * self.heads}) is allowed, got {self.hidden}")


def meanings(of: type) -> dict[str, tuple[Any, type, str]]:
    """Name -> default, type and meaning of each field: what a command line offers."""
    return {one.name: (one.default, one.metadata["kind"], one.metadata["meaning"]) for one in fields(of)}
