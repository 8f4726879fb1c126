"""The table of families is what running them comes to, and what is not so is not green."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="most families are compared with transformers'")

from pkernels.models.parts import layouts

from .families import FAMILIES, Family, run, speeds, table
from .families.compare import Agreement, gradients_apart, outputs_apart
from .families.lessons import Lesson


@pytest.mark.filterwarnings("ignore:.*has no use for")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_green_and_the_readme_has_its_row(name: str) -> None:
    found = run(FAMILIES[name])
    assert not found.wrong
    row = table.row(FAMILIES[name], found)
    assert row in table.section(), "make families writes the rows"


def test_the_readme_has_every_family_once_in_the_surveys_order() -> None:
    lines = table.section()
    assert len(FAMILIES) == 21
    assert tuple(lines[:2]) == table.HEAD
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:-2]] == list(FAMILIES)
    assert lines[-2:] == ["", " ".join(table.legend())]


def test_a_run_of_ones_own_changes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``make bench`` writes its rows beside those that were kept."""
    kept = speeds.RESULTS / "epyc-zen5.jsonl"
    for name in ("some-machine.jsonl", "run-20261128-201023.jsonl"):
        (tmp_path / name).write_bytes(kept.read_bytes())
    monkeypatch.setattr(speeds, "RESULTS", tmp_path)
    assert list(speeds._rows.__wrapped__()) == ["some-machine"]


# What is wrong is red -----------------------------------------------------------------------


def lesson_of(change: Callable[[torch.nn.Linear], object]) -> Callable[[Path], Lesson]:
    """A layer that learns to give 1, but for a change."""

    def make(folder: Path) -> Lesson:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        change(layer)
        x = torch.ones(4, 3)
        return Lesson(layer, lambda: (layer(x) - 1).square().sum())

    return make


def backwards(layer: torch.nn.Linear) -> None:
    """Steps go uphill."""
    for p in layer.parameters():
        p.register_hook(lambda gradient: -gradient)


def no_number(layer: torch.nn.Linear) -> None:
    layer.bias.register_hook(lambda gradient: gradient * torch.nan)


def silent(layer: torch.nn.Linear) -> None:
    layer.bias.register_hook(torch.zeros_like)


WELL = Family("A layer", "none", "to give 1", "itself", lambda _: Agreement(1e-7, 1e-7), lesson_of(lambda _: None), {})
SPOILT = {
    "outputs differ by 0.001": replace(WELL, agree=lambda _: Agreement(1e-3, 1e-7)),
    "gradients differ by nan": replace(WELL, agree=lambda _: Agreement(1e-7, float("nan"))),
    "the loss went from": replace(WELL, lesson=lesson_of(backwards)),
    "a gradient of bias is not finite": replace(WELL, lesson=lesson_of(no_number)),
    "no gradient in ['bias'] instead of []": replace(WELL, lesson=lesson_of(silent)),
    "no gradient in [] instead of ['bias']": replace(WELL, idle=frozenset({"bias"})),
}


@pytest.mark.parametrize("wrong", SPOILT)
def test_what_is_wrong_is_red(wrong: str) -> None:
    assert run(WELL).wrong == ()
    found = run(SPOILT[wrong])
    assert any(wrong in said for said in found.wrong)
    assert "| red: " in table.row(SPOILT[wrong], found)


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_number_is_not_passed_over(place: int) -> None:
    right, wrong = torch.ones(2, 3), torch.ones(2, 3)
    wrong[1, place] = torch.nan
    sides = [(right, right), (wrong, right)][:: 1 - 2 * place]
    got = dict(enumerate(ours for ours, _ in sides))
    found = (outputs_apart(sides), gradients_apart(got, dict.fromkeys(got, right)))
    assert all(x != x for x in found)
    assert table.row(WELL, replace(run(WELL), agreement=Agreement(1e-7, found[1]))).split(" | ")[5] == "nan"


def test_a_kernel_that_is_a_little_wrong_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """All scores are a thousandth too large."""
    right = layouts.attention
    monkeypatch.setattr(layouts, "attention", lambda q, *rest, **named: right(q * 1.001, *rest, **named))
    found = run(replace(FAMILIES["BERT"], files={}, real={}))
    assert [said.split()[0] for said in found.wrong] == ["outputs", "gradients"]


def test_files_that_do_not_load_are_an_error() -> None:
    def broken(folder: Path) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(replace(WELL, files={"broken": broken}))


def test_errors_are_told_by_powers_of_ten_and_speeds_by_the_longest_text() -> None:
    assert [table.below(x) for x in (0.0, 3e-7, 9.9e-6, 2e-5, 0.3)] == ["< 1e-5"] * 3 + ["< 1e-4", "< 1e0"]
    assert table.below(float("inf")) == "inf"
    found = speeds.longest("Longformer")
    assert found is not None and found.length > 8192 and found.machine in speeds.machines()
    assert speeds.longest("No such model") is None and speeds.longest("") is None
