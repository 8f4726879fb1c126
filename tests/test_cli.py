"""The command line: ``python -m pkernels info | show``."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pkernels import INF, Band, causal, dense, info, prefix_lm, show, window
from pkernels.__main__ import main

PATTERNS = [
    dense,
    causal,
    Band(right=-1),
    window(3),
    window(5, 0, dilation=3),
    window(2, globals=3),
    prefix_lm(4),
    Band(-2, 5, columns=2, rows=1, dilation=2),
    Band(left=0),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: repr(pattern).splitlines()[0])
@pytest.mark.parametrize(("sq", "sk"), [(13, 13), (5, 17), (17, 5), (1, 8)])
def test_blocks_count_the_pairs_that_the_predicate_keeps(pattern: Band, sq: int, sk: int) -> None:
    mask = pattern.dense(sq, sk)
    for bm, bn in ((1, 1), (4, 3), (32, 32)):
        counts = show.kept(pattern, sq, sk, bm, bn)
        want = [[int(tile.sum()) for tile in row.split(bn, 1)] for row in mask.split(bm, 0)]
        assert counts.tolist() == want


def test_drawing_a_long_sequence_builds_no_mask() -> None:
    share, size = show.shares(window(256, dilation=2), 1 << 20, 1 << 20, 16)
    assert share.shape == (16, 16)
    assert size == 1 << 16
    assert 0 < share[3, 3] < 0.01
    assert share[0, 9] == 0


@pytest.mark.parametrize(
    ("expression", "pattern"),
    [
        ("dense", dense),
        (" causal ", causal),
        ("window(256, dilation=2)", window(256, dilation=2)),
        ("window(4, 0, globals=3)", window(4, 0, globals=3)),
        ("prefix_lm(7)", prefix_lm(7)),
        ("Band(left=INF, right=-1)", Band(INF, -1)),
    ],
)
def test_an_expression_names_a_pattern(expression: str, pattern: Band) -> None:
    assert show.parse(expression) == pattern


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "__import__('os').system('true')",
        "window",
        "causal()",
        "window(1)(2)",
        "window(1 + 1)",
        "window(2**40)",
        "window(99999999999999)",
        "window(1.5)",
        "window(True)",
        "window('a')",
        "window(left)",
        "window(*[1])",
        "window(**{})",
        "window()",
        "window(1, width=2)",
        "window(-1)",
        "Band.keep",
        "[causal][0]",
        "lambda: causal",
        "causal; dense",
    ],
)
def test_anything_else_is_refused_with_what_is_allowed(expression: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["show", expression]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pkernels: ")
    assert any(word in err for word in ("allowed", "must not be negative"))


def test_show_draws_text(capsys: pytest.CaptureFixture) -> None:
    assert main(["show", "window(1, 0)", "--queries", "3", "--keys", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["·■■··", "··■■·", "···■■"]
    assert lines[3] == "3 queries x 5 keys: 6 of 15 pairs kept (40 %)"


def test_show_draws_long_patterns_as_shades(capsys: pytest.CaptureFixture) -> None:
    assert main(["show", "causal", "--length", "4096"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 49
    assert lines[0].startswith("▒·")
    assert lines[40].startswith("■" * 40)


def test_show_writes_an_image(tmp_path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib", reason="images need matplotlib")
    path = tmp_path / "mask.png"
    assert main(["show", "window(256, dilation=2)", "--length", "4096", "-o", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert "1,969,664 of 16,777,216" in capsys.readouterr().out


def test_an_image_without_matplotlib_says_what_to_install(tmp_path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["show", "causal", "-o", str(tmp_path / "mask.png")]) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize("rich", [True, False])
def test_info_names_versions_backends_and_instruction_sets(rich: bool, monkeypatch, capsys) -> None:
    if rich:
        pytest.importorskip("rich", reason="the tidy form needs rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in (torch.__version__, "reference", "triton", "threads", "kernels use", "built for"):
        assert word in out


def test_info_says_why_a_backend_is_missing(monkeypatch) -> None:
    from pkernels import native

    monkeypatch.setattr(native, "why_missing", lambda: "not built here")
    found = {name: value for _, rows in info.sections() for name, value in rows}
    assert found["cpu, cpu tensors"] == "no: not built here"
    assert found["kernels use"] == "not built here"
    assert found["reference, cpu tensors"].startswith("yes: float32")


def test_the_module_runs() -> None:
    command = [sys.executable, "-m", "pkernels", "show", "causal", "--length", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == ["■·", "■■"]
