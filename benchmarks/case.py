"""What is measured together: one problem, those who solve it, and what they are held against."""

from __future__ import annotations

from dataclasses import dataclass

from .contenders import Contender, Pkernels
from .workload import Workload

DIRECTIONS = ("forward", "backward", "both")


@dataclass(frozen=True)
class Entry:
    """A contender and the workload it runs."""

    contender: Contender
    workload: Workload

    @property
    def name(self) -> str:
        """The contender's."""
        return self.contender.name


@dataclass(frozen=True)
class Case:
    """Entries that take turns; ratios are to the first, which is pkernels.

    Attributes:
        family: One table and one figure.
        name: Unique within the family.
        x: Place on the figure's horizontal axis; None draws bars.
        unit: "GFLOP/s" of useful pairs, or "GB/s" of keys and values read.
    """

    family: str
    name: str
    x: int | None
    entries: tuple[Entry, ...]
    directions: tuple[str, ...] = DIRECTIONS
    unit: str = "GFLOP/s"

    @property
    def title(self) -> str:
        """Family and name."""
        return f"{self.family}: {self.name}"


def versus(
    family: str,
    name: str,
    x: int | None,
    workload: Workload,
    *others: Contender,
    directions: tuple[str, ...] = DIRECTIONS,
    unit: str = "GFLOP/s",
) -> Case:
    """pkernels against others on one workload."""
    entries = tuple(Entry(contender, workload) for contender in (Pkernels(), *others))
    return Case(family, name, x, entries, directions, unit)


def variants(family: str, name: str, first: Workload, /, directions=DIRECTIONS, **others: Workload) -> Case:
    """pkernels on a plain workload against pkernels on others: what a feature costs."""
    entries = [Entry(Pkernels("plain"), first)]
    entries += [Entry(Pkernels(label.replace("_", " ")), workload) for label, workload in others.items()]
    return Case(family, name, None, tuple(entries), directions)
