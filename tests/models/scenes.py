"""Pictures drawn by hand for a detector made by hand: a few coloured shapes each, and what a caption says
of them. Features are a fixed mixture of colour and shape with noise, so words and regions can be matched,
but only by learning how."""

from __future__ import annotations

from pathlib import Path

import torch

from pkernels.models.parts.objectives import Vocabulary
from pkernels.models.parts.regions import Caption, Image, write_captions, write_images

COLOURS = ("red", "green", "blue", "white")
SHAPES = ("disk", "box", "star", "ring")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "and", *COLOURS, *SHAPES]
VOCABULARY = Vocabulary(first=1, last=2, padding=0, mask=3, words=len(WORDS))
FEATURES, CLASSES, SIDE = 24, 1 + len(SHAPES), 64


def encode(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def scene(name: str, draw: torch.Generator) -> tuple[Image, Caption]:
    """One or two things, of two kinds."""
    count = int(torch.randint(1, 3, (), generator=draw))
    kinds = torch.randperm(len(COLOURS) * len(SHAPES), generator=draw)[:count]
    colours, shapes = kinds // len(SHAPES), kinds % len(SHAPES)
    mixture = torch.randn(len(COLOURS) + len(SHAPES), FEATURES, generator=torch.Generator().manual_seed(7))
    features = mixture[colours] + mixture[len(COLOURS) + shapes]
    features = features + 0.1 * torch.randn(features.shape, generator=draw)
    corner, size = torch.rand(count, 2, generator=draw) * 40, 8 + torch.rand(count, 2, generator=draw) * 16
    probabilities = torch.full((count, CLASSES), 0.1 / (CLASSES - 1))
    probabilities[torch.arange(count), 1 + shapes] = 0.9
    image = Image(name, SIDE, SIDE, features, torch.cat([corner, corner + size], 1), probabilities)
    said = [f"{COLOURS[c]} {SHAPES[s]}" for c, s in zip(colours[:count], shapes[:count], strict=True)]
    return image, Caption(name, " and ".join(said))


def write(folder: Path, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    made = [scene(f"scene {seed}/{i}", draw) for i in range(count)]
    write_images(folder, [image for image, _ in made])
    write_captions(folder, [caption for _, caption in made])
