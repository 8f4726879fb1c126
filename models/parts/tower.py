"""What the two towers of CLIP share (Radford et al. 2021, arXiv:2103.00020, section 2.4 and table 20)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ...patterns import Band, dense
from .attention import SelfAttention
from .config import BaseConfig
from .heads import States
from .keys import Same, Stacked
from .layers import ACTIVATIONS
from .linear import Linear
from .prenorm import Layer, Stack


@dataclass(frozen=True)
class TowerConfig(BaseConfig):
    """Sizes of a tower; a tower gives their defaults.

    Args:
        projection_dim: Size of the vectors that texts and images share.
        hidden_act: OpenAI's models have "quick_gelu", most of OpenCLIP's "gelu".
        initializer_factor: Of all initial weights' sizes.
    """

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_factor: float = 1.0

    def __post_init__(self) -> None:
        self.check_positive("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        self.check_positive("projection_dim")
        self.check_probability("attention_dropout")
        self.check_heads("hidden_size", "num_attention_heads")
        self.check_choice("hidden_act", ACTIVATIONS)


def layers_of(c: TowerConfig, pattern: Band = dense) -> Stack:
    """Layers as the config says."""
    return Stack(
        Layer(
            SelfAttention(c.hidden_size, c.num_attention_heads, dropout=c.attention_dropout, pattern=pattern),
            c.hidden_size, c.intermediate_size, act=c.hidden_act, eps=c.layer_norm_eps,
        )
        for _ in range(c.num_hidden_layers)
    )  # fmt: skip


class Projection(nn.Module):
    """A tower's vector in the space that both share: a linear map, no more."""

    def __init__(self, pooler: nn.Module, width: int, shared: int) -> None:
        super().__init__()
        self.pooler = pooler
        self.project = Linear(width, shared, bias=False)

    def forward(self, states: States) -> Tensor:
        return self.project(self.pooler(states))

    def start(self, factor: float) -> None:
        """Initial weights."""
        nn.init.normal_(self.project.weight, std=self.project.in_features**-0.5 * factor)


def layer_rules(ours: str, theirs: str) -> dict[str, Same | Stacked]:
    """transformers' names for the layers of a tower.

    Example:
        >>> layer_rules("body", "text_model")["body.layers.{}.attention.inner.out"].names
        ('text_model.encoder.layers.{}.self_attn.out_proj',)
    """
    layer, attention = f"{theirs}.encoder.layers.{{}}", f"{theirs}.encoder.layers.{{}}.self_attn"
    return {
        f"{ours}.layers.{{}}.attention.norm": Same(f"{layer}.layer_norm1"),
        f"{ours}.layers.{{}}.attention.inner.qkv": Stacked(tuple(f"{attention}.{x}_proj" for x in "qkv")),
        f"{ours}.layers.{{}}.attention.inner.out": Same(f"{attention}.out_proj"),
        f"{ours}.layers.{{}}.feed_forward.norm": Same(f"{layer}.layer_norm2"),
        f"{ours}.layers.{{}}.feed_forward.inner.up": Same(f"{layer}.mlp.fc1"),
        f"{ours}.layers.{{}}.feed_forward.inner.down": Same(f"{layer}.mlp.fc2"),
    }


def openai_rules(ours: str, theirs: str) -> dict[str, Same | Stacked]:
    """openai/CLIP's names for them, which OpenCLIP has kept.

    Example:
        >>> openai_rules("body.image", "visual.")["body.image.layers.{}.attention.inner.out"].names
        ('visual.transformer.resblocks.{}.attn.out_proj',)
    """
    block = f"{theirs}transformer.resblocks.{{}}"
    return {
        f"{ours}.layers.{{}}.attention.norm": Same(f"{block}.ln_1"),
        f"{ours}.layers.{{}}.attention.inner.qkv.weight": Same(f"{block}.attn.in_proj_weight"),
        f"{ours}.layers.{{}}.attention.inner.qkv.bias": Same(f"{block}.attn.in_proj_bias"),
        f"{ours}.layers.{{}}.attention.inner.out": Same(f"{block}.attn.out_proj"),
        f"{ours}.layers.{{}}.feed_forward.norm": Same(f"{block}.ln_2"),
        f"{ours}.layers.{{}}.feed_forward.inner.up": Same(f"{block}.mlp.c_fc"),
        f"{ours}.layers.{{}}.feed_forward.inner.down": Same(f"{block}.mlp.c_proj"),
    }


def start_tower(model: nn.Module, factor: float) -> None:
    """Initial weights of layers and projections by width and depth (openai/CLIP,
    ``initialize_parameters``; the authors leave the image tower's layers at torch's): what goes
    into the residual is smaller by the root of twice the number of layers."""
    for module in model.modules():
        if isinstance(module, Stack):
            _start_layers(module, factor)
        if isinstance(module, Projection):
            module.start(factor)


def _start_layers(layers: Stack, factor: float) -> None:
    for layer in cast(Iterable[Any], layers):
        attention, network = layer.attention.inner, layer.feed_forward.inner
        std = attention.out.in_features**-0.5 * factor
        into_residual = std * (2 * len(layers)) ** -0.5
        sizes = {attention.qkv: std, attention.out: into_residual, network.up: std * 0.5**0.5}
        for linear, size in (sizes | {network.down: into_residual}).items():
            nn.init.normal_(linear.weight, std=size)
            nn.init.zeros_(linear.bias)
