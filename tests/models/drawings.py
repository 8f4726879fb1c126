"""Pictures painted by hand: a shape in a colour somewhere on a grey ground, with noise; its label and its
caption name both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230), "white": (240, 240, 240)}
SHAPES = ("box", "cross", "disk", "ring")
CAPTIONS = ("a {} {}", "here is a {} {}", "the {} {} of the picture")
LABELS = tuple(f"{colour} {shape}" for colour in sorted(COLOURS) for shape in SHAPES)
SIDE = 16


def mask(shape: str, radius: float, centre: Tensor) -> Tensor:
    """``(SIDE, SIDE)`` booleans."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    down, right = (rows - centre[0]).abs(), (columns - centre[1]).abs()
    far = (down.square() + right.square()).sqrt()
    return {
        "box": torch.maximum(down, right) <= radius,
        "cross": torch.minimum(down, right).le(1) & torch.maximum(down, right).le(radius),
        "disk": far <= radius,
        "ring": (far <= radius) & (far > radius - 2),
    }[shape]


def drawing(draw: torch.Generator) -> tuple[Tensor, str, str]:
    """``(SIDE, SIDE, 3)`` uint8, the label and a caption."""
    shape, colour, words = (
        int(torch.randint(n, (), generator=draw)) for n in (len(SHAPES), len(COLOURS), len(CAPTIONS))
    )
    radius = 3.5 + 1.5 * float(torch.rand((), generator=draw))
    centre = 5 + 6 * torch.rand(2, generator=draw)
    name = list(COLOURS)[colour]
    ground = 110 + 20 * torch.randn(SIDE, SIDE, 3, generator=draw)
    painted = torch.tensor(COLOURS[name]) + 20 * torch.randn(SIDE, SIDE, 3, generator=draw)
    pixels = torch.where(mask(SHAPES[shape], radius, centre)[..., None], painted, ground)
    return pixels.clamp(0, 255).to(torch.uint8), f"{name} {SHAPES[shape]}", CAPTIONS[words].format(name, SHAPES[shape])


def write(folder: Path, count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    made = [drawing(draw) for _ in range(count)]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "pixels.npy", np.stack([pixels.numpy() for pixels, _, _ in made]))
    lines = [{"image": f"drawing {seed}/{i}", "label": label} for i, (_, label, _) in enumerate(made)]
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = [{"image": line["image"], "caption": text} for line, (_, _, text) in zip(lines, made, strict=True)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in said))
