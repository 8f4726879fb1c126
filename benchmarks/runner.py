"""Checks, measures and writes down one case after another."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from .case import Case, Entry
from .ceilings import Ceiling, ceiling
from .check import Verdict, agree, check
from .contenders import Pkernels
from .rows import Row
from .timing import Times, interleave
from .turn import Ready, is_ours, ready
from .workload import Inputs, Workload

LATE = "no time was left in the quick run; --only picks cases, --full runs all"


class Runner:
    """Measures cases on one device.

    Args:
        device: "cpu" or "cuda".
        facts: What every row carries.
    """

    def __init__(self, device: str, facts: dict) -> None:
        self.device, self.facts = device, facts
        self._verdicts: dict[tuple, Verdict] = {}

    def run(self, case: Case, seconds: float) -> list[Row]:
        """Rows of a case, spending about ``seconds`` on timing. If pkernels is wrong, nothing
        is timed and the one row says so."""
        verdicts = {entry.name: self._verdict(entry, case) for entry in case.entries if is_ours(entry)}
        wrong = {name: verdict for name, verdict in verdicts.items() if not verdict.passed}
        if wrong:
            reason = "; ".join(f"wrong: {v.where} is {v.worst:.3g} times its error budget" for v in wrong.values())
            rows = [self._row(case, entry, d, skip=reason) for entry in case.entries for d in case.directions]
            return [{**row, "checked": next(iter(wrong.values())).as_dict()} for row in rows]
        gc.collect()
        inputs = {entry.workload: entry.workload.tensors(self.device) for entry in case.entries}
        rows = []
        for direction in case.directions:
            rows += self._direction(case, direction, inputs, seconds / len(case.directions), verdicts)
        return rows

    def late(self, case: Case) -> list[Row]:
        """Rows of a case for which no time was left."""
        return [self._row(case, entry, d, skip=LATE) for entry in case.entries for d in case.directions]

    def _verdict(self, entry: Entry, case: Case) -> Verdict:
        gradients = len(case.directions) > 1
        key = (entry.workload.small(), gradients, entry.contender.__class__, getattr(entry.contender, "backend", None))
        if key not in self._verdicts:
            self._verdicts[key] = check(entry.workload, entry.contender, self.device, gradients)
        return self._verdicts[key]

    def _direction(
        self, case: Case, direction: str, inputs: dict[Workload, Inputs], seconds: float, verdicts: dict[str, Verdict]
    ) -> list[Row]:
        rows: dict[str, Row] = {}
        turns: dict[str, Ready] = {}
        first = case.entries[0]
        for entry in case.entries:
            turn = ready(entry, inputs[entry.workload], direction, self.device)
            if isinstance(turn, Ready) and first.name in turns and _comparable(entry, first):
                turn = agree(turn.results, turns[first.name].results) or turn
            rows[entry.name] = self._row(case, entry, direction, skip=turn if isinstance(turn, str) else None)
            if isinstance(turn, Ready):
                turns[entry.name] = turn
                verdict = verdicts.get(entry.name, verdicts[first.name])
                rows[entry.name].update(memory=turn.memory, checked=verdict.as_dict())
                if entry is not first:
                    turn.results.clear()
        top = ceiling(case.unit, first.workload.dtype, self.device)
        runs: dict[str, Callable[[], object]] = {name: turn.run for name, turn in turns.items()}
        if isinstance(top, Ceiling) and runs:
            runs[top.name] = top.turn
        spent = {name: turn.seconds for name, turn in turns.items()}
        times = interleave(runs, self.device, seconds, spent) if runs else {}
        self._fill(case, direction, rows, times, top)
        return list(rows.values())

    def _fill(
        self, case: Case, direction: str, rows: dict[str, Row], times: dict[str, Times], top: Ceiling | str
    ) -> None:
        """Times, ratios, rates and shares; a row of its own for the ceiling."""
        peak = None
        if isinstance(top, str):
            rows["peak"] = self._bare(case, "peak", direction, skip=top)
        elif top.name in times:
            peak = top.rate(times[top.name])
            rows[top.name] = self._bare(case, top.name, direction)
            rows[top.name].update(seconds=vars(times[top.name]), rate=peak / 1e9, unit=top.unit)
        first = case.entries[0]
        for entry in case.entries:
            if entry.name not in times:
                continue
            t = times[entry.name]
            rate = _work(entry.workload, direction, case.unit) / t.median
            rows[entry.name].update(
                seconds=vars(t), rate=rate / 1e9, unit=case.unit, share=rate / peak if peak else None
            )
            if first.name in times:
                base = times[first.name].median / first.workload.pairs() / first.workload.heads
                rows[entry.name]["ratio"] = t.median / entry.workload.pairs() / entry.workload.heads / base

    def _row(self, case: Case, entry: Entry, direction: str, skip: str | None = None) -> Row:
        workload, row = entry.workload, self._bare(case, entry.name, direction, skip)
        size = torch.empty(0, dtype=workload.dtype).element_size()
        q = workload.batch * workload.heads * workload.queries
        kv = workload.batch * workload.hkv * workload.sk
        row.update(
            dtype=workload.dtype_name,
            shape={"B": workload.batch, "H": workload.heads, "Hkv": workload.hkv, "Sq": workload.queries,
                   "Sk": workload.sk, "D": workload.dim, "Dv": workload.dv},
            pairs=workload.pairs(),
            input_bytes=size * (q * workload.dim + kv * (workload.dim + workload.dv)),
            output_bytes=size * q * workload.dv,
        )  # fmt: skip
        if isinstance(entry.contender, Pkernels):
            row["backend"] = entry.contender.backend_for(workload, workload.small().tensors(self.device))
        return row

    def _bare(self, case: Case, contender: str, direction: str, skip: str | None = None) -> Row:
        row: Row = {"family": case.family, "case": case.name, "contender": contender, "direction": direction}
        row["x"] = case.x
        if skip is not None:
            row["skip"] = skip
        return {**row, **self.facts}


def _comparable(entry: Entry, first: Entry) -> bool:
    """Whether both compute the same; dropout's bits differ from library to library."""
    return entry.workload == first.workload and not entry.workload.dropout


def _work(workload: Workload, direction: str, unit: str) -> float:
    """Operations, or bytes of keys and values."""
    if unit == "GFLOP/s":
        return workload.flops(direction)
    size = torch.empty(0, dtype=workload.dtype).element_size()
    return size * workload.batch * workload.hkv * workload.sk * (workload.dim + workload.dv)
