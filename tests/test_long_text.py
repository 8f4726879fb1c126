"""Models beside transformers' own, over long text and in training: right ones are timed, wrong ones are red."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the suite prints with rich")
pytest.importorskip("transformers", reason="models are measured beside transformers'")

from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import cases, compare, corpus, curves, long, machine, plot, rows, sides, table, training
from benchmarks.models import ENCODERS, LEARNERS, Encoder, Learner, longformer, twins
from benchmarks.sides import Long
from pkernels import window
from pkernels.models.longformer import Config

TINY = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 16, "attention_window": 16}
# The scores of so narrow a model vary by about 1 with these.
TINY |= {"initializer_range": 0.25}


def config(length: int, layers: int = 1, **changes: float) -> Config:
    return Config.base(length, num_hidden_layers=layers, **{**TINY, **changes}, **longformer.BARE)


ENCODER = Encoder(
    "Tiny", "LongformerModel", config, sizes=((64, 1), (512, 1)), arguments=longformer._first_global,
    attention=longformer._attention, lengths=(64, 512),
)  # fmt: skip
LEARNER = Learner(
    "tiny",
    "LongformerForMaskedLM",
    partial(config, initializer_range=0.02),
    corpus.masked,
    length=128,
    batch=4,
    rate=1e-2,
)


@pytest.fixture
def runner() -> long.Runner:
    return long.Runner("cpu", machine.facts("cpu"))


def spoil(monkeypatch, module) -> None:
    """Our models see one key less on each side."""

    def unlike(*arguments):
        ours, theirs = twins(*arguments)
        module = ours.body.layers[0].attention.inner
        module.bands = [(heads, window(TINY["attention_window"] // 2 - 1)) for heads, _ in module.bands]
        return ours, theirs

    monkeypatch.setattr(module, "twins", unlike)


# Long text ------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [False, True], ids=["encoder", "attention"])
def test_rows_of_a_case(runner: long.Runner, tmp_path: Path, alone: bool) -> None:
    found = runner.run(Long(ENCODER, 512, 1, alone), seconds=0.1)
    assert [(row["direction"], row["contender"]) for row in found] == [
        (direction, name) for direction in ("forward", "both") for name in ("pkernels", "transformers")
    ]
    for row in found:
        assert row["checked"]["passed"] and "S=512" in row["checked"]["where"]
        assert row["rate"] == pytest.approx(512 / row["seconds"]["median"])
        assert row["memory"] is None or row["memory"] >= 0
        assert (row["ratio"] == 1) == (row["contender"] == "pkernels")
    path = tmp_path / "rows.jsonl"
    rows.append(path, found)
    out = io.StringIO()
    assert len(compare.compare(rows.read(path), found, Console(file=out))) == 4
    table.show(Console(file=out, width=160), found)
    assert "Tiny" in out.getvalue()
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    assert [file.stem for file in plot.plot(found, tmp_path)] == [found[0]["family"].replace(" ", "-")]


@pytest.mark.parametrize("alone", [False, True], ids=["encoder", "attention"])
@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda encoder: encoder.name)
def test_every_entry_agrees_with_transformers(encoder: Encoder, alone: bool) -> None:
    lengths = encoder.lengths if alone else [length for length, _ in encoder.sizes]
    if not lengths:
        pytest.skip("the entry has an attention alone, or none")
    case = Long(encoder, min(1024, *lengths), 1, alone)
    ours, theirs = (sides.first(side, "both", "cpu") for side in sides.sides(case, "cpu"))
    verdict = sides.same(ours, theirs, case)
    assert verdict.passed, verdict
    # No gradient is 0 throughout, or comparing them says nothing.
    assert len(theirs.gradients) >= 4 and max(y.abs().max() for y in theirs.gradients.values()) > 1e-4


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_states_may_differ_in_proportion_to_their_size(size: float) -> None:
    case, exact = Long(ENCODER, 64, 1), size * torch.linspace(-1, 1, 12).view(3, 4)

    def differing(part: float) -> bool:
        ours, theirs = (sides.First(torch.Tensor, 0.0, 0, x, {}) for x in (exact + part * size, exact))
        return sides.same(ours, theirs, case).passed

    assert differing(ENCODER.tolerance / 2) and not differing(2 * ENCODER.tolerance) and not differing(float("nan"))


def test_a_wrong_model_is_red_and_not_timed(runner: long.Runner, monkeypatch) -> None:
    spoil(monkeypatch, sides)
    found = runner.run(Long(ENCODER, 64, 1), seconds=0.1)
    assert len(found) == 4 and not rows.measured(found)
    assert all(row["skip"].startswith("wrong: states") and not row["checked"]["passed"] for row in found)
    out = io.StringIO()
    assert command._verdict(found, Console(file=out, width=200)) == 1
    assert "times what is allowed" in out.getvalue()
    with pytest.raises(ValueError, match="check failed"):
        compare.compare(found, found, Console(file=out))


def test_a_wrong_gradient_is_red_too(runner: long.Runner, monkeypatch) -> None:
    def unlike(*arguments):
        ours, theirs = twins(*arguments)
        ours.body.layers[0].feed_forward.inner.up.weight.register_hook(lambda gradient: 1.01 * gradient)
        return ours, theirs

    monkeypatch.setattr(sides, "twins", unlike)
    forward, _, both, _ = runner.run(Long(ENCODER, 64, 1), seconds=0.1)
    assert forward["checked"]["passed"]
    assert both["skip"].startswith("wrong: gradient of encoder.layer.0.intermediate.dense.weight")


def test_a_gradient_that_one_side_lacks_is_red() -> None:
    case = Long(ENCODER, 64, 1)
    ours, theirs = (sides.first(side, "both", "cpu") for side in sides.sides(case, "cpu"))
    del ours.gradients["encoder.layer.0.output.dense.bias"]
    verdict = sides.same(ours, theirs, case)
    assert not verdict.passed and "encoder.layer.0.output.dense.bias, which one side lacks" in verdict.where


def test_what_is_too_large_says_so_and_the_rest_runs(runner: long.Runner, monkeypatch) -> None:
    case = Long(ENCODER, 512, 1)
    small = case.smallest()
    assert (small.length, small.layers) == (64, 1)
    runner.run(small, seconds=0.0)
    for seen in runner._seen.values():
        seen.memory.update(pkernels=2**20, transformers=2**24)
    monkeypatch.setattr(long.memory, "available", lambda device: 3 * 2**26)
    found = runner.run(case, seconds=0.0)
    for ours, theirs in (found[:2], found[2:]):
        assert ours["seconds"] and "S=64" in ours["checked"]["where"]
        assert "long text: Tiny, 1 layer float32 S=512 would take" in theirs["skip"]
        assert "a third of the free memory" in theirs["skip"] and "seconds" not in theirs
    out = io.StringIO()
    table.show_skipped(Console(file=out, width=300), found)
    assert "not run: transformers (long text)" in out.getvalue()
    monkeypatch.setattr(long.memory, "available", lambda device: 3)
    assert all("would take" in row["skip"] for row in runner.run(case, seconds=0.0))


def test_without_transformers_the_cases_say_so(runner: long.Runner, monkeypatch) -> None:
    monkeypatch.setattr(long, "missing", lambda: "transformers is not installed")
    assert {row["skip"] for row in runner.run(Long(ENCODER, 64, 1), 0.0)} == {"transformers is not installed"}
    assert all("no time was left" in row["skip"] for row in runner.late(Long(ENCODER, 64, 1)))


@pytest.mark.parametrize("full", [False, True])
def test_titles_are_unique_and_families_known(full: bool) -> None:
    chosen = long.cases(full)
    assert len({case.title for case in chosen}) == len(chosen)
    assert all(case.family in cases.FAMILIES for case in chosen)
    assert all(case.length <= 32768 and len(corpus.rows(case.length)) for case in chosen)
    assert not full or {case.length for case in chosen if not case.alone} >= {4096, 8192, 16384, 32768}


def test_the_text_is_bytes_between_a_first_and_a_last_token() -> None:
    row = corpus.rows(1024)[3]
    assert (row[0], row[-1]) == (corpus.FIRST, corpus.LAST)
    text = bytes((row[1:-1] - corpus.SPECIAL).tolist()).decode()
    assert " the " in text


# Training -------------------------------------------------------------------------------


def test_both_models_learn_and_their_curves_agree() -> None:
    said: list[str] = []
    ours, theirs = training.train(LEARNER, 60, "cpu", machine.facts("cpu"), said.append)
    assert len(ours["losses"]) == len(ours["step_seconds"]) == len(said) == 60
    for row in (ours, theirs):
        assert row["losses"][0] == pytest.approx(math.log(corpus.WORDS), abs=0.2)  # nothing known yet
        assert sum(row["losses"][-10:]) / 10 < row["losses"][0] - 1.5
        assert row["checked"]["passed"]
    # One or two neighbouring float32 numbers near 5.5 apart, each 5e-7: there is no dropout.
    first = zip(ours["losses"][:10], theirs["losses"][:10], strict=True)
    assert all(abs(a - b) < 1e-5 for a, b in first)
    assert 2.5 < ours["unigram"] < 3.5
    lines = training.summary([ours, theirs])
    assert "unigrams" in lines[0] and lines[1].startswith("transformers")


def test_a_model_that_differs_stops_and_is_red(monkeypatch) -> None:
    spoil(monkeypatch, training)
    found = training.train(LEARNER, 60, "cpu", machine.facts("cpu"), lambda said: None)
    assert all(row["skip"].startswith("wrong: gradient of longformer") and len(row["losses"]) == 1 for row in found)
    assert not rows.measured(found)
    assert command._verdict(found, Console(file=io.StringIO())) == 1


def test_a_loss_that_differs_or_is_nan_is_red() -> None:
    model = torch.nn.Linear(1, 1)
    for one, other in ((1.0, math.nan), (math.nan, math.nan), (1.0, 1.1)):
        a, b = (training.Run(name, model, 0.1, [loss]) for name, loss in (("a", one), ("b", other)))
        assert not training.same_loss(a, b, 1e-4).passed


def test_the_unigram_entropy_is_that_of_what_was_predicted() -> None:
    assert training.entropy(torch.tensor([1.0, 1.0, 2.0, 0.0])) == pytest.approx(1.5 * math.log(2))
    assert training._counts(torch.tensor([[7, -100], [7, 9]])).nonzero().flatten().tolist() == [7, 9]


def test_train_from_the_command_line(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    monkeypatch.setitem(LEARNERS, "longformer", replace(LEARNER, length=64))
    path = tmp_path / "deep" / "t.jsonl"
    assert command.main(["train", "longformer", "--steps", "3", "--out", str(path)]) == 0
    found = rows.read(path)
    assert [row["contender"] for row in found] == ["pkernels", "transformers"]
    assert all(len(row["losses"]) == 3 for row in found)
    assert (tmp_path / "deep" / "t" / "training.png").read_bytes().startswith(b"\x89PNG")
    figure = curves.curves(found)
    assert all(len(ax.get_legend_handles_labels()[1]) == 3 for ax in figure.axes)
    assert command.main(["compare", str(path), str(path)]) == 0
    assert command.main(["train", "--steps", "1"]) == 2
    assert "steps: at least 2" in capsys.readouterr().err
