"""Small models of images learn scikit-learn's digits: 1,797 handwritten ones, 8 x 8 pixels.

``vit`` learns the classes (Dosovitskiy et al. 2020, section 4.1: supervised, cross-entropy).
``clip`` learns which caption belongs to an image (Radford et al. 2021); then it names the digits
of images that it has not seen by the captions that are nearest, with no classifier trained.
Every fifth image is held out. The figure shows held-out images and how much of each patch the
class token holds (attention rollout).
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pkernels.models import Model, build, clip, vit
from pkernels.models.maps import attention_maps, rollout

from .rows import Row

BATCH, RATE = 64, 4e-3
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PROMPTS = ("a photo of the digit {}", "the number {}", "a handwritten {}", "{} in ink", "this is a {}")
UNSEEN = ("a photo of the handwritten number {}", "the digit {} in ink", "this is the number {}")
"""Captions of which no training image has one; the ensemble that names held-out images."""
WORDS = ["[pad]", *sorted({word for text in PROMPTS for word in text.split()} - {"{}"}), *NAMES, "[end]"]
PATCHES: dict[str, Any] = {"image_size": 8, "patch_size": 2, "num_channels": 1}
START: dict[str, Any] = {"layer_norm_eps": 1e-6, "initializer_range": 0.14}
SIZES: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}


@dataclass
class Digits:
    """``(n, 1, 8, 8)`` pixels from -1 to 1, and the digits ``(n,)``; those held out have ``test_``."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training images, each moved by up to a pixel, and their digits."""
        chosen = torch.randint(len(self.images), (BATCH,), generator=generator)
        padded = nn.functional.pad(self.images[chosen], (1, 1, 1, 1), value=-1.0)
        down, right = torch.randint(3, (2, BATCH, 1), generator=generator) + torch.arange(8)
        moved = padded[torch.arange(BATCH)[:, None, None], 0, down[:, :, None], right[:, None, :]]
        return moved[:, None], self.labels[chosen]


@dataclass
class Learned:
    """A model, what became of its loss, and its share of right answers for held-out images."""

    model: Model
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracy: float = 0.0


def missing() -> str | None:
    """What the data lack, or None."""
    return None if importlib.util.find_spec("sklearn") else "scikit-learn, which has the images, is not installed"


def load() -> Digits:
    """The images, every fifth held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1
    labels, held = torch.tensor(found.target), torch.arange(len(images)) % 5 == 4
    return Digits(images[~held], labels[~held], images[held], labels[held])


def tokenize(captions: list[str]) -> dict[str, Tensor]:
    """Captions as the text tower takes them: a number for each word, and the end."""
    rows = [[WORDS.index(word) for word in caption.split()] + [len(WORDS) - 1] for caption in captions]
    longest = max(map(len, rows))
    lengths = torch.tensor([len(row) for row in rows])
    return {"input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]), "lengths": lengths}


def learn_classes(digits: Digits, steps: int, report: Callable[[str], object] = print) -> Learned:
    """A Vision Transformer with 3 layers."""
    model = build("ViTForImageClassification", vit.Config(**SIZES, **PATCHES, **START, labels=NAMES))
    learned = Learned(model)

    def loss(images: Tensor, labels: Tensor, _: torch.Generator) -> Tensor:
        return model(images, labels=labels).loss

    _learn(learned, digits, steps, loss, report)
    with torch.no_grad():
        learned.accuracy = _share(model(digits.test_images).logits, digits.test_labels)
    return learned


def learn_captions(digits: Digits, steps: int, report: Callable[[str], object] = print) -> Learned:
    """CLIP with such an image tower and a text tower of 2 layers."""
    text = {**SIZES, "num_hidden_layers": 2, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    towers = clip.TextConfig(**text, eos_token_id=len(WORDS) - 1), clip.VisionConfig(**SIZES, **PATCHES)
    model = build("CLIPModel", clip.Config(text_config=towers[0], vision_config=towers[1], projection_dim=32))
    learned = Learned(model)

    def loss(images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch.randint(len(PROMPTS), labels.shape, generator=generator).tolist()
        captions = [PROMPTS[i].format(NAMES[label]) for i, label in zip(drawn, labels.tolist(), strict=True)]
        return model(**tokenize(captions), pixel_values=images, return_loss=True).loss

    _learn(learned, digits, steps, loss, report, stepped=model.head.limit)  # type: ignore[arg-type]
    with torch.no_grad():
        classes = clip.class_vectors(model, NAMES, UNSEEN, tokenize)
        learned.accuracy = _share(clip.classify(model, digits.test_images, classes), digits.test_labels)
    return learned


LEARNERS = {"vit": learn_classes, "clip": learn_captions}


def _learn(
    learned: Learned,
    digits: Digits,
    steps: int,
    loss_of: Callable[[Tensor, Tensor, torch.Generator], Tensor],
    report: Callable[[str], object],
    stepped: Callable[[], object] = lambda: None,
) -> None:
    """AdamW, a tenth of the steps warming up, then a cosine down to 0; ``stepped`` is called after each."""
    generator, model = torch.Generator().manual_seed(0), learned.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / (0.1 * steps)), step / steps
        optimizer.param_groups[0]["lr"] = RATE * warm * 0.5 * (1 + math.cos(math.pi * done))
        started = time.perf_counter()
        loss = loss_of(*digits.batch(generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stepped()
        learned.seconds.append(time.perf_counter() - started)
        learned.losses.append(float(loss.detach()))
        report(f"loss {learned.losses[-1]:.3f}")
    model.eval()


def _share(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def row(learned: Learned, facts: dict) -> Row:
    """What is written down of a training."""
    case = f"{learned.model.architecture} float32 S=17 B={BATCH}"
    found = {"family": "digits", "case": case, "contender": "pkernels", "direction": "step", "x": None}
    return {**found, "accuracy": learned.accuracy, "losses": learned.losses, "step_seconds": learned.seconds, **facts}


def summary(learned: Learned) -> str:
    """A line of it."""
    last = learned.losses[-50:]
    answers = "zero-shot" if learned.model.architecture == "CLIPModel" else "classes"
    return (
        f"{learned.model.architecture}, {learned.model.num_parameters():,} parameters: loss {learned.losses[0]:.3f} "
        f"at first, {sum(last) / len(last):.3f} at the end of {len(learned.losses)} steps in "
        f"{sum(learned.seconds):.0f} s; {answers}: {learned.accuracy:.1%} of held-out images right"
    )


def draw(learned: Learned, digits: Digits, path: Path, count: int = 10) -> Path:
    """A figure of held-out images, and of how much of their patches is in the class token."""
    from matplotlib.figure import Figure

    body = learned.model.body
    images = torch.stack([digits.test_images[digits.test_labels == digit][0] for digit in range(count)])
    maps = attention_maps(body.image if learned.model.architecture == "CLIPModel" else body, images)  # type: ignore[arg-type]
    seen = rollout(maps)[:, 0, 1:].unflatten(1, (4, 4))
    figure = Figure(figsize=(1.1 * count, 2.6), dpi=140, layout="constrained")
    for column, axes in enumerate(figure.subplots(2, count).T):
        axes[0].imshow(images[column, 0].numpy(), cmap="gray_r")
        axes[1].imshow(seen[column].numpy(), cmap="viridis")
        for ax in axes:
            ax.set_axis_off()
    figure.suptitle(f"{learned.model.architecture}: held-out digits, and rollout of the class token's attention")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
