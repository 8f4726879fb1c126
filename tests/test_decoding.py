"""Writing beside transformers' own: the same words, timed one by one; wrong ones are red."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the suite prints with rich")
pytest.importorskip("transformers", reason="models are measured beside transformers'")

from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import cases, compare, decoding, machine, plot, rows, table
from benchmarks.decoding import CHECKED, WORDS, Decoding, scribes
from benchmarks.models import AUTHORS, Author, gpt2
from pkernels.models import gpt2 as family


def config(places: int, layers: int) -> family.Config:
    return replace(gpt2._small(places, layers), n_embd=24, n_head=2, initializer_range=0.25)


TINY = Decoding(replace(gpt2.AUTHOR, name="Tiny", config=config), 64, 1, 2)


@pytest.fixture
def runner() -> decoding.Runner:
    return decoding.Runner("cpu", machine.facts("cpu"))


def test_rows_of_a_case(runner: decoding.Runner, tmp_path: Path) -> None:
    found = runner.run(TINY, seconds=0.2)
    assert [(row["direction"], row["contender"]) for row in found] == [
        (direction, name) for direction in ("prompt", "word") for name in TINY.contenders
    ]
    for row in found:
        assert row["checked"]["passed"]
        tokens = 2 * 64 if row["direction"] == "prompt" else 2
        assert row["rate"] == pytest.approx(tokens / row["seconds"]["median"])
        assert row["memory"] is None or row["memory"] >= 0
        assert row["seconds"]["samples"] <= WORDS
    path = tmp_path / "rows.jsonl"
    rows.append(path, found)
    out = io.StringIO()
    assert len(compare.compare(rows.read(path), found, Console(file=out))) == 6
    table.show(Console(file=out, width=160), found)
    assert "Tiny" in out.getvalue()
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    assert [file.stem for file in plot.plot(found, tmp_path)] == ["decoding"]


@pytest.mark.parametrize("author", AUTHORS, ids=lambda author: author.name)
def test_every_author_writes_what_transformers_writes(author: Author) -> None:
    """Word by word as in one call of ``generate``."""
    case = Decoding(author, 300, 1, 2)
    sides = scribes(case, "cpu")
    for scribe in sides.values():
        decoding.first(scribe, "cpu")
    verdict = decoding.agree(case, sides)
    assert verdict.passed, verdict
    mine, theirs = sides["pkernels"], sides["transformers"]
    words = torch.stack(mine.words, 1)
    assert words.shape == (2, CHECKED) and all(len(row.unique()) == CHECKED for row in words)
    start = 300 if "transformers, static" in sides or author.name == "GPT-Neo" else 1
    # BART's last word is its end.
    told = {"max_new_tokens": CHECKED + 1, "logits_processor": [lambda ids, s: s.scatter(1, ids[:, start:], -1e9)]}
    got = mine.module.generate(mine.ids, eos_token_id=(), **told)
    assert torch.equal(got[:, start:-1], words)
    told |= {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    want = theirs.module.generate(theirs.ids, attention_mask=torch.ones_like(theirs.ids), **told)
    assert torch.equal(want[:, start:-1], words)


def test_there_is_room_for_all_words() -> None:
    for scribe in scribes(TINY, "cpu").values():
        scribe.begin()
        for _ in range(WORDS):
            scribe.write()
        assert scribe.scores.isfinite().all()


@pytest.mark.parametrize("what", ["words", "scores"])
def test_a_wrong_model_is_red_and_not_timed(runner: decoding.Runner, monkeypatch, what: str) -> None:
    def unlike(*arguments):
        ours, theirs = decoding_twins(*arguments)
        if what == "words":
            ours.body.layers[0].attention.inner.scale *= 1.5
        else:
            for parameter in ours.body.norm.parameters():  # the best word stays the best
                parameter.data *= 1.01
        return ours, theirs

    decoding_twins = decoding.twins
    monkeypatch.setattr(decoding, "twins", unlike)
    found = runner.run(TINY, seconds=0.1)
    assert len(found) == 6 and not rows.measured(found)
    assert {row["skip"].partition(" of transformers")[0] for row in found} == {f"wrong: {what}"}
    assert command._verdict(found, Console(file=io.StringIO())) == 1


def test_without_transformers_the_cases_say_so(runner: decoding.Runner, monkeypatch) -> None:
    monkeypatch.setattr(decoding, "missing", lambda: "transformers is not installed")
    assert {row["skip"] for row in runner.run(TINY, 0.0)} == {"transformers is not installed"}
    assert all("no time was left" in row["skip"] for row in runner.late(TINY))


@pytest.mark.parametrize("full", [False, True])
def test_titles_are_unique_and_the_family_known(full: bool) -> None:
    chosen = decoding.cases(full)
    assert chosen and len({case.title for case in chosen}) == len(chosen)
    assert "decoding" in cases.FAMILIES
    assert not full or {case.author.name for case in chosen} == {"GPT-2", "GPT-Neo", "T5 base", "BART base"}
    assert not full or any(case.context == 4096 and case.layers == 12 for case in chosen)
