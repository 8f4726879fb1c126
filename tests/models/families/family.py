"""What a row of the table is made of, and what it takes to be green."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .compare import Agreement
from .lessons import Learned, Lesson, learn

BOUND = 1e-5
"""Of both differences; float32 on two sides that add in different orders."""

Check = Callable[[Path], object]
"""Called with an empty folder; raises if what it is about is not so."""


@dataclass(frozen=True)
class Family:
    """One of the survey's models.

    Args:
        name: As the survey has it.
        made_of: What computes, and who sees whom.
        objective: What ``lesson`` trains.
        peer: Who ``agree`` compares with.
        agree: Builds a small model with noise in all parameters, takes it through files, runs it and its peer.
        lesson: Makes a model and a batch of its pre-training.
        files: Kind of file -> what reads or writes it.
        real: Weights that others trained -> what holds their published results.
        measured: How the names of its benchmarks begin.
        idle: Parameters that the objective does not reach.
    """

    name: str
    made_of: str
    objective: str
    peer: str
    agree: Callable[[Path], Agreement]
    lesson: Callable[[Path], Lesson]
    files: Mapping[str, Check]
    real: Mapping[str, Check] = field(default_factory=dict)
    measured: str = ""
    idle: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Found:
    """What running a family came to; ``wrong`` lists what is not as it should be."""

    agreement: Agreement
    learned: Learned
    wrong: tuple[str, ...]


def run(family: Family) -> Found:
    """Compare, train and read files; real weights last, for without them the rest would not be told."""
    with tempfile.TemporaryDirectory() as folder:
        places = _places(Path(folder))
        agreement = family.agree(places())
        learned = learn(family.lesson(places()))
        for check in family.files.values():
            check(places())
        wrong = _wrong(family, agreement, learned)
        if not wrong:
            for check in family.real.values():
                check(places())
    return Found(agreement, learned, wrong)


def _wrong(family: Family, agreement: Agreement, learned: Learned) -> tuple[str, ...]:
    wrong = [f"{what} differ by {x:.2g}" for what, x in vars(agreement).items() if not x < BOUND]
    if learned.idle != family.idle:
        wrong.append(f"no gradient in {sorted(learned.idle)} instead of {sorted(family.idle)}")
    wrong += [f"a gradient of {name} is not finite" for name in sorted(learned.infinite)]
    if not learned.last < learned.first:
        wrong.append(f"the loss went from {learned.first:.4g} to {learned.last:.4g}")
    return tuple(wrong)


def _places(folder: Path) -> Callable[[], Path]:
    """Empty folders, one after the other."""
    numbers = iter(range(1000))

    def place() -> Path:
        made = folder / str(next(numbers))
        made.mkdir()
        return made

    return place
