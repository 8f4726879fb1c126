"""An Image Is Worth 16x16 Words: Transformers for Image Recognition at Scale (Dosovitskiy et al.
2020, arXiv:2010.11929).

What differs from BERT's encoder (Devlin et al. 2019, arXiv:1810.04805):

- Section 3.1, equation 1: the tokens are patches of an image, each a linear map of its pixels,
  after a learned class token; learned positions add up with them. There are no words, no
  segments and no padding.
- Equations 2 and 3: the norms stand before the sublayers, and (equation 4) one more after the
  last layer.
- Section 3.1: classes come out of the class token, through a layer with tanh and another while
  pre-training, through one layer in fine-tuning, which starts at zero (section 3.2).
- Section 3.2: positions are interpolated for images of another size.
- Section 4.1: pre-training is supervised, cross-entropy of the classes (of ImageNet-21k, JFT).

Weights have the names of transformers' files; those of timm are read too (the sizes that timm
calls ``vit_base_patch16_224`` and so on).

Example:
    >>> import torch
    >>> from pkernels.models import build, vit
    >>> config = vit.Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=24)
    >>> model = build("ViTForImageClassification", config)
    >>> model(torch.zeros(2, 3, 224, 224)).logits.shape
    torch.Size([2, 2])
    >>> model(torch.zeros(1, 3, 200, 300), interpolate_pos_encoding=True).logits.shape
    torch.Size([1, 2])
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from .parts.attention import SelfAttention
from .parts.config import BaseConfig
from .parts.heads import PROBLEMS, Bare, First, Pooler, SequenceClassification, States
from .parts.keys import KeyMap, Same, Stacked, Unsqueezed
from .parts.layers import ACTIVATIONS, initialise
from .parts.layouts import Whole
from .parts.linear import Linear
from .parts.model import Family
from .parts.patches import Patches, Size, grid_of
from .parts.prenorm import Layer, Stack


@dataclass(frozen=True)
class Config(BaseConfig):
    """Table 1: layers, hidden size D, size of the MLP, heads. The defaults are transformers'.

    Args:
        image_size, patch_size: In pixels, one number or (height, width).
        pooler_output_size, pooler_act: Of the layer with tanh, which the pre-trained model has;
            None for ``hidden_size``.
    """

    model_type: ClassVar[str] = "vit"
    only: ClassVar[Mapping[str, tuple[Any, ...]]] = {"qkv_bias": (True,)}

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Size = 224
    patch_size: Size = 16
    num_channels: int = 3
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"
    problem_type: str | None = None

    def __post_init__(self) -> None:
        self.check_positive("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        self.check_positive("num_channels")
        self.check_probability("hidden_dropout_prob", "attention_probs_dropout_prob")
        self.check_heads("hidden_size", "num_attention_heads")
        self.check_choice("hidden_act", ACTIVATIONS)
        self.check_choice("pooler_act", ACTIVATIONS)
        self.check_choice("problem_type", (None, *PROBLEMS))
        grid_of(self.image_size, self.patch_size)

    @classmethod
    def base(cls, patch: int = 16, **sizes: Any) -> Config:
        """ViT-B/16 and, with ``patch=32``, ViT-B/32. Epsilon is that of the authors' program."""
        return cls(**{"patch_size": patch, "layer_norm_eps": 1e-6, **sizes})

    @classmethod
    def large(cls, patch: int = 16, **sizes: Any) -> Config:
        """ViT-L/16 and, with ``patch=32``, ViT-L/32."""
        large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
        return cls.base(patch, **{**large, **sizes})

    @classmethod
    def huge(cls, patch: int = 14, **sizes: Any) -> Config:
        """ViT-H/14."""
        huge = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}
        return cls.base(patch, **{**huge, **sizes})


class Body(nn.Module):
    """Equations 1 to 4: patches, layers and the last norm."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.patches = Patches(c.num_channels, c.hidden_size, c.image_size, c.patch_size, bias=True)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)
        self.layers = Stack(
            Layer(
                SelfAttention(c.hidden_size, c.num_attention_heads, dropout=c.attention_probs_dropout_prob),
                c.hidden_size, c.intermediate_size, act=c.hidden_act, eps=c.layer_norm_eps,
                dropout=c.hidden_dropout_prob,
            )
            for _ in range(c.num_hidden_layers)
        )  # fmt: skip
        self.norm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool = False, *, output_hidden_states: bool = False
    ) -> States:
        """``pixel_values (B, channels, height, width)``, floats; sizes other than the config's with
        ``interpolate_pos_encoding``. The tokens are 1 + rows * columns."""
        x = self.dropout(self.patches(pixel_values, interpolate_pos_encoding))
        layout = Whole(x.shape[0], x.shape[1], x.device)
        x, states = self.layers(x, layout, keep=output_hidden_states)
        return States(self.norm(x), layout, None, states)


def _pooler(c: Config) -> Pooler:
    return Pooler(c.hidden_size, c.pooler_act, c.pooler_output_size)


def _classes(c: Config, pooler: nn.Module, width: int) -> SequenceClassification:
    return SequenceClassification(pooler, Linear(width, c.num_labels), dropout=0.0, problem=c.problem_type)


# Section 3.1: the bare model; fine-tuning's head; pre-training's, which transformers does not have.
HEADS = {
    "ViTModel": lambda c: Bare(_pooler(c)),
    "ViTForImageClassification": lambda c: _classes(c, First(), c.hidden_size),
    "ViTForPreTraining": lambda c: _classes(c, _pooler(c), c.pooler_output_size or c.hidden_size),
}

_LAYER = "vit.encoder.layer.{}"
KEYS = KeyMap(
    prefix="vit",
    rules={
        "body.patches.token": Unsqueezed("vit.embeddings.cls_token", 2),
        "body.patches.positions": Unsqueezed("vit.embeddings.position_embeddings", 1),
        "body.patches.projection": Same("vit.embeddings.patch_embeddings.projection"),
        "body.layers.{}.attention.norm": Same(f"{_LAYER}.layernorm_before"),
        "body.layers.{}.attention.inner.qkv": Stacked(
            tuple(f"{_LAYER}.attention.attention.{name}" for name in ("query", "key", "value"))
        ),
        "body.layers.{}.attention.inner.out": Same(f"{_LAYER}.attention.output.dense"),
        "body.layers.{}.feed_forward.norm": Same(f"{_LAYER}.layernorm_after"),
        "body.layers.{}.feed_forward.inner.up": Same(f"{_LAYER}.intermediate.dense"),
        "body.layers.{}.feed_forward.inner.down": Same(f"{_LAYER}.output.dense"),
        "body.norm": Same("vit.layernorm"),
        "head.pooler": Same("vit.pooler"),
        "head.classifier": Same("classifier"),
    },
)

# timm's VisionTransformer (timm/models/vision_transformer.py).
TIMM = KeyMap(
    prefix="",
    rules={
        "body.patches.token": Unsqueezed("cls_token", 2),
        "body.patches.positions": Unsqueezed("pos_embed", 1),
        "body.patches.projection": Same("patch_embed.proj"),
        "body.layers.{}.attention.norm": Same("blocks.{}.norm1"),
        "body.layers.{}.attention.inner.qkv": Same("blocks.{}.attn.qkv"),
        "body.layers.{}.attention.inner.out": Same("blocks.{}.attn.proj"),
        "body.layers.{}.feed_forward.norm": Same("blocks.{}.norm2"),
        "body.layers.{}.feed_forward.inner.up": Same("blocks.{}.mlp.fc1"),
        "body.layers.{}.feed_forward.inner.down": Same("blocks.{}.mlp.fc2"),
        "body.norm": Same("norm"),
        "head.pooler.dense": Same("pre_logits.fc"),
        "head.classifier": Same("head"),
    },
)

_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """What timm writes in a config.json, in transformers' words: of the sizes of the paper, and
    the tiny and small that were added by Touvron et al. 2020 (arXiv:2012.12877).

    Example:
        >>> found = translated({"architecture": "vit_tiny_patch16_224", "num_classes": 10})
        >>> found["hidden_size"], found["patch_size"], found["num_labels"]
        (192, 16, 10)
    """
    name = values["architecture"]
    found = re.fullmatch(rf"vit_({'|'.join(_WIDTHS)})_patch(\d+)_(\d+)(\..*)?", name)
    if found is None:
        raise ValueError(
            f"architecture: vit_SIZE_patchP_PIXELS, where SIZE is one of {', '.join(_WIDTHS)}, is allowed, got {name!r}"
        )
    pretrained = values.get("pretrained_cfg") or {}
    pooled = {"global_pool": values.get("global_pool", "token"), **(values.get("model_args") or {})}
    if pooled != {"global_pool": "token"}:
        raise ValueError(f"global_pool, model_args: token and nothing else are supported, got {pooled}")
    size, patch, pixels = found[1], int(found[2]), int(found[3])
    width = _WIDTHS[size]
    preset = {"large": Config.large, "huge": Config.huge}.get(size, Config.base)
    heads = {"tiny": 3, "small": 6}.get(size)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads} if heads else {}
    channels, *image = pretrained.get("input_size", (3, pixels, pixels))
    config = preset(patch, image_size=tuple(image), num_channels=channels, **sizes).to_dict()
    labels = {name: config.pop(name) for name in ("id2label", "label2id")}
    classes = values.get("num_classes", pretrained.get("num_classes", len(labels["id2label"])))
    architecture = "ViTForImageClassification" if classes else "ViTModel"
    return {**config, "num_labels": classes, "architectures": [architecture]}


def start(model: nn.Module, c: Config) -> None:
    """Initial weights: small normal ones, classes at zero (section 3.2)."""
    initialise(model, c.initializer_range)
    for module in model.modules():
        if isinstance(module, Patches):
            for weight in (module.projection.weight, module.token, module.positions):
                nn.init.trunc_normal_(weight, std=c.initializer_range)
            nn.init.zeros_(module.projection.bias)  # type: ignore[arg-type]
        if isinstance(module, SequenceClassification):
            nn.init.zeros_(module.classifier.weight)  # type: ignore[arg-type]


# Many files of the bare model were published without its pooler.
FAMILY = Family(
    Config, Body, HEADS, KEYS, start,
    others={"blocks.0.attn.qkv.weight": TIMM}, optional={"ViTModel": ("head.pooler",)},
)  # fmt: skip
