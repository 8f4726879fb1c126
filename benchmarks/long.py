"""Long real text: models over it, and their attention alone, beside transformers' own or, of families that
transformers lacks, plain torch.

Both sides have the same weights, which went through files, and the same tokens: one row of
Python's documentation, bytes as tokens. Before anything is timed, hidden states and, where
there is a backward, the gradients of all parameters must agree. "forward" is inference;
"both" is a training step but for the optimizer. ``memory`` is the peak on top of parameters
and inputs, results and gradients included.

A side that would need more than a third of the free memory is left out with that reason. How
much it would need is what the last size at which both ran took (else the smallest, called for
this), times the ratio of tokens and of layers; and that size's verdict is then the case's.

Short models (the family "encoders") get a batch of the text instead, padded to one length; states
and rates are of real tokens. Images are noise: what they show takes no time.
"""

from __future__ import annotations

import functools
import gc
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from . import memory
from .check import Verdict
from .models import ENCODERS
from .rows import Row
from .runner import LATE
from .sides import First, Long, Side, first, same, sides, with_torchs_linear
from .timing import Times, interleave

DIRECTIONS = ("forward", "both")
Sides = Callable[[], "tuple[Side, Side]"]


def cases(full: bool) -> list[Long]:
    """All cases of a mode."""
    return [*_texts(full), *_alone(full)]


def _texts(full: bool) -> Iterator[Long]:
    for encoder in ENCODERS:
        for length, layers in encoder.sizes if full else encoder.quick:
            yield Long(encoder, length, layers)


def _alone(full: bool) -> Iterator[Long]:
    for encoder in ENCODERS:
        if encoder.attention is not None:
            for length in encoder.lengths if full else ():
                yield Long(encoder, length, 1, alone=True)


def missing() -> str | None:
    """What the cases lack, or None."""
    return None if importlib.util.find_spec("transformers") else "transformers is not installed"


@dataclass
class _Seen:
    """What both sides did at a size."""

    case: Long
    memory: dict[str, int | None]
    verdict: Verdict


@dataclass
class Runner:
    """Checks and measures cases on one device; ``facts`` are what every row carries."""

    device: str
    facts: dict
    _seen: dict[tuple, _Seen] = field(default_factory=dict)

    def run(self, case: Long, seconds: float) -> list[Row]:
        """Rows of a case, spending about ``seconds`` on timing on top of one call of each."""
        reason = None if callable(case.encoder.peer) else missing()
        if reason is not None:
            return self._skipped(case, reason)
        each = seconds / len(DIRECTIONS)
        made = functools.cache(lambda: sides(case, self.device))
        return [row for direction in DIRECTIONS for row in self._direction(case, direction, made, each)]

    def late(self, case: Long) -> list[Row]:
        """Rows of a case for which no time was left."""
        return self._skipped(case, LATE)

    def _skipped(self, case: Long, reason: str) -> list[Row]:
        return [{**self._bare(case, name, d), "skip": reason} for d in DIRECTIONS for name in case.contenders]

    def _direction(self, case: Long, direction: str, made: Sides, seconds: float) -> list[Row]:
        rows = {name: self._bare(case, name, direction) for name in case.contenders}
        for name, reason in self._too_large(case, direction).items():
            rows[name]["skip"] = reason
        able = [name for name in case.contenders if "skip" not in rows[name]]
        done = self._call(case, direction, made, able) if able else {}
        if not done:
            return list(rows.values())
        verdict = self._seen[self._key(case, direction)].verdict
        for name in able:
            rows[name].update(memory=done[name].memory, checked=verdict.as_dict())
        if not verdict.passed:
            by = f"{verdict.worst:.3g} times what is allowed"
            wrong = f"wrong: {verdict.where} differs from {case.encoder.rival}'s by {by}"
            return [{**rows[name], "skip": rows[name].get("skip", wrong)} for name in case.contenders]
        runs: dict[str, Callable[[], object]] = {name: one.run for name, one in done.items()}
        times = interleave(runs, self.device, seconds, {name: one.seconds for name, one in done.items()}, least=1)
        fill(rows, times, sum(case.real))
        return list(rows.values())

    def _call(self, case: Long, direction: str, made: Sides, able: list[str]) -> dict[str, First]:
        """The first call of each side that is able; a verdict if both are."""
        chosen = [side for side in made() if side.name in able]
        gc.collect()
        done = {side.name: first(side, direction, self.device) for side in chosen}
        if len(done) == len(case.contenders):
            ours, theirs = (done[name] for name in case.contenders)
            if case.encoder.hashes:
                ours = with_torchs_linear(chosen[0], direction, self.device)
            verdict = same(ours, theirs, case)
            taken = {name: one.memory for name, one in done.items()}
            self._seen[self._key(case, direction)] = _Seen(case, taken, verdict)
        return done

    def _too_large(self, case: Long, direction: str) -> dict[str, str]:
        """Why a side is left out."""
        key, small = self._key(case, direction), case.smallest()
        if case.work <= small.work:
            return {}
        if key not in self._seen:
            self._call(small, direction, lambda: sides(small, self.device), list(case.contenders))
        seen, limit = self._seen[key], memory.available(self.device) / 3
        need = {name: (taken or 0) * case.work / seen.case.work for name, taken in seen.memory.items()}
        return {
            name: f"{case.title} would take {size / 2**30:.0f} GiB, going by {seen.case.name}; "
            "that is more than a third of the free memory"
            for name, size in need.items()
            if size > limit
        }

    @staticmethod
    def _key(case: Long, direction: str) -> tuple:
        return case.family, case.encoder.name, direction

    def _bare(self, case: Long, contender: str, direction: str) -> Row:
        row = {"family": case.family, "case": case.name, "contender": contender, "direction": direction}
        return {**row, "x": case.length, "model": case.model, "dtype": "float32", **self.facts}


def fill(rows: dict[str, Row], times: dict[str, Times], tokens: int) -> None:
    """Times of contenders, rates of ``tokens`` a call, and both ratios to pkernels."""
    base, own = times.get("pkernels"), rows["pkernels"].get("memory")
    for name, t in times.items():
        row = rows[name]
        row.update(seconds=vars(t), rate=tokens / t.median, unit="tokens/s")
        if base is not None:
            row["ratio"] = t.median / base.median
        if own and row.get("memory"):
            row["memory_ratio"] = row["memory"] / own
