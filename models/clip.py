"""CLIP: Learning Transferable Visual Models From Natural Language Supervision (Radford et al. 2021,
arXiv:2103.00020).

- Section 2.4: a Vision Transformer (``clip_vision.py``) and a causal text Transformer
  (``clip_text.py``), each followed by a linear map into one space, where vectors are units.
- Section 2.3, figure 3: of the N² pairs in a batch the N right ones are to be found, from the
  image and from the text (``objectives.contrastive_loss``, which makes no N x N matrix and
  works over processes).
- Section 2.5: the factor of the cosines is learned as its logarithm, starts at 1 / 0.07 and is
  kept at 100 at most (:meth:`Match.limit`).
- Section 3.1.2: a class is named by a caption (:func:`classify`); section 3.1.4: by the mean of
  many (:func:`class_vectors`).

Weights have the names of transformers' files; those of openai/CLIP and OpenCLIP are read too,
where the state dict stands beside a config.json of transformers.

Example:
    >>> import torch
    >>> from pkernels.models import build, clip
    >>> small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
    >>> towers = {"text_config": clip.TextConfig(**small), "vision_config": clip.VisionConfig(**small)}
    >>> config = clip.Config(**towers, projection_dim=8)
    >>> model = build("CLIPModel", config)
    >>> out = model(torch.tensor([[49406, 320, 49407]] * 2), torch.zeros(2, 3, 224, 224), return_loss=True)
    >>> out.logits_per_image.shape, out.loss.shape
    (torch.Size([2, 2]), torch.Size([]))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from . import clip_text, clip_vision
from .clip_text import Config as TextConfig
from .clip_text import TextStates
from .clip_vision import Config as VisionConfig
from .parts.config import BaseConfig
from .parts.heads import States
from .parts.keys import KeyMap, Same, Transposed
from .parts.model import Family, Model
from .parts.objectives import contrastive_loss
from .parts.outputs import Encoding, Matching
from .parts.tower import Projection, openai_rules


@dataclass(frozen=True)
class Config(BaseConfig):
    """Tables 19 and 20; the defaults are ViT-B/32.

    Args:
        text_config, vision_config: Of the towers, whose own ``projection_dim`` is not used here.
        projection_dim: Size of the vectors that texts and images share.
        logit_scale_init_value: Logarithm of the factor of the cosines.
        initializer_factor: Of the initial projections' sizes.
    """

    model_type: ClassVar[str] = "clip"

    text_config: TextConfig = field(default_factory=TextConfig)
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0

    def __post_init__(self) -> None:
        self.check_positive("projection_dim")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "config.json") -> Config:
        text = TextConfig.from_dict(tower_values(values, "text_config"), f"{source}: text_config")
        vision = VisionConfig.from_dict(tower_values(values, "vision_config"), f"{source}: vision_config")
        return super().from_dict({**values, "text_config": text, "vision_config": vision}, source)

    def to_dict(self) -> dict[str, Any]:
        towers = {"text_config": self.text_config.to_dict(), "vision_config": self.vision_config.to_dict()}
        return {**super().to_dict(), **towers}

    @classmethod
    def base(cls, patch: int = 32) -> Config:
        """ViT-B/32 and, with ``patch=16``, ViT-B/16."""
        return cls(vision_config=VisionConfig(patch_size=patch))

    @classmethod
    def large(cls, pixels: int = 224) -> Config:
        """ViT-L/14 and, with ``pixels=336``, ViT-L/14@336px."""
        text = TextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)
        vision = VisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
            patch_size=14, image_size=pixels, projection_dim=768,
        )  # fmt: skip
        return cls(text_config=text, vision_config=vision, projection_dim=768)


def tower_values(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A tower's part of CLIP's config.json. Old files have it twice, and the second, where there is
    one, is what transformers takes."""
    second = values.get(f"{name}_dict")
    return dict(values.get(name) or {}) if second is None else dict(second)


@dataclass
class Pair:
    """What both towers hand to the head."""

    text: TextStates
    image: States


class Body(nn.Module):
    """Both towers."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.text = clip_text.Body(c.text_config)
        self.image = clip_vision.Body(c.vision_config)

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        interpolate_pos_encoding: bool = False,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Pair:
        """Texts as :class:`clip_text.Body` takes them and images as :class:`clip_vision.Body`; there
        may be more of one than of the other."""
        text = self.text(
            input_ids, attention_mask, position_ids, lengths=lengths, offsets=offsets,
            output_hidden_states=output_hidden_states,
        )  # fmt: skip
        image = self.image(pixel_values, interpolate_pos_encoding, output_hidden_states=output_hidden_states)
        return Pair(text, image)


class Match(nn.Module):
    """Vectors of texts and images, and how well they match. ``return_loss`` asks for the loss, of
    as many texts as images; over several processes it is ``objectives.contrastive_loss(
    out.image_embeds, out.text_embeds, out.scale, group=...)``."""

    targets = ("return_loss",)

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.text = clip_text.projection(c.text_config, c.projection_dim)
        self.image = clip_vision.projection(c.vision_config, c.projection_dim)
        self.log_scale = nn.Parameter(torch.tensor(float(c.logit_scale_init_value)))

    def forward(self, states: Pair, return_loss: bool | None = False) -> Matching:
        text, image, scale = self.text(states.text), self.image(states.image), self.log_scale.exp()
        texts, images = F.normalize(text, dim=-1), F.normalize(image, dim=-1)
        loss = contrastive_loss(images, texts, scale) if return_loss else None
        outputs = (_encoding(of, vectors) for of, vectors in ((states.text, text), (states.image, image)))
        return Matching(loss, texts, images, scale, *outputs)

    def limit(self, *_: Any) -> None:
        """Keep the factor of the cosines at 100 at most: to be called after each step, such as by
        ``optimizer.register_step_post_hook(model.head.limit)``."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(100))


def _encoding(states: States, vectors: Tensor) -> Encoding:
    return Encoding(states.layout.unpack(states.last), vectors, states.hidden_states)


# Zero-shot ------------------------------------------------------------------------------


def text_vectors(model: Model, input_ids: Tensor, **arguments: Any) -> Tensor:
    """``(B, E)``: unit vectors of texts alone, given as to :class:`clip_text.Body`."""
    states = model.body.text(input_ids, **arguments)  # type: ignore[operator]
    return F.normalize(model.head.text(states), dim=-1)  # type: ignore[operator]


def image_vectors(model: Model, pixel_values: Tensor, **arguments: Any) -> Tensor:
    """``(B, E)``: unit vectors of images alone, given as to :class:`clip_vision.Body`."""
    states = model.body.image(pixel_values, **arguments)  # type: ignore[operator]
    return F.normalize(model.head.image(states), dim=-1)  # type: ignore[operator]


def class_vectors(
    model: Model, names: Sequence[str], prompts: Sequence[str], tokenize: Callable[[list[str]], Mapping[str, Tensor]]
) -> Tensor:
    """Classes by their names, ``(len(names), E)``: the unit vector of the mean of the unit vectors
    of a class's captions (section 3.1.4, "Prompt engineering and ensembling").

    Args:
        model: A ``CLIPModel``.
        names: Of the classes.
        prompts: Captions with ``{}`` in place of the name, such as "a photo of a {}.".
        tokenize: From captions to the arguments of the text tower, such as transformers'
            ``lambda texts: tokenizer(texts, padding=True, return_tensors="pt")``.
    """
    if not names or not prompts or not all("{}" in prompt for prompt in prompts):
        raise ValueError(f"names, prompts: one or more, prompts with {{}}, are allowed, got {names!r} and {prompts!r}")
    captions = ([prompt.format(name) for prompt in prompts] for name in names)
    means = [text_vectors(model, **tokenize(texts)).mean(0) for texts in captions]
    return F.normalize(torch.stack(means), dim=-1)


def classify(model: Model, pixel_values: Tensor, classes: Tensor, **arguments: Any) -> Tensor:
    """Logits ``(B, n)`` of images for ``classes (n, E)`` of :func:`class_vectors` (section 3.1.2);
    their softmax are the probabilities."""
    scale = model.head.log_scale.exp()  # type: ignore[operator]
    return scale * image_vectors(model, pixel_values, **arguments) @ classes.T


# Families and files ---------------------------------------------------------------------

HEADS = {"CLIPModel": Match}

KEYS = KeyMap(
    prefix="clip",
    rules={
        **clip_text.rules("body.text"),
        **clip_vision.rules("body.image"),
        "head.log_scale": Same("logit_scale"),
    },
    ignored=(r"embeddings\.position_ids$",),
)

# openai/CLIP (clip/model.py), and OpenCLIP's files, which keep its names.
OPENAI = KeyMap(
    prefix="",
    rules={
        "body.text.embeddings.words": Same("token_embedding"),
        "body.text.embeddings.positions.weight": Same("positional_embedding"),
        **openai_rules("body.text", ""),
        "body.text.norm": Same("ln_final"),
        "head.text.project.weight": Transposed("text_projection"),
        "body.image.patches.token": Same("visual.class_embedding"),
        "body.image.patches.positions": Same("visual.positional_embedding"),
        "body.image.patches.projection": Same("visual.conv1"),
        "body.image.norm": Same("visual.ln_pre"),
        **openai_rules("body.image", "visual."),
        "head.image.pooler.norm": Same("visual.ln_post"),
        "head.image.project.weight": Transposed("visual.proj"),
        "head.log_scale": Same("logit_scale"),
    },
    ignored=(r"^(input_resolution|context_length|vocab_size|attn_mask)$",),
)


def start(model: nn.Module, c: Config) -> None:
    """Initial weights: the towers' own, and of both projections."""
    body: Any = model.body
    clip_text.start(body.text, c.text_config)
    clip_vision.start(body.image, c.vision_config)
    for module in model.modules():
        if isinstance(module, Projection):
            module.start(c.initializer_factor)


def _tower(name: str, model_type: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda values: {"model_type": model_type, **tower_values(values, name)}


_TEXT, _VISION = _tower("text_config", clip_text.Config.model_type), _tower("vision_config", VisionConfig.model_type)
TOWERS = {**dict.fromkeys(clip_text.HEADS, _TEXT), **dict.fromkeys(clip_vision.HEADS, _VISION)}

FAMILY = Family(Config, Body, HEADS, KEYS, start, others={"visual.class_embedding": OPENAI}, towers=TOWERS)
