"""Attention's probabilities against transformers', and where the class token looks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pkernels.models import bert, build, vit
from pkernels.models.maps import attention_maps, rollout

from .images import pixels
from .pairs import assert_close, fill_with_noise, pair
from .test_clip import config as clip_config
from .test_clip import texts
from .test_vit import TINY

# 17 x 17 patches: more tokens than a value may be wide.
LARGE = {"image_size": 17, "patch_size": 1, "hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.mark.parametrize("sizes", [TINY, TINY | LARGE], ids=["10 tokens", "290 tokens"])
def test_maps_are_transformers(tmp_path: Path, sizes: dict) -> None:
    oracle, ours = pair(tmp_path, "ViTModel", transformers.ViTConfig(**sizes))
    images = pixels(2, 3, sizes["image_size"], sizes["image_size"])
    want, got = oracle(images, output_attentions=True).attentions, attention_maps(ours, images)
    assert len(want) == len(got) == 2
    for x, y in zip(got, want, strict=True):
        assert_close(x, y, "probabilities")
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in ours.modules()]
    assert not any(hooks)


def test_maps_of_a_causal_tower(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "CLIPModel", clip_config())
    ids = texts(torch.ones(3, 7, dtype=torch.long), "first")
    want = oracle.text_model(ids, output_attentions=True).attentions
    for x, y in zip(attention_maps(ours.body.text, ids), want, strict=True):
        assert_close(x, y, "probabilities")


def test_rollout_of_one_and_of_two_layers() -> None:
    first = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[0.5, 0.5], [1.0, 0.0]]]])
    assert rollout([first]).tolist() == [[[0.75, 0.25], [0.25, 0.75]]]
    assert rollout([first, first]).tolist() == [[[0.625, 0.375], [0.375, 0.625]]]
    swap = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert rollout([first, swap]).tolist() == [[[0.5, 0.5], [0.25, 0.75]]]
    with pytest.raises(ValueError, match="maps: those of one layer or more"):
        rollout([])


def test_padding_is_refused() -> None:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
    model = build("BertModel", bert.Config(vocab_size=9, **sizes))
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="inputs: batches without padding"):
        attention_maps(model, ids, torch.tensor([[1, 1, 1], [1, 1, 0]]))
    assert len(attention_maps(model, ids)) == 1


def test_pictures_of_any_size() -> None:
    model = build("ViTModel", vit.Config(**TINY)).eval()
    fill_with_noise(model)
    maps = attention_maps(model, pixels(1, 3, 9, 21), interpolate_pos_encoding=True)
    assert rollout(maps)[:, 0, 1:].unflatten(1, (2, 5)).shape == (1, 2, 5)
