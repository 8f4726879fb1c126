"""The Vision Transformer and CLIP at their published widths: batches of images, and of images with texts.

Lengths are of tokens: of ViT-B/16 an image's patches and the class token, 197 of 224 pixels a side and 577 of
384; of CLIP-B/32 those of an image, 50, and of a text, 77.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pkernels.models import clip, vit

from .base import Encoder

PATCH, TEXT, WIDE = 16, 77, 32
"""Sides of patches of ViT and of CLIP, and the tokens of a text of CLIP."""
ROWS = (1.0,) * 4


def _side(patches: int, patch: int) -> int:
    return patch * math.isqrt(patches)


def noise(count: int, side: int) -> Tensor:
    """Images ``(count, 3, side, side)``."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


# Vision Transformer


def _base(length: int, layers: int) -> vit.Config:
    return vit.Config.base(PATCH, image_size=_side(length - 1, PATCH), num_hidden_layers=layers)


def _images(real: Tensor) -> dict[str, Tensor]:
    rows, length = real.shape
    return {"pixel_values": noise(rows, _side(length - 1, PATCH)).to(real.device)}


IN_FILES = {
    r"^layers\.(\d+)\.": r"encoder.layer.\1.",
    r"attention\.q_proj": "attention.attention.query",
    r"attention\.k_proj": "attention.attention.key",
    r"attention\.v_proj": "attention.attention.value",
    r"attention\.o_proj": "attention.output.dense",
    r"mlp\.fc1": "intermediate.dense",
    r"mlp\.fc2": "output.dense",
}
"""transformers 5 renames what it reads."""


def in_files(tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors of transformers' ViT by the names that they have in files."""
    found = {}
    for name, x in tensors.items():
        for here, there in IN_FILES.items():
            name = re.sub(here, there, name)
        found[name] = x
    return found


# CLIP


def _both(length: int, layers: int) -> clip.Config:
    side = _side(length - TEXT - 1, WIDE)
    image = clip.VisionConfig(num_hidden_layers=layers, image_size=side, patch_size=WIDE)
    return clip.Config(text_config=clip.TextConfig(num_hidden_layers=layers), vision_config=image)


def _pairs(real: Tensor) -> dict[str, Tensor]:
    """Texts end where the highest id stands, as OpenAI's, each after as many tokens as ever."""
    rows, length = real.shape
    draw = torch.Generator().manual_seed(4)
    last = clip.TextConfig().vocab_size - 1
    ids = torch.randint(1, last, (rows, TEXT), generator=draw)
    ends = torch.linspace(8, TEXT - 1, rows).long()[:, None]
    ids = ids.masked_fill(torch.arange(TEXT) >= ends, last)
    images = noise(rows, _side(length - TEXT - 1, WIDE))
    return {"input_ids": ids.to(real.device), "pixel_values": images.to(real.device)}


def vectors(out: Any) -> Tensor:
    """Of images and of texts."""
    return torch.cat([out.image_embeds, out.text_embeds])


ENCODERS = (
    Encoder(
        "ViT-B/16", "ViTModel", _base, sizes=((197, 12), (577, 12)), rows=ROWS, given=_images, files=in_files,
    ),
    Encoder(
        "CLIP-B/32", "CLIPModel", _both, sizes=((127, 12),), rows=(1.0,) * 16, given=_pairs, states=vectors,
    ),
)  # fmt: skip
