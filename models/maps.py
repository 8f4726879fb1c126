"""Where a model looks: attention's probabilities, which fused kernels never form.

Example:
    >>> import torch
    >>> from pkernels.models import build, vit
    >>> from pkernels.models.maps import attention_maps, rollout
    >>> config = vit.Config(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=24)
    >>> model = build("ViTModel", config)
    >>> maps = attention_maps(model, torch.zeros(1, 3, 224, 224))
    >>> len(maps), maps[0].shape
    (2, torch.Size([1, 3, 197, 197]))
    >>> rollout(maps)[:, 0, 1:].unflatten(1, (14, 14)).shape  # of the class token, as an image
    torch.Size([1, 14, 14])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import attention
from .parts.attention import SelfAttention, split_heads
from .parts.layouts import Whole

_WIDEST = 256
"""Of the values that attention takes."""


@torch.no_grad()
def attention_maps(module: nn.Module, *inputs: Any, **arguments: Any) -> list[Tensor]:
    """The probabilities of every layer with self-attention in a call, each ``(B, heads, S, S)``: row
    i is what token i sees of each token, and sums to 1.

    Args:
        module: Such as a ViT, or ``model.body.image`` of a CLIP.
        inputs, arguments: What it is called with; no padding.

    They are what the reference backend gives for values that are unit vectors. The cost: layers *
    B * heads * S² numbers are returned, and while one layer is at work the reference holds as many
    again a few times over; the fused kernels need none of that. To look at some images, not to
    train.
    """
    found: list[Tensor] = []
    layers = [layer for layer in module.modules() if isinstance(layer, SelfAttention)]
    hooks = [layer.register_forward_pre_hook(_no_padding) for layer in layers]
    hooks += [layer.qkv.register_forward_hook(_keeper(layer, found)) for layer in layers]
    try:
        module(*inputs, **arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _keeper(layer: SelfAttention, found: list[Tensor]) -> Callable[..., None]:
    def keep(_: nn.Module, inputs: tuple[Tensor, ...], qkv: Tensor) -> None:
        q, k, _v = split_heads(qkv, 3, layer.heads)
        ones = torch.eye(q.shape[2], dtype=q.dtype, device=q.device).expand(*k.shape[:3], -1)
        some = (attention(q, k, v, layer.pattern, backend="reference") for v in ones.split(_WIDEST, -1))
        found.append(torch.cat(list(some), -1))  # type: ignore[arg-type]

    return keep


def _no_padding(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
    if type(inputs[1]) is not Whole or len(inputs) > 2:
        raise ValueError("inputs: batches without padding and layers without a bias are allowed")


def rollout(maps: Sequence[Tensor]) -> Tensor:
    """How much of each token of the first layer is in each of the last, ``(B, S, S)``: the means over
    heads, half of them the residual's, multiplied from layer to layer (Abnar and Zuidema 2020,
    arXiv:2005.00928, section 3; the images of Dosovitskiy et al. 2020, appendix D.8).

    Args:
        maps: Of the layers in order, ``(B, heads, S, S)`` each (:func:`attention_maps`).
    """
    if not maps:
        raise ValueError("maps: those of one layer or more are allowed, got none")
    mixed = [(one.mean(1) + torch.eye(one.shape[-1]).to(one)) / 2 for one in maps]
    total = mixed[0]
    for one in mixed[1:]:
        total = one @ total
    return total
