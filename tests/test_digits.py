"""Models of images learn handwritten digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import digits

MISSING = pytest.mark.skipif(digits.missing() is not None, reason=str(digits.missing()))
STEPS = 150
"""Of a training that takes seconds; 'python -m benchmarks digits' goes on to 1,500."""
LEAST = {"vit": 0.5, "clip": 0.25}
"""Right answers after so few steps; a guess has 0.1."""


@MISSING
@pytest.mark.parametrize("name", digits.LEARNERS)
def test_learns(name: str, tmp_path: Path) -> None:
    data = digits.load()
    assert data.images.shape == (1438, 1, 8, 8) and data.test_images.shape == (359, 1, 8, 8)
    assert float(data.images.min()) == -1 and float(data.images.max()) == 1
    torch.manual_seed(0)
    steps: list[str] = []
    learned = digits.LEARNERS[name](data, STEPS, steps.append)
    assert len(learned.losses) == len(learned.seconds) == len(steps) == STEPS
    assert learned.accuracy > LEAST[name], digits.summary(learned)
    assert f"{learned.accuracy:.1%} of held-out images right" in digits.summary(learned)
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert digits.draw(learned, data, tmp_path / "rollout.png").stat().st_size > 1000


def test_captions_of_held_out_images_are_new() -> None:
    assert not set(digits.PROMPTS) & set(digits.UNSEEN)
    given = digits.tokenize([prompt.format("two") for prompt in (*digits.PROMPTS, *digits.UNSEEN)])
    ends = given["input_ids"] == len(digits.WORDS) - 1
    assert torch.equal(ends.int().argmax(1), given["lengths"] - 1)
    assert int(given["input_ids"].max()) < len(digits.WORDS)


def test_batches_move_images_by_a_pixel_at_most() -> None:
    images = torch.full((1, 1, 8, 8), -1.0)
    images[0, 0, 3, 5] = 1
    data = digits.Digits(images, torch.tensor([4]), images, torch.tensor([4]))
    moved, labels = data.batch(torch.Generator().manual_seed(0))
    assert moved.shape == (digits.BATCH, 1, 8, 8) and labels.tolist() == [4] * digits.BATCH
    places = {(int(row), int(column)) for _, _, row, column in (moved == 1).nonzero()}
    assert places == {(row, column) for row in (2, 3, 4) for column in (4, 5, 6)}
    assert ((moved == 1).flatten(1).sum(1) == 1).all()


@MISSING
def test_the_factor_of_the_cosines_is_limited_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, factors = digits.clip.Match.limit, []

    def limited(head: digits.clip.Match) -> None:
        head.log_scale.data.fill_(9.0)
        limit(head)
        factors.append(float(head.log_scale.detach().exp()))

    monkeypatch.setattr(digits.clip.Match, "limit", limited)
    digits.learn_captions(digits.load(), 3, lambda line: None)
    assert factors == pytest.approx([100.0] * 3)
