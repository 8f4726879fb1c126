"""How a few minutes are shared out among what is to be done in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """A part of the day.

    Attributes:
        name: As the report has it.
        share: Of the whole time, kept for it while the stages before it run.
        run: ``run(seconds)`` does it in about that time and says how it went, beginning with "passed",
            "failed" or "skipped".
    """

    name: str
    share: float
    run: Callable[[float], str]


def spend(stages: Sequence[Stage], total: float, clock: Callable[[], float]) -> dict[str, str]:
    """Run stages in turn; what one leaves of its share the next ones may use.

    Each may take all that is left but for the shares of those behind it, so the end is ``total`` seconds
    away at the start and stays there.

    Returns:
        What each said, by name.

    Example:
        >>> now = [0.0]
        >>> def quick(seconds):
        ...     now[0] += 10
        ...     return f"passed in 10 of {seconds:.0f} s"
        >>> spend([Stage("tests", 0.5, quick), Stage("figures", 0.5, quick)], 100.0, lambda: now[0])
        {'tests': 'passed in 10 of 50 s', 'figures': 'passed in 10 of 90 s'}
    """
    end, said = clock() + total, {}
    for index, stage in enumerate(stages):
        kept = total * sum(later.share for later in stages[index + 1 :])
        seconds = end - clock() - kept
        said[stage.name] = stage.run(seconds) if seconds > 0 else "skipped: no time was left"
    return said
