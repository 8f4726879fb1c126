"""The benchmark suite: what it writes is true, and it refuses to time what is wrong."""

from __future__ import annotations

import ctypes
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the suite prints with rich")

from rich.console import Console

import pkernels
from benchmarks import __main__ as command
from benchmarks import cases, ceilings, check, compare, machine, memory, plot, rows, table, text, timing
from benchmarks.case import variants, versus
from benchmarks.contenders import Longformer, Masked, Pkernels, Sdpa, SdpaEach
from benchmarks.contenders.flex import BLOCK, block_mask
from benchmarks.masks import visible
from benchmarks.runner import Runner
from benchmarks.workload import Workload
from pkernels import causal, prefix_lm, window

ROOT = Path(__file__).parents[1]
TINY = Workload(heads=2, queries=48, dim=8)
RAGGED = replace(TINY, batch=3, lengths=(48, 1, 20))
PACKED = replace(RAGGED, batch=1, queries=69, packed=True)
SCATTERED = replace(TINY, pattern=window(3), positions=(0, 5, 40))


def first_line(value: object) -> str:
    """Of a repr that draws."""
    return repr(value).splitlines()[0]


class Wrong(Pkernels):
    """Right but for a tenth."""

    def prepare(self, workload, x, train):
        forward = super().prepare(workload, x, train)
        return lambda: forward() * 1.1


class WrongBaseline(Masked):
    """Forgets the mask."""

    def prepare(self, workload, x, train):
        return super().prepare(replace(workload, pattern=pkernels.dense), x, train)


@pytest.fixture
def runner() -> Runner:
    return Runner("cpu", machine.facts("cpu"))


def measured(runner: Runner, path: Path) -> list[rows.Row]:
    """A line family of two sizes and a bar family, measured, written and read again."""
    small = replace(TINY, pattern=window(4), queries=32)
    chosen = [
        versus("window", f"float32 S={n}", n, replace(small, queries=n), Sdpa(), Masked(), Longformer())
        for n in (32, 64)
    ]
    chosen.append(variants("costs", "float32 S=48", TINY, dropout=replace(TINY, dropout=0.25)))
    for case in chosen:
        rows.append(path, runner.run(case, seconds=0.6))
    return rows.read(path)


def test_rows_compare_and_plot_end_to_end(runner: Runner, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    path = tmp_path / "deep" / "results.jsonl"
    found = measured(runner, path)
    ours = [row for row in rows.measured(found) if row["contender"] == "pkernels"]
    assert len(ours) == 6
    for row in ours:
        seconds = row["seconds"]
        assert 0 < seconds["q20"] <= seconds["median"] <= seconds["q80"]
        assert seconds["samples"] >= 1
        assert row["ratio"] == 1
        assert row["checked"]["passed"]
        assert row["rate"] == pytest.approx(_flops(row) / seconds["median"] / 1e9)
        assert row["backend"] in ("cpu", "reference")
        assert row["versions"]["torch"] == torch.__version__
        assert row["threads"] == torch.get_num_threads()
    assert {row["contender"] for row in rows.measured(found)} >= {"sdpa", "masked", "plain", "dropout"}

    out = io.StringIO()
    table.show(Console(file=out, width=160), found)
    assert "Sliding window" in out.getvalue()

    pairs = compare.compare(found, found, Console(file=out))
    assert len(pairs) == len(rows.measured(found))
    assert command.main(["compare", str(path), str(path)]) == 0

    assert command.main(["plot", str(path), "--out", str(tmp_path / "figures")]) == 0
    for family in ("window", "costs"):
        assert (tmp_path / "figures" / f"{family}.png").read_bytes().startswith(b"\x89PNG")


def _flops(row: rows.Row) -> float:
    shape = row["shape"]
    factor = {"forward": 1, "backward": 2.5, "both": 3.5}[row["direction"]]
    return factor * row["pairs"] * shape["H"] * 2 * (shape["D"] + shape["Dv"])


def test_a_wrong_kernel_is_not_timed_and_never_compared(runner: Runner, tmp_path: Path) -> None:
    case = versus("dense", "float32", 48, TINY, Sdpa())
    case = replace(case, entries=(replace(case.entries[0], contender=Wrong()), *case.entries[1:]))
    found = runner.run(case, seconds=0.05)
    assert found
    assert not rows.measured(found)
    assert all(row["skip"].startswith("wrong: ") for row in found)
    with pytest.raises(ValueError, match="check failed"):
        compare.compare(found, found, Console(file=io.StringIO()))
    out = io.StringIO()
    table.show(Console(file=out, width=160), found)
    assert "error budget" in out.getvalue()
    assert command._verdict(found, Console(file=out)) == 1


def test_a_wrong_baseline_is_not_timed_either(runner: Runner) -> None:
    case = versus("causal", "float32", 48, replace(TINY, pattern=causal), WrongBaseline(), Sdpa())
    found = runner.run(case, seconds=0.05)
    assert {row["contender"] for row in rows.measured(found) if "ratio" in row} == {"pkernels", "sdpa"}
    reasons = [row["skip"] for row in found if row["contender"] == "masked"]
    assert all("differs from pkernels" in reason for reason in reasons)


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(TINY, id="dense"),
        pytest.param(RAGGED, id="padded"),
        pytest.param(PACKED, id="packed"),
        pytest.param(SCATTERED, id="scattered globals"),
        pytest.param(replace(TINY, queries=1, keys=64), id="decoding"),
        pytest.param(replace(TINY, pattern=window(3, dilation=2, globals=2)), id="dilated, globals"),
        pytest.param(replace(TINY, pattern=prefix_lm(7), bias="distance"), id="prefix, distance"),
        pytest.param(replace(TINY, heads=4, kv_heads=2, bias="dense", value_dim=12, strided=True), id="grouped, bias"),
        pytest.param(replace(TINY, dtype=torch.bfloat16, dropout=0.3), id="dropout"),
    ],
)
def test_every_kind_of_workload_passes_the_check_and_counts_its_pairs(workload: Workload) -> None:
    verdict = check.check(workload, Pkernels(), "cpu", gradients=True)
    assert verdict.passed, verdict
    assert not check.check(workload, Wrong(), "cpu", gradients=True).passed
    x = workload.tensors()
    mask = visible(workload, x)
    square = torch.ones(workload.batch, 1, workload.queries, workload.sk, dtype=torch.bool)
    seen = square if mask is None else square & mask
    if workload.lengths and not workload.packed:
        real = torch.arange(workload.queries) < torch.tensor(workload.lengths)[:, None]
        seen = seen & real[:, None, :, None]
    assert workload.pairs() == int(seen.sum())


@pytest.mark.parametrize(
    "workload", [RAGGED, PACKED, replace(RAGGED, pattern=causal)], ids=["padded", "packed", "causal"]
)
def test_one_call_per_sequence_is_the_same_attention(workload: Workload) -> None:
    x = workload.tensors()
    case = [contender.prepare(workload, x, False)() for contender in (SdpaEach(), Masked(), Pkernels())]
    assert check.agree([x.real(case[0])], [x.real(case[2])]) is None
    assert check.agree([x.real(case[1])], [x.real(case[2])]) is None


@pytest.mark.parametrize(
    "pattern", [causal, window(100), window(20, dilation=4), window(50, globals=3), prefix_lm(200)]
)
@pytest.mark.parametrize("size", [256, 300])
def test_flex_gets_the_block_mask_of_the_pattern(pattern: pkernels.Band, size: int) -> None:
    flex_attention = pytest.importorskip("torch.nn.attention.flex_attention")
    workload = Workload(pattern=pattern, queries=size)
    mine = block_mask(workload, torch.device("cpu"))
    theirs = flex_attention.create_block_mask(mine.mask_mod, None, None, size, size, device="cpu", BLOCK_SIZE=BLOCK)
    assert torch.equal(mine.to_dense(), theirs.to_dense())
    rows_, columns = torch.arange(size)[:, None], torch.arange(size)[None, :]
    assert torch.equal(mine.mask_mod(None, None, rows_, columns), pattern.dense(size, size))


def test_memory_sees_what_c_takes_and_gives_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]

    def scratch(mib: int) -> None:
        at = libc.malloc(mib << 20)
        ctypes.memset(at, 1, mib << 20)
        libc.free(at)

    for mib in (64, 8, 64, 24):
        taken = memory.peak(lambda mib=mib: scratch(mib), "cpu")
        if taken is None:
            pytest.skip("this system does not tell peaks of memory (/proc/self/clear_refs)")
        assert taken == pytest.approx(mib << 20, abs=3 << 20)


def test_freed_memory_is_kept_and_its_peak_still_seen() -> None:
    """In a process of its own, whose allocator stays so."""
    code = """
import resource, torch
from benchmarks import memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3): torch.empty(1 << 24, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
kept = memory.keep_freed()
for _ in range(8): faults()  # until what is free fits
print(kept, given_back, faults(), memory.peak(lambda: torch.empty(1 << 26, dtype=torch.uint8).fill_(1), "cpu"))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    kept, given_back, faults, peak = said.split()
    if kept != "True":
        pytest.skip("this allocator is not glibc's")
    assert int(faults) < int(given_back) / 10
    assert peak == "None" or int(peak) >= 1 << 26


def test_contenders_take_turns() -> None:
    calls: list[str] = []

    def run(name: str):
        return lambda: calls.append(name) or sum(range(400_000))

    times = timing.interleave({name: run(name) for name in "abc"}, "cpu", seconds=60, most=4)
    assert "".join(calls)[-12:] == "abcabcabcabc"
    assert all(one.samples == 4 and one.q20 <= one.median <= one.q80 for one in times.values())


@pytest.mark.parametrize("full", [False, True])
def test_titles_are_unique_and_families_known(full: bool) -> None:
    chosen = cases.cases(full)
    titles = [case.title for case in chosen]
    assert len(set(titles)) == len(titles)
    assert all(case.family in cases.FAMILIES and isinstance(case.entries[0].contender, Pkernels) for case in chosen)
    sizes = {case.x for case in chosen if case.family == "window"}
    assert not full or {128, 65536} <= sizes


def test_a_ceiling_that_is_missing_says_why(monkeypatch) -> None:
    monkeypatch.setattr(ceilings.native, "why_missing", lambda: "not built here")
    assert ceilings._multiply_adds(torch.float32) == "no loop of multiply-adds: not built here"


def test_a_ceiling_that_measures_itself_counts_its_timed_turns() -> None:
    rates = iter([1.0, 9.0, 5.0, 7.0])
    top = ceilings.Ceiling("loop", "GFLOP/s", None, lambda: next(rates))
    for _ in range(4):
        top.turn()
    assert top.rate(timing.Times(1.0, 1.0, 1.0, samples=3)) == 7.0
    assert ceilings.Ceiling("copy", "GB/s", 6.0, lambda: None).rate(timing.Times(2.0, 2.0, 2.0, 1)) == 3.0


def test_bad_files_and_patterns_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps({"family": "dense"}) + "\n")
    for arguments in (
        ["run", "--only", "no such case"],
        ["plot", str(tmp_path / "none.jsonl")],
        ["compare", str(broken), str(broken)],
    ):
        assert command.main(arguments) == 2
        assert capsys.readouterr().err.startswith("benchmarks: ")


def test_unchecked_rows_are_not_compared() -> None:
    row = {"family": "dense", "case": "x", "contender": "pkernels", "direction": "forward", "seconds": {"median": 1}}
    with pytest.raises(ValueError, match="never checked"):
        compare.refuse_red("new", [row])


def test_texts_vary_in_length_as_real_ones_do() -> None:
    found = text.texts(96)
    lengths = sorted(map(len, found))
    assert len(found) == 96
    assert lengths[0] < 60
    assert lengths[-1] > 400
    assert found == text.texts(96)


def test_the_real_text_case(monkeypatch) -> None:
    reason = text.missing()
    if reason is not None:
        pytest.skip(reason)
    monkeypatch.setattr(text, "SECONDS", 0.0)
    found = text.run("cpu", machine.facts("cpu"), 5)
    assert [row["contender"] for row in found] == ["pkernels", "transformers", "transformers, sorted"]
    assert all(row["checked"]["passed"] and row["rate"] > 0 for row in found)


def test_figures_need_rows(tmp_path: Path) -> None:
    assert plot.plot([], tmp_path) == []
    with pytest.raises(ValueError, match="results: none"):
        rows.newest(tmp_path)
