"""Checks, measures and writes down one case after another."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch
from torch import Tensor

from . import memory
from .case import Case, Entry
from .ceilings import Ceiling, ceiling
from .check import Verdict, agree, check
from .contenders import Pkernels
from .rows import Row
from .timing import Times, interleave
from .workload import Inputs, Workload

Run = Callable[[], "list[Tensor]"]


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
        verdicts = {entry.name: self._verdict(entry, case) for entry in case.entries if _ours(entry)}
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
        reason = "no time was left in the quick run; --only picks cases, --full runs all"
        return [self._row(case, entry, d, skip=reason) for entry in case.entries for d in case.directions]

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
        runs: dict[str, Run] = {}
        spent: dict[str, float] = {}
        first, wanted = case.entries[0], None
        for entry in case.entries:
            x = inputs[entry.workload]
            reason = entry.contender.refuses(entry.workload, direction, self.device)
            if reason is None:
                run = _directed(entry, x, direction)
                started = time.perf_counter()
                bytes_taken, results = self._first_call(run)
                spent[entry.name] = time.perf_counter() - started
                if entry is first:
                    wanted = results
                elif entry.workload == first.workload and not entry.workload.dropout and wanted is not None:
                    reason = agree(_real(results, x, direction), _real(wanted, x, direction))
                del results
            rows[entry.name] = self._row(case, entry, direction, skip=reason)
            if reason is None:
                runs[entry.name] = run
                verdict = verdicts.get(entry.name, verdicts[first.name])
                rows[entry.name].update(memory=bytes_taken, checked=verdict.as_dict())
        wanted = None
        top = ceiling(case.unit, first.workload.dtype, self.device)
        timed: dict[str, Callable[[], object]] = dict(runs)
        if isinstance(top, Ceiling) and runs:
            timed[top.name] = top.run
        times = interleave(timed, self.device, seconds, spent) if runs else {}
        self._fill(case, direction, rows, times, top)
        return list(rows.values())

    def _first_call(self, run: Run) -> tuple[int | None, list[Tensor]]:
        """The memory of the first call at full size, and its results."""
        kept: list[Tensor] = []
        taken = memory.peak(lambda: kept.extend(run()), self.device)
        return taken, kept

    def _fill(
        self, case: Case, direction: str, rows: dict[str, Row], times: dict[str, Times], top: Ceiling | str
    ) -> None:
        """Times, ratios, rates and shares; a row of its own for the ceiling."""
        peak = None
        if isinstance(top, str):
            rows["peak"] = self._bare(case, "peak", direction, skip=top)
        elif top.name in times:
            peak = top.work / times[top.name].median
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


def _ours(entry: Entry) -> bool:
    return isinstance(entry.contender, Pkernels)


def _work(workload: Workload, direction: str, unit: str) -> float:
    """Operations, or bytes of keys and values."""
    if unit == "GFLOP/s":
        return workload.flops(direction)
    size = torch.empty(0, dtype=workload.dtype).element_size()
    return size * workload.batch * workload.hkv * workload.sk * (workload.dim + workload.dv)


def _real(results: list[Tensor], x: Inputs, direction: str) -> list[Tensor]:
    return [x.real(results[0])] if direction == "forward" else results


def _directed(entry: Entry, x: Inputs, direction: str) -> Run:
    """What is timed: the forward alone, the backward of a graph that is kept, or both."""
    forward = entry.contender.prepare(entry.workload, x, direction != "forward")

    def ahead() -> list[Tensor]:
        with torch.no_grad():
            return [forward()]

    def both() -> list[Tensor]:
        return list(torch.autograd.grad(forward(), x.leaves(), x.dout))

    if direction == "backward":
        out = _on_threads(entry, forward)()
        return _on_threads(entry, lambda: list(torch.autograd.grad(out, x.leaves(), x.dout, retain_graph=True)))
    return _on_threads(entry, ahead if direction == "forward" else both)


def _on_threads(entry: Entry, run: Callable) -> Callable:
    threads = getattr(entry.contender, "threads", None)
    if threads is None:
        return run

    def limited():
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return limited
