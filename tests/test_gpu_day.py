"""``make gpu`` without a GPU: it refuses, shares its time out, finds its tools, and reports what it is told."""

from __future__ import annotations

import io
import json
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("rich", reason="the suite prints with rich")

from rich.console import Console

import pkernels
from benchmarks import __main__ as command
from benchmarks import cases, check, rows
from benchmarks.case import Case, Entry, versus
from benchmarks.contenders import Flash, Pkernels, Sdpa, flash
from benchmarks.gpu import commands, day, predictions, small
from benchmarks.gpu.budget import Stage, spend
from benchmarks.workload import Workload
from pkernels import causal, cuda, prefix_lm, window

TINY = Workload(heads=2, queries=48, dim=8)
quiet = Console(file=io.StringIO())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert command.main(["gpu", "--out", str(tmp_path / "out")]) == 2
    assert "an NVIDIA GPU is needed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_it_refuses_other_gpus_and_no_time(monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "this GPU is an sm_75" in str(day.why_not())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert day.why_not() is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "AMD" in str(day.why_not())
    assert command.main(["gpu", "--minutes", "0"]) == 2
    assert "minutes: more than 0" in capsys.readouterr().err


# Time ---------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [0.0, 0.5, 1.0])
def test_stages_never_take_more_than_there_is(takes: float) -> None:
    now, given = [7.0], []

    def stage(seconds: float) -> str:
        given.append(seconds)
        now[0] += takes * seconds
        return "passed"

    spend([Stage(str(i), share, stage) for i, share in enumerate((0.2, 0.1, 0.3, 0.4))], 600.0, lambda: now[0])
    assert now[0] <= 607.0 + 1e-6
    least = [120.0, 60.0, 180.0, 240.0]
    assert all(seconds >= want - 1e-6 for seconds, want in zip(given, least, strict=True))
    if takes == 1.0:
        assert given == pytest.approx(least)


def test_a_stage_without_time_is_skipped() -> None:
    now = [0.0]

    def slow(seconds: float) -> str:
        now[0] += 10 * seconds
        return "failed: late"

    said = spend([Stage("one", 0.5, slow), Stage("two", 0.5, slow)], 100.0, lambda: now[0])
    assert said == {"one": "failed: late", "two": "skipped: no time was left"}


def test_the_shares_of_the_day_are_the_whole(tmp_path: Path) -> None:
    assert sum(stage.share for stage in day.Day(tmp_path, quiet).stages()) == pytest.approx(1.0)


def test_a_command_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', '{}'])"
    alive = tmp_path / "alive"
    inner = (
        f"import pathlib, time\nfor i in range(600): pathlib.Path({str(alive)!r}).write_text(str(i)); time.sleep(0.05)"
    )
    hangs = [sys.executable, "-c", code.replace("'{}'", repr(inner))]
    assert commands.run(hangs, 3.0, tmp_path / "log") is None
    assert (tmp_path / "log").read_text() == "begun\n"
    before = alive.read_text() if alive.exists() else ""
    time.sleep(0.3)
    assert before == (alive.read_text() if alive.exists() else "")
    assert (
        commands.run([sys.executable, "-c", "import os; exit(int(os.environ['X']))"], 60, tmp_path / "log", {"X": "5"})
        == 5
    )


# Tools --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["path", "home/bin", "home/compute-sanitizer", "root/cuda-13.0/bin", None])
def test_the_sanitizer_is_found(place: str | None, tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path / "path"), "CUDA_HOME": str(tmp_path / "home")}
    if place is not None:
        tool = tmp_path / place / "compute-sanitizer"
        tool.parent.mkdir(parents=True)
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    found = commands.sanitizer(environment, [tmp_path / "root"])
    assert found == (None if place is None else tmp_path / place / "compute-sanitizer")


def test_the_outcome_of_tests_is_read(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_a(): pass\ndef test_b(): assert False\n")
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    status = commands.run([sys.executable, "-m", "pytest", *options], 60, tmp_path / "log")
    said = commands.tests_said(status, (tmp_path / "log").read_text(), 60)
    assert said.startswith("failed: 1 failed, 1 passed in ")
    assert commands.tests_said(0, "1 passed in 0.01s\n", 60) == "passed: 1 passed in 0.01s"
    assert commands.tests_said(0, "4 skipped in 0.01s\n", 60).startswith("failed: 4 skipped")
    assert commands.tests_said(5, "no tests ran in 0.01s\n", 60).startswith("failed: no tests ran")
    assert commands.tests_said(3, "INTERNALERROR", 60) == "failed: pytest exited with 3"


def test_the_outcome_of_the_sanitizer_is_read() -> None:
    right = "calls that were checked: 9\n========= ERROR SUMMARY: 0 errors\n"
    assert commands.sanitizer_said(0, right, 9) == "passed: calls that were checked: 9; ERROR SUMMARY: 0 errors"
    assert commands.sanitizer_said(commands.WRONG, right, 9).startswith("failed")
    assert commands.sanitizer_said(0, right.replace("9", "0", 1), 9).startswith("failed")
    assert commands.sanitizer_said(1, "no driver", 9) == "failed: it exited with 1"
    assert commands.sanitizer_said(None, right, 9) == "failed: not done after 9 s"


def test_the_small_calls_run_and_cannot_be_wrong_in_silence(monkeypatch) -> None:
    names = list(small.calls("cpu", ("cpu",)))
    assert len(names) == 10 and "cpu Blocks with a bias" in names
    monkeypatch.setattr(pkernels, "attention", lambda q, k, v, *rest, **options: (q + k + v) * torch.nan)
    with pytest.raises(ArithmeticError, match="not finite"):
        list(small.calls("cpu", ("cpu",)))


# Contenders and cases -----------------------------------------------------------------


def library() -> types.ModuleType:
    """flash_attn's two functions by its documentation: (B, S, H, D), bottom right, -1 without end."""
    module = types.ModuleType("flash_attn")

    def attend(q, k, v, *, causal, window_size, dropout_p):
        assert not causal and not dropout_p
        left, right = window_size
        step = torch.arange(k.shape[1])[None] - torch.arange(q.shape[1])[:, None] - (k.shape[1] - q.shape[1])
        keep = ((left < 0) | (step >= -left)) & ((right < 0) | (step <= right))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, keep, enable_gqa=True).transpose(1, 2)

    def packed(q, k, v, starts, starts_k, longest, longest_k, **options):
        assert torch.equal(starts, starts_k) and longest == longest_k == int(starts.diff().max())
        parts = [slice(a, b) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
        return torch.cat([attend(q[None, p], k[None, p], v[None, p], **options)[0] for p in parts])

    module.flash_attn_func, module.flash_attn_varlen_func = attend, packed
    return module


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(TINY, id="dense"),
        pytest.param(replace(TINY, pattern=causal, keys=60), id="causal"),
        pytest.param(replace(TINY, pattern=window(5), kv_heads=1), id="window, grouped"),
        pytest.param(replace(TINY, queries=69, lengths=(48, 1, 20), packed=True), id="packed"),
    ],
)
def test_flash_attention_is_called_as_it_wants(workload: Workload, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", library())
    x = workload.tensors()
    ours, theirs = (who.prepare(workload, x, False)() for who in (Pkernels(), Flash()))
    assert check.agree([theirs], [ours]) is None


def test_flash_attention_refuses_what_it_cannot_do(monkeypatch) -> None:
    narrow = replace(TINY, dtype=torch.bfloat16)
    assert Flash().refuses(narrow, "forward", "cpu") == "flash_attn is for GPUs"
    monkeypatch.setattr(flash.importlib.util, "find_spec", lambda name: None)
    assert Flash().refuses(narrow, "forward", "cuda") == "flash_attn is not installed"
    monkeypatch.setattr(flash.importlib.util, "find_spec", lambda name: name)
    assert Flash().refuses(narrow, "forward", "cuda") is None
    assert Flash().refuses(replace(narrow, queries=69, lengths=(48, 21), packed=True), "forward", "cuda") is None
    for change in (
        {"dtype": torch.float32}, {"dim": 264}, {"value_dim": 16}, {"bias": "distance"}, {"positions": (1,)},
        {"pattern": window(3, dilation=2)}, {"pattern": window(3, globals=1)}, {"pattern": prefix_lm(4)},
        {"pattern": pkernels.Band(right=-1)}, {"lengths": (48, 3), "batch": 2},
    ):  # fmt: skip
        assert Flash().refuses(replace(narrow, **change), "forward", "cuda"), change


def test_the_cases_have_titles_and_the_cuda_kernels_come_last() -> None:
    chosen = cases.gpu()
    titles = [case.title for case in chosen]
    assert len(set(titles)) == len(titles)
    assert all(case.family in cases.FAMILIES for case in chosen)
    with_cuda = [any(getattr(entry.contender, "backend", None) == "cuda" for entry in case.entries) for case in chosen]
    assert with_cuda == sorted(with_cuda) and sum(with_cuda) == 6
    contenders = {entry.name for case in chosen for entry in case.entries}
    assert {"pkernels", "sdpa", "flash-attn", "flex", "HF longformer", "cuda"} <= contenders


@pytest.mark.skipif(cuda.why_missing() is not None, reason=str(cuda.why_missing()))
def test_the_cuda_kernels_can_do_their_cases() -> None:
    with FakeTensorMode():
        for case in cases.gpu():
            for entry in case.entries:
                if getattr(entry.contender, "backend", None) == "cuda":
                    w = entry.workload
                    q = torch.empty(1, w.heads, w.queries, w.dim, dtype=w.dtype, device="cuda")
                    assert pkernels.why_not("cuda", q, q, q, w.pattern) is None


# A day --------------------------------------------------------------------------------


class Broken(Pkernels):
    """Raises, as a kernel does that touches what it may not."""

    def prepare(self, workload, x, train):
        raise RuntimeError("an illegal memory access was encountered\nmore")


def test_a_day_without_a_gpu_writes_rows_and_a_report(tmp_path: Path, monkeypatch) -> None:
    def ran(arguments, seconds, log, environment=None):
        assert seconds > 0
        log.write_text("==== 3 passed, 1 skipped in 2.00s ====\n")
        return 0

    monkeypatch.setattr(commands, "run", ran)
    monkeypatch.setattr(commands, "sanitizer", lambda environment: None)
    one = versus("dense", "float32 S=48", 48, TINY, Sdpa(), Flash(), directions=("forward",))
    found = day.Day(tmp_path / "out", quiet, "cpu", [one])
    assert found.run(minutes=0.05) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert "- operators on the GPU: passed: 3 passed, 1 skipped in 2.00s" in report
    assert "- compute-sanitizer: skipped: compute-sanitizer was not found" in report
    assert "- figures: passed: 1 of 1 cases were measured, 0 are wrong" in report
    assert "| dense: float32 S=48 | forward | sdpa |" in report and "- flash-attn: flash_attn is for GPUs" in report
    written = rows.read(tmp_path / "out" / "results.jsonl")
    assert {row["contender"] for row in rows.measured(written)} >= {"pkernels", "sdpa"}

    bad = replace(one, name="bad", entries=(Entry(Broken(), TINY), *one.entries[1:]))
    found = day.Day(tmp_path / "bad", quiet, "cpu", [bad, one])
    assert found.run(minutes=0.05) == 1
    report = (tmp_path / "bad" / "report.md").read_text()
    assert "- figures: failed: 1 of 2 cases were measured, 1 are wrong" in report
    assert "wrong: RuntimeError: an illegal memory access was encountered" in report
    assert not [row for row in rows.measured(rows.read(tmp_path / "bad" / "results.jsonl")) if row["case"] == "bad"]


def test_what_is_run_is_there(tmp_path: Path, monkeypatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(
        commands, "run", lambda arguments, *rest: (ran.append(list(arguments)), rest[1].write_text(""))[1]
    )
    monkeypatch.setattr(commands, "sanitizer", lambda environment: Path("/opt/compute-sanitizer"))
    nothing: list[Case] = []
    assert day.Day(tmp_path, quiet, "cpu", nothing).run(1) == 1
    tests, kernels, sanitizer, others = ran
    ignored = "--ignore=tests/test_cuda_on_gpu.py"
    assert ignored in tests and ignored in others and (commands.ROOT / kernels[-1]).is_file()
    assert sanitizer[0] == "/opt/compute-sanitizer" and sanitizer[-2:] == ["-m", "benchmarks.gpu.small"]
    assert tests[tests.index("-m", 3) + 1] == "on_gpu" and others[others.index("-m", 3) + 1] == "not on_gpu"


# Predictions --------------------------------------------------------------------------


def test_measurements_stand_beside_predictions(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    assert predictions.estimates("sm_90", table) == {}
    kernels = {
        "triton forward_bf16_64": 0.5,
        "triton dq_bf16_64": 0.6,
        "triton dkv_bf16_64": 0.4,
        "cuda forward_bf16_64_none": 0.25,
    }
    listed = [{"kernel": name, "chip": "sm_90", "estimate": e, "window": e / 2} for name, e in kernels.items()]
    table.write_text(json.dumps({"rows": [*listed, {"kernel": "triton forward_bf16_64", "chip": "sm_80"}]}))
    known = predictions.estimates("sm_90", table)
    row = {
        "family": "dense",
        "case": "x",
        "direction": "forward",
        "dtype": "bfloat16",
        "shape": {"D": 64},
        "backend": "triton",
    }
    assert predictions.predicted(row, known) == 0.5
    assert predictions.predicted({**row, "family": "window"}, known) == 0.25
    assert predictions.predicted({**row, "backend": "cuda"}, known) == 0.25
    # Five useful products; three at 0.6 and four at 0.4 of the peak take 15 turns of a product at the peak.
    assert predictions.predicted({**row, "direction": "backward"}, known) == pytest.approx(5 / 15)
    # A forward for this chip alone takes the place of the general one.
    own = known | {"cuda hopper_forward_bf16_64_none": {"estimate": 0.7}}
    assert predictions.predicted({**row, "backend": "cuda"}, own) == 0.7
    for change in (
        {"family": "bias"},
        {"dtype": "float32"},
        {"backend": "cpu"},
        {"direction": "both"},
        {"shape": {"D": 96}},
    ):
        assert predictions.predicted({**row, **change}, known) is None
    assert predictions.lines([{**row, "share": 0.4}], known)[-1] == "| dense: x | forward | triton | 50% | 40% | 0.80 |"
    # The rows that an H200 once gave are of this form.
    real = predictions.lines(rows.read(rows.RESULTS / "h200.jsonl"), known)
    assert any("dense: bfloat16 H=12 S=4096 | forward | triton" in line for line in real)


def test_the_table_of_predictions_is_of_this_form() -> None:
    if not predictions.TABLE.exists():
        pytest.skip("python -m benchmarks static has written none")
    known = predictions.estimates("sm_90")
    for kernels, last in (("triton", ""), ("cuda", "_none")):
        for kernel in ("forward", "dq", "dkv"):
            assert {"estimate", "window"} <= set(known[f"{kernels} {kernel}_bf16_64{last}"])
