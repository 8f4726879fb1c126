"""The Vision Transformer against transformers and timm."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pkernels.models import build, from_pretrained, vit

from .agreement import count
from .images import assert_fields_agree, assert_same_gradients_on_disk, installed, pixels
from .pairs import assert_close, fill_with_noise, pair

# Two heads of 13: no multiple of anything. 3 x 3 patches, of images whose last pixels no patch holds.
TINY = {
    "hidden_size": 26,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
    "image_size": 14,
    "patch_size": 4,
}
SIZES = {"its own": (14, 14), "odd": (17, 23), "smaller": (9, 5), "one row": (4, 41), "the same grid": (12, 15)}
LABELS = tuple(f"L{i}" for i in range(5))
CLASSES = torch.tensor([3, 0, 4])


def tiny(**changes) -> transformers.ViTConfig:
    return transformers.ViTConfig(**TINY | changes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("architecture", ["ViTModel", "ViTForImageClassification"])
@pytest.mark.parametrize("size", SIZES)
def test_heads_agree_with_transformers(tmp_path: Path, architecture: str, size: str, dtype: torch.dtype) -> None:
    act = "gelu_new" if size == "odd" else "gelu"
    oracle, ours = pair(tmp_path / "model", architecture, tiny(num_labels=5, hidden_act=act), dtype)
    if dtype == torch.float64:  # the softmax of "eager" is float32
        oracle.set_attn_implementation("sdpa")
    batch = 1 if size == "smaller" else 3
    given = {"pixel_values": pixels(batch, 3, *SIZES[size]).to(dtype), "output_hidden_states": True}
    given |= {} if size == "its own" else {"interpolate_pos_encoding": True}
    given |= {} if architecture == "ViTModel" else {"labels": CLASSES[:batch]}
    want, got = oracle(**given), ours(**given)
    assert_fields_agree(want, got)
    for out in (want, got):
        loss = out.loss if architecture != "ViTModel" else (out.last_hidden_state**2).sum() + out.pooler_output.sum()
        loss.mul(3).backward()
    assert_same_gradients_on_disk(oracle, ours, tmp_path / "gradients")


@pytest.mark.parametrize("architecture", ["ViTModel", "ViTForImageClassification"])
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    config = vit.Config(**TINY, labels=LABELS)
    ours = build(architecture, config).eval()
    fill_with_noise(ours)
    ours.save_pretrained(tmp_path)
    theirs, report = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = pixels(2, 3, 14, 14)
    assert_fields_agree(theirs.eval()(images), ours(images))
    again = from_pretrained(tmp_path)
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


def test_pre_training_has_the_layer_with_tanh(tmp_path: Path) -> None:
    """Its body and pooler are transformers' ViTModel; its classes a linear map of the pooled."""
    ours = build("ViTForPreTraining", vit.Config(**TINY, labels=LABELS, pooler_output_size=11)).eval()
    fill_with_noise(ours)
    ours.save_pretrained(tmp_path)
    theirs = transformers.ViTModel.from_pretrained(tmp_path).eval()
    images = pixels(2, 3, 14, 14)
    classifier = load_file(tmp_path / "model.safetensors")
    pooled = theirs(images).pooler_output
    assert pooled.shape == (2, 11)
    assert_close(ours(images).logits, pooled @ classifier["classifier.weight"].T + classifier["classifier.bias"], "")
    assert from_pretrained(tmp_path).config.pooler_output_size == 11


def test_fine_tuning_leaves_the_layer_with_tanh_out(tmp_path: Path) -> None:
    ours = build("ViTForPreTraining", vit.Config(**TINY, labels=LABELS)).eval()
    fill_with_noise(ours)
    ours.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="ViTForImageClassification has no use for vit.pooler"):
        tuned = from_pretrained(tmp_path, architecture="ViTForImageClassification")
    assert torch.equal(tuned.head.classifier.weight, ours.head.classifier.weight)


def test_a_file_without_a_pooler(tmp_path: Path) -> None:
    oracle = transformers.ViTModel(tiny(), add_pooling_layer=False).eval()
    fill_with_noise(oracle)
    oracle.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="holds no head.pooler: ViTModel goes without"):
        ours = from_pretrained(tmp_path)
    images = pixels(2, 3, 14, 14)
    assert_fields_agree(oracle(images), ours(images))
    with pytest.raises(ValueError, match="missing: classifier.bias, classifier.weight, vit.pooler.dense.bias"):
        from_pretrained(tmp_path, architecture="ViTForPreTraining")
    ours.save_pretrained(tmp_path / "again")
    with pytest.warns(UserWarning, match="goes without"):
        again = from_pretrained(tmp_path / "again")
    assert torch.equal(again(images).last_hidden_state, ours(images).last_hidden_state)


def test_images_and_patches_need_not_be_square(tmp_path: Path) -> None:
    """As one that is: a patch of 4 x 2 is the left half of one of 4 x 4 whose right half weighs 0."""
    wide = build("ViTModel", vit.Config(**TINY | {"image_size": (12, 8), "patch_size": (4, 2)})).eval()
    fill_with_noise(wide)
    square = build("ViTModel", vit.Config(**TINY | {"image_size": (12, 16)})).eval()
    weights = wide.state_dict()
    kernel = weights["body.patches.projection.weight"]
    weights["body.patches.projection.weight"] = torch.cat([kernel, torch.zeros_like(kernel)], 3)
    square.load_state_dict(weights)
    images = pixels(2, 3, 12, 8)
    spread = torch.zeros(2, 3, 12, 16)
    spread.unflatten(3, (4, 4))[..., :2] = images.unflatten(3, (4, 2))
    assert_close(wide(images).last_hidden_state, square(spread).last_hidden_state, "last_hidden_state")
    wide.save_pretrained(tmp_path)
    assert from_pretrained(tmp_path).config.patch_size == (4, 2)


def test_loss_starts_at_that_of_a_guess() -> None:
    """The last layer starts at zero (section 3.2)."""
    model = build("ViTForImageClassification", vit.Config(**TINY, labels=LABELS))
    loss = model(pixels(3, 3, 14, 14), labels=CLASSES).loss
    assert float(loss) == pytest.approx(math.log(5), abs=1e-6)
    loss.backward()
    assert model.head.classifier.weight.grad.any()


def test_dropout_is_at_work() -> None:
    images = pixels(2, 3, 14, 14)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        model = build("ViTModel", vit.Config(**TINY, **{name: 0.3})).train()
        fill_with_noise(model)
        torch.manual_seed(0)
        first, second = (model(images).last_hidden_state for _ in range(2))
        torch.manual_seed(0)
        assert torch.equal(first, model(images).last_hidden_state)
        assert not torch.equal(first, second)


PAPER = {
    "B/16": (vit.Config.base(), 86_567_656),
    "B/32": (vit.Config.base(32), 88_224_232),
    "L/16": (vit.Config.large(), 304_326_632),
    "L/32": (vit.Config.large(32), 306_535_400),
    "H/14": (vit.Config.huge(), 632_045_800),
}


@pytest.mark.parametrize("name", PAPER)
def test_parameter_counts_of_the_paper(name: str) -> None:
    config, number = PAPER[name]
    thousand = type(config)(**{**vars(config), "labels": tuple(map(str, range(1000)))})
    assert count("ViTForImageClassification", thousand) == number


# timm -----------------------------------------------------------------------------------


def in_timm_s_names(folder: Path, target: Path, config: dict) -> None:
    """A directory of transformers' as timm would have written it."""
    theirs = load_file(folder / "model.safetensors")
    named = {
        "cls_token": theirs.pop("vit.embeddings.cls_token"),
        "pos_embed": theirs.pop("vit.embeddings.position_embeddings"),
    }
    for layer in range(12):
        for leaf in ("weight", "bias"):
            parts = [
                theirs.pop(f"vit.encoder.layer.{layer}.attention.attention.{n}.{leaf}")
                for n in ("query", "key", "value")
            ]
            named[f"blocks.{layer}.attn.qkv.{leaf}"] = torch.cat(parts)
    words = {
        "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
        "vit.encoder.layer": "blocks",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "attention.output.dense": "attn.proj",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2",
        "vit.layernorm": "norm",
        "classifier": "head",
    }
    for name, tensor in theirs.items():
        for long, short in words.items():
            name = name.replace(long, short)
        named[name] = tensor
    target.mkdir()
    save_file(named, target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(config))


TIMM = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "num_features": 192, "global_pool": "token"}


def test_files_of_timm_are_read(tmp_path: Path) -> None:
    sizes = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3, "image_size": 48}
    sizes |= {"num_hidden_layers": 12, "patch_size": 16}
    _, ours = pair(tmp_path / "a", "ViTForImageClassification", tiny(**sizes, num_labels=5, layer_norm_eps=1e-6))
    in_timm_s_names(tmp_path / "a", tmp_path / "b", TIMM | {"pretrained_cfg": {"input_size": [3, 48, 48]}})
    again = from_pretrained(tmp_path / "b")
    images = pixels(2, 3, 48, 48)
    assert torch.equal(again(images).logits, ours(images).logits)
    assert again.config.layer_norm_eps == 1e-6
    # Without classes it is the bare model.
    weights = load_file(tmp_path / "b/model.safetensors")
    save_file({name: x for name, x in weights.items() if "head" not in name}, tmp_path / "b/model.safetensors")
    config = TIMM | {"num_classes": 0, "pretrained_cfg": {"input_size": [3, 48, 48]}}
    (tmp_path / "b/config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match="ViTModel goes without"):
        bare = from_pretrained(tmp_path / "b")
    assert_close(ours.head.classifier(bare(images).last_hidden_state[:, 0]), ours(images).logits, "logits")


def test_timm_itself_agrees(tmp_path: Path) -> None:
    timm = installed("timm", "timm (and the torchvision of your torch)")
    torch.manual_seed(0)
    oracle = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=5).eval()
    fill_with_noise(oracle)
    save_file(oracle.state_dict(), tmp_path / "model.safetensors")
    config = TIMM | {"pretrained_cfg": {"input_size": [3, 48, 48]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = from_pretrained(tmp_path)
    images = pixels(2, 3, 48, 48)
    assert_close(ours(images).logits, oracle(images), "logits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_base_patch16_clip_224"}, "architecture: vit_SIZE_patchP_PIXELS"),
        ({"global_pool": "avg"}, "global_pool, model_args: token and nothing else"),
        ({"model_args": {"qk_norm": True}}, "global_pool, model_args: token and nothing else"),
    ],
)
def test_other_models_of_timm_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TIMM | changes))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        from_pretrained(tmp_path)


# Errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qkv_bias": False}, "qkv_bias: True is supported, got False"),
        ({"patch_size": 15}, r"patch_size: at most image_size \(14, 14\) is allowed"),
        ({"image_size": [14, 14, 14]}, "image_size: a number above 0, or two of them"),
        ({"num_attention_heads": 3}, "hidden_size: a multiple of num_attention_heads"),
        ({"pooler_act": "softsign"}, "pooler_act: one of gelu"),
    ],
)
def test_bad_config(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vit.Config.from_dict(TINY | changes)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pixels(2, 3, 14, 15), "pixel_values: images of 14 x 14 are allowed, got 14 x 15; interpolate_pos_encoding"),
        (pixels(2, 1, 14, 14), r"pixel_values: shape \(B, 3, height, width\) is allowed, got \(2, 1, 14, 14\)"),
        (pixels(3, 14, 14), r"pixel_values: shape \(B, 3, height, width\) is allowed, got \(3, 14, 14\)"),
        (torch.zeros(1, 3, 14, 14, dtype=torch.uint8), "pixel_values: a floating-point tensor is allowed, got dtype"),
        (None, "pixel_values: a floating-point tensor is allowed, got NoneType"),
    ],
)
def test_bad_input(images: object, message: str) -> None:
    model = build("ViTModel", vit.Config(**TINY))
    with pytest.raises(ValueError, match=message):
        model(images)
    with pytest.raises(ValueError, match="pixel_values: at least one patch of 4 x 4 is allowed, got 3 x 9"):
        model(pixels(1, 3, 3, 9), interpolate_pos_encoding=True)


@pytest.mark.compiles
@pytest.mark.parametrize("size", ["its own", "odd"])
def test_traces(size: str) -> None:
    model = build("ViTForImageClassification", vit.Config(**TINY, labels=LABELS)).eval()
    fill_with_noise(model)
    images = pixels(2, 3, *SIZES[size])
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    want = model(images, interpolate_pos_encoding=True).logits
    assert_close(compiled(images, interpolate_pos_encoding=True).logits, want, "logits")
