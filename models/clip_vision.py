"""The image tower of CLIP: Learning Transferable Visual Models From Natural Language Supervision
(Radford et al. 2021, arXiv:2103.00020).

Section 2.4: the Vision Transformer (``vit.py``) with one norm more, before the layers. The map of
the patches has no bias, and the norm after the layers is for the class token alone, which stands
for the image; ``clip.py`` projects it.

Example:
    >>> import torch
    >>> from pkernels.models import build, clip_vision
    >>> config = clip_vision.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
    >>> build("CLIPVisionModel", config)(torch.zeros(2, 3, 224, 224)).pooler_output.shape
    torch.Size([2, 12])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from .parts.heads import Bare, States
from .parts.keys import KeyMap, Same, Stacked
from .parts.layouts import Whole
from .parts.model import Family
from .parts.outputs import ImageEmbedding
from .parts.patches import Patches, Size, grid_of
from .parts.tower import Projection, TowerConfig, layer_rules, layers_of, start_tower


@dataclass(frozen=True)
class Config(TowerConfig):
    """The defaults are transformers', and those of ViT-B/32.

    Args:
        image_size, patch_size: In pixels, one number or (height, width).
    """

    model_type: ClassVar[str] = "clip_vision_model"

    num_channels: int = 3
    image_size: Size = 224
    patch_size: Size = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("num_channels")
        grid_of(self.image_size, self.patch_size)


class Body(nn.Module):
    """Patches, a norm, layers."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.patches = Patches(c.num_channels, c.hidden_size, c.image_size, c.patch_size, bias=False)
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.layers = layers_of(c)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, *, output_hidden_states: bool = False
    ) -> States:
        """``pixel_values (B, channels, height, width)``, floats; sizes other than the config's with
        ``interpolate_pos_encoding``."""
        x = self.norm(self.patches(pixel_values, interpolate_pos_encoding))
        layout = Whole(x.shape[0], x.shape[1], x.device)
        x, states = self.layers(x, layout, keep=output_hidden_states)
        return States(x, layout, None, states)


class ClassToken(nn.Module):
    """``norm(class token)``, one vector per image."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(self, states: States) -> Tensor:
        return self.norm(states.layout.first(states.last))


def projection(c: Config, shared: int) -> Projection:
    """Of images, to vectors of ``shared`` numbers."""
    return Projection(ClassToken(c), c.hidden_size, shared)


class Projected(nn.Module):
    """The image's vector, and the states it comes from."""

    targets = ()

    def __init__(self, image: Projection) -> None:
        super().__init__()
        self.image = image

    def forward(self, states: States) -> ImageEmbedding:
        return ImageEmbedding(self.image(states), states.layout.unpack(states.last), states.hidden_states)


HEADS = {
    "CLIPVisionModel": lambda c: Bare(ClassToken(c)),
    "CLIPVisionModelWithProjection": lambda c: Projected(projection(c, c.projection_dim)),
}


def rules(ours: str) -> dict[str, Same | Stacked]:
    """transformers' names for this tower, which is ``ours`` here."""
    return {
        f"{ours}.patches.token": Same("vision_model.embeddings.class_embedding"),
        f"{ours}.patches.positions": Same("vision_model.embeddings.position_embedding.weight"),
        f"{ours}.patches.projection": Same("vision_model.embeddings.patch_embedding"),
        f"{ours}.norm": Same("vision_model.pre_layrnorm"),
        **layer_rules(ours, "vision_model"),
        "head.pooler.norm": Same("vision_model.post_layernorm"),
        "head.image.pooler.norm": Same("vision_model.post_layernorm"),
        "head.image.project": Same("visual_projection"),
    }


def start(model: nn.Module, c: Config) -> None:
    """Initial weights (openai/CLIP, ``VisionTransformer``)."""
    start_tower(model, c.initializer_factor)
    for module in model.modules():
        if isinstance(module, Patches):
            std = c.hidden_size**-0.5 * c.initializer_factor
            nn.init.normal_(module.token, std=std)
            nn.init.normal_(module.positions, std=std)


KEYS = KeyMap(
    prefix="vision_model",
    rules=rules("body"),
    # Buffers; and, where the directory is CLIP's, what the texts' tower and the pair have.
    ignored=(r"embeddings\.position_ids$", r"^text_model\.", r"^text_projection\.", r"^logit_scale$"),
)

FAMILY = Family(Config, Body, HEADS, KEYS, start)
