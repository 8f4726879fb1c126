"""Families that see pixels: ViT, which learns classes (Dosovitskiy et al. 2020, arXiv:2010.11929, section 4.1), and
CLIP, which learns what picture a caption is of (Radford et al. 2021, arXiv:2103.00020, section 2.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import clip, vit
from ..parts.linear import linear
from ..parts.objectives import padded
from ..parts.patches import height_and_width
from .albums import Album, Picked
from .pictures import fitted
from .settings import Settings, Sizes
from .sources import Guess
from .text import Corpus
from .vocabulary import Vocabulary

HALVES = (0.5,) * 3
"""Means of channels, and their deviations, as google-research/vision_transformer takes them."""
MEANS, DEVIATIONS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""openai/CLIP's, of its training data."""


def pixel_values(
    album: Album, numbers: list[int], config: Any, means: tuple[float, ...], deviations: tuple[float, ...]
) -> Tensor:
    """``(B, channels, height, width)``: pictures as the model of a config sees them."""
    size = height_and_width("image_size", config.image_size)
    found = torch.stack([fitted(album.seen(number), config.num_channels, size) for number in numbers])
    mean, deviation = (torch.tensor(x[: config.num_channels])[:, None, None] for x in (means, deviations))
    return (found - mean) / deviation


def _check_channels(config: Any) -> None:
    if config.num_channels not in (1, 3):
        raise ValueError(f"model: num_channels 1 or 3 is allowed, got {config.num_channels}")


def _seen(s: Sizes, album: Album) -> dict[str, Any]:
    """Sizes of what sees, and as many channels as the first picture has."""
    return {
        "image_size": s.pixels,
        "patch_size": s.patch,
        "num_channels": len(album.seen(0)),
        "hidden_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "intermediate_size": s.inner,
    }


# ViT ------------------------------------------------------------------------------------


def of_vit(s: Sizes, album: Album) -> vit.Config:
    drop: dict[str, Any] = {"hidden_dropout_prob": s.dropout, "attention_probs_dropout_prob": s.dropout}
    return vit.Config.base(labels=album.classes, **_seen(s, album), **drop)


def classes(album: Album, labels: Tensor, config: vit.Config) -> Any:
    """Of pictures: their pixels, and the numbers of their classes."""
    _check_channels(config)

    def objective(picked: Picked, vocabulary: None, generator: torch.Generator) -> dict[str, Any]:
        pixels = pixel_values(album, picked.numbers.tolist(), config, HALVES, HALVES)
        return {"pixel_values": pixels, "labels": labels[picked.numbers]}

    return objective


def of_classes(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The loss, and the share of pictures whose class is found."""
    right = (out.logits.argmax(-1) == arguments["labels"]).float().mean()
    return {"classes": out.loss, "right": right}


# CLIP -----------------------------------------------------------------------------------


def of_clip(s: Sizes, album: Album, v: Vocabulary, length: int) -> clip.Config:
    text = clip.TextConfig(
        vocab_size=v.size, hidden_size=s.hidden, num_hidden_layers=s.layers, num_attention_heads=s.heads,
        intermediate_size=s.inner, max_position_embeddings=length, attention_dropout=s.dropout, projection_dim=s.hidden,
        pad_token_id=v.pad, bos_token_id=v.first, eos_token_id=v.last,
    )  # fmt: skip
    sight = clip.VisionConfig(**_seen(s, album), attention_dropout=s.dropout, projection_dim=s.hidden)
    return clip.Config(text_config=text, vision_config=sight, projection_dim=s.hidden)


def pairs(album: Album, vocabulary: Vocabulary, config: clip.Config, length: int) -> Any:
    """Of captions: their tokens, and the pixels of their pictures. The pairs of a micro-batch are set against one
    another."""
    _check_channels(config.vision_config)
    longest = config.text_config.max_position_embeddings
    if length > longest:
        raise ValueError(f"length: at most {longest} (the model's max_position_embeddings) is allowed, got {length}")
    assert album.pictures is not None
    places = album.pictures.places

    def objective(picked: Picked, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        drawn = [album.captions[number] for number in picked.numbers.tolist()]
        texts = vocabulary.tokenizer.encode_batch([one.caption for one in drawn], add_special_tokens=False)
        rows = [[vocabulary.first, *text.ids[: length - 2], vocabulary.last] for text in texts]
        ids, lengths = padded(rows, vocabulary.pad)
        seen = [places[one.image] for one in drawn]
        pixels = pixel_values(album, seen, config.vision_config, MEANS, DEVIATIONS)
        return {"input_ids": ids, "lengths": lengths, "pixel_values": pixels, "return_loss": True}

    return objective


def of_pairs(out: Any, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The loss, and the share of pictures whose caption is the nearest."""
    near = linear(out.image_embeds, out.text_embeds).argmax(1)
    return {"pairs": out.loss, "right": (near == torch.arange(len(near), device=near.device)).float().mean()}


def limit(learner: Any) -> None:
    """Section 2.5: the cosines' factor stays at 100 at most."""
    learner.head.limit()


def any_pair(corpus: Corpus, settings: Settings) -> Guess:
    """That takes any caption of a micro-batch for a picture's."""
    micro = settings.micro or settings.batch
    return Guess("pairs", math.log(micro), f"any of {micro} captions")
