"""CLIP and its towers against transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import transformers
from safetensors.torch import load_file
from torch import Tensor

from pkernels.models import Model, build, clip, clip_text, clip_vision, from_pretrained

from .agreement import MASKS, count
from .images import assert_fields_agree, assert_same_gradients_on_disk, pixels
from .pairs import assert_close, fill_with_noise, pair

# Heads of 13; 3 x 3 patches.
SIZES = {"hidden_size": 26, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 37}
WORDS, EOS = 97, 7
IDS = {"pad_token_id": 1, "bos_token_id": 0}
TEXT = {**SIZES, **IDS, "vocab_size": WORDS, "max_position_embeddings": 12, "projection_dim": 11, "eos_token_id": EOS}
VISION = {**SIZES, "hidden_size": 24, "image_size": 14, "patch_size": 4, "projection_dim": 11}
ENDS = {"first": EOS, "highest": 2}


def texts(mask: Tensor, end: str) -> Tensor:
    """Ids that end where the mask does, and twice: padding has the id of the end, as OpenAI's."""
    draw = torch.Generator().manual_seed(4)
    last = EOS if end == "first" else WORDS - 1
    ids = torch.randint(8, WORDS - 1, mask.shape, generator=draw)
    place = (mask * torch.arange(mask.shape[1])).argmax(1, keepdim=True)
    return ids.where(torch.arange(mask.shape[1]) < place, last)


def config(end: str = "first", **changes) -> transformers.CLIPConfig:
    towers = TEXT | {"eos_token_id": ENDS[end]} | changes, VISION | changes
    return transformers.CLIPConfig(text_config=towers[0], vision_config=towers[1], projection_dim=11)


def ours_of(architecture: str) -> Model:
    towers = clip_text.Config(**TEXT), clip_vision.Config(**VISION)
    if architecture != "CLIPModel":
        return build(architecture, towers["Vision" in architecture]).eval()
    return build(architecture, clip.Config(text_config=towers[0], vision_config=towers[1], projection_dim=11)).eval()


def loss_of(out: object) -> Tensor:
    """Something of all that came out."""
    return sum((x**2).mean() for x in vars(out).values() if isinstance(x, Tensor)) * 30


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("padding", MASKS)
@pytest.mark.parametrize("architecture", clip_text.HEADS)
def test_text_tower_agrees(tmp_path: Path, architecture: str, padding: str, end: str) -> None:
    mask = MASKS[padding]
    act = "gelu" if padding == "left" else "quick_gelu"
    made = transformers.CLIPTextConfig(**TEXT | {"eos_token_id": ENDS[end], "hidden_act": act})
    oracle, ours = pair(tmp_path / "model", architecture, made)
    given = {"input_ids": texts(mask, end), "attention_mask": mask}
    want, got = (model(**given, output_hidden_states=True) for model in (oracle, ours))
    assert_fields_agree(want, got, mask.bool())
    for name, x in want.items():  # gradients of what means something: padding does not
        if name == "last_hidden_state":
            want[name] = x * mask[..., None]
    scale = mask.numel() / mask.sum()
    for model, out in ((oracle, want), (ours, got)):
        (scale * loss_of(out)).backward()
        assert any(p.grad is not None for p in model.parameters())
    assert_same_gradients_on_disk(oracle, ours, tmp_path / "gradients")


@pytest.mark.parametrize("size", [(14, 14), (17, 23), (5, 9)], ids=str)
@pytest.mark.parametrize("architecture", clip_vision.HEADS)
def test_image_tower_agrees(tmp_path: Path, architecture: str, size: tuple[int, int]) -> None:
    act = "gelu" if size == (17, 23) else "quick_gelu"
    oracle, ours = pair(tmp_path / "model", architecture, transformers.CLIPVisionConfig(**VISION | {"hidden_act": act}))
    given = {"pixel_values": pixels(1 if size == (5, 9) else 3, 3, *size), "output_hidden_states": True}
    given |= {} if size == (14, 14) else {"interpolate_pos_encoding": True}
    want, got = oracle(**given), ours(**given)
    assert_fields_agree(want, got)
    for out in (want, got):
        loss_of(out).backward()
    assert_same_gradients_on_disk(oracle, ours, tmp_path / "gradients")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("padding", MASKS)
def test_both_towers_agree(tmp_path: Path, padding: str, end: str) -> None:
    act = "gelu" if padding == "right" else "quick_gelu"
    oracle, ours = pair(tmp_path / "model", "CLIPModel", config(end, hidden_act=act))
    mask = MASKS[padding]
    given = {"input_ids": texts(mask, end), "attention_mask": mask, "return_loss": True}
    given |= {"pixel_values": pixels(len(mask), 3, 21, 14), "interpolate_pos_encoding": True}
    want, got = oracle(**given), ours(**given)
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        assert_close(getattr(got, name), want[name], name)
    assert_fields_agree(want.text_model_output, got.text_model_output, mask.bool())
    assert_fields_agree(want.vision_model_output, got.vision_model_output)
    for out in (want, got):
        (out.loss * 10 + (out.logits_per_image**2).mean()).backward()
    assert_same_gradients_on_disk(oracle, ours, tmp_path / "gradients")


def test_more_texts_than_images(tmp_path: Path) -> None:
    oracle, ours = pair(tmp_path, "CLIPModel", config())
    given = {"input_ids": texts(MASKS["whole"], "first"), "pixel_values": pixels(2, 3, 14, 14)}
    want, got = oracle(**given), ours(**given, output_hidden_states=True)
    assert got.logits_per_image.shape == (2, 3) and got.loss is None
    assert_close(got.logits_per_image, want.logits_per_image, "logits_per_image")
    assert len(got.text_model_output.hidden_states) == len(got.vision_model_output.hidden_states) == 3


ARCHITECTURES = ["CLIPModel", *clip_text.HEADS, *clip_vision.HEADS]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_loads_what_we_save(tmp_path: Path, architecture: str) -> None:
    ours = ours_of(architecture)
    fill_with_noise(ours)
    ours.save_pretrained(tmp_path)
    theirs, report = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    text, images = texts(MASKS["whole"], "first"), pixels(3, 3, 14, 14)
    given = {"CLIPModel": (text, images)}.get(architecture, (images if "Vision" in architecture else text,))
    want, got = theirs.eval()(*given), ours(*given)
    if architecture == "CLIPModel":
        assert_close(got.logits_per_text, want.logits_per_text, "logits")
    else:
        assert_fields_agree(want, got)
    again = from_pretrained(tmp_path)
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_a_tower_out_of_a_directory_of_both(tmp_path: Path, architecture: str) -> None:
    pair(tmp_path, "CLIPModel", config())
    theirs = getattr(transformers, architecture).from_pretrained(tmp_path).eval()
    if "Projection" in architecture:
        ours = from_pretrained(tmp_path, architecture=architecture)
    else:
        with pytest.warns(
            UserWarning, match=rf"{architecture} has no use for (text|visual)_projection.weight: left out"
        ):
            ours = from_pretrained(tmp_path, architecture=architecture)
    given = pixels(2, 3, 14, 14) if "Vision" in architecture else texts(MASKS["one"], "first")
    assert_fields_agree(theirs(given), ours(given))


def test_old_files_name_the_tower_and_repeat_its_config(tmp_path: Path) -> None:
    """A prefix on a lone tower's weights and a buffer, and text_config_dict over text_config."""
    _, ours = pair(tmp_path / "tower", "CLIPTextModel", transformers.CLIPTextConfig(**TEXT))
    weights = load_file(tmp_path / "tower/model.safetensors")
    weights = {f"text_model.{name}": x for name, x in weights.items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    (tmp_path / "tower/model.safetensors").unlink()
    torch.save(weights, tmp_path / "tower/pytorch_model.bin")
    again = from_pretrained(tmp_path / "tower")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
    _, ours = pair(tmp_path / "both", "CLIPModel", config())
    path = tmp_path / "both/config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"text_config_dict": TEXT, "text_config": {"hidden_size": 1}}))
    assert from_pretrained(tmp_path / "both").config == ours.config


def in_openai_s_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of openai/CLIP."""
    named = {"logit_scale": theirs.pop("logit_scale"), "context_length": torch.tensor(12)}
    for tower in ("text_model", "vision_model"):
        for layer in range(2):
            for leaf in ("weight", "bias"):
                at = f"{tower}.encoder.layers.{layer}.self_attn"
                stacked = torch.cat([theirs.pop(f"{at}.{x}_proj.{leaf}") for x in "qkv"])
                theirs[f"{at}.in_proj_{leaf}"] = stacked
    named["text_projection"] = theirs.pop("text_projection.weight").T.contiguous()
    named["visual.proj"] = theirs.pop("visual_projection.weight").T.contiguous()
    named["positional_embedding"] = theirs.pop("text_model.embeddings.position_embedding.weight")
    named["visual.positional_embedding"] = theirs.pop("vision_model.embeddings.position_embedding.weight")
    words = {
        "text_model.embeddings.token_embedding": "token_embedding",
        "text_model.final_layer_norm": "ln_final",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding": "visual.conv1",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "text_model.encoder.layers": "transformer.resblocks",
        "vision_model.encoder.layers": "visual.transformer.resblocks",
        "layer_norm": "ln_",
        "self_attn": "attn",
        "fc1": "c_fc",
        "fc2": "c_proj",
    }
    for name, tensor in theirs.items():
        for long, short in words.items():
            name = name.replace(long, short)
        named[name] = tensor
    return named


def test_state_dicts_of_openai_are_read(tmp_path: Path) -> None:
    _, ours = pair(tmp_path, "CLIPModel", config())
    named = in_openai_s_names(load_file(tmp_path / "model.safetensors"))
    (tmp_path / "model.safetensors").unlink()
    torch.save(named, tmp_path / "pytorch_model.bin")
    again = from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


# Texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_layouts_are_the_same_batch(end: str) -> None:
    """Padding by mask, by lengths and packed by offsets."""
    model = build("CLIPTextModel", clip_text.Config(**TEXT | {"eos_token_id": ENDS[end]})).eval()
    fill_with_noise(model)
    mask = MASKS["right"]
    ids, lengths, real = texts(mask, end), mask.sum(1), mask.bool()
    want = model(ids, mask)
    by_lengths = model(ids, lengths=lengths)
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    packed = model(ids[real][None], offsets=offsets)
    for got in (by_lengths, packed):
        assert torch.equal(got.pooler_output, want.pooler_output)
    assert torch.equal(packed.last_hidden_state[0], want.last_hidden_state[real])


@pytest.mark.parametrize("end", ENDS)
def test_padding_on_the_left_is_no_end_of_text(end: str) -> None:
    """Though it has that id, or a higher one (transformers would take it for one)."""
    model = build("CLIPTextModel", clip_text.Config(**TEXT | {"eos_token_id": ENDS[end]})).eval()
    fill_with_noise(model)
    ids = {"first": torch.tensor([[9, 50, 20, EOS, 30]]), "highest": torch.tensor([[9, 50, 20, 80, 30]])}[end]
    above = {"first": EOS, "highest": WORDS - 1}[end]
    padded = torch.cat([ids.new_full((1, 3), above), ids], 1)
    mask, places = (padded.new_tensor([[0] * 3 + x]) for x in ([1] * 5, [0, 1, 2, 3, 4]))
    want, got = model(ids).pooler_output, model(padded, mask, places).pooler_output
    assert_close(got, want, "pooler_output")
    if end == "first":
        with pytest.raises(ValueError, match="input_ids: texts with eos_token_id"):
            model(padded.where(mask == 0, 9), mask)


def test_a_token_sees_those_before_it_alone() -> None:
    model = ours_of("CLIPTextModel")
    fill_with_noise(model)
    ids = texts(MASKS["one"], "first")
    changed = ids.clone()
    changed[0, 2] = 50
    first, second = model(ids).last_hidden_state, model(changed).last_hidden_state
    assert torch.equal(first[:, :2], second[:, :2]) and not torch.equal(first[:, 2:], second[:, 2:])


def test_attention_drops_while_training() -> None:
    for kind, images in ((clip_text.Config, False), (clip_vision.Config, True)):
        made = kind(**(VISION if images else TEXT), attention_dropout=0.4)
        model = build("CLIPVisionModel" if images else "CLIPTextModel", made).train()
        fill_with_noise(model)
        given = pixels(2, 3, 14, 14) if images else texts(MASKS["whole"], "first")
        assert not torch.equal(model(given).pooler_output, model(given).pooler_output)


# The factor, zero-shot, sizes ----------------------------------------------------------------


def test_the_factor_is_kept_at_100() -> None:
    model = ours_of("CLIPModel").train()
    assert float(model.head.log_scale.exp()) == pytest.approx(1 / 0.07, rel=1e-4)
    optimiser = torch.optim.SGD([model.head.log_scale], lr=1.0)
    optimiser.register_step_post_hook(model.head.limit)
    for gradient, want in ((-9.0, math.log(100)), (1.0, math.log(100) - 1)):
        model.head.log_scale.grad = torch.tensor(gradient)
        optimiser.step()
        assert float(model.head.log_scale) == pytest.approx(want)


def tokenize(captions: list[str]) -> dict[str, Tensor]:
    """A token for each letter, and the end."""
    rows = [[*(8 + ord(letter) % 80 for letter in caption[:11]), EOS] for caption in captions]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])}


def test_classes_are_means_of_their_captions(tmp_path: Path) -> None:
    """As composed from transformers' features, caption by caption."""
    oracle, ours = pair(tmp_path, "CLIPModel", config())
    names, prompts = ["cat", "a dog"], ["{}", "my {}!", "the {}"]
    classes = clip.class_vectors(ours, names, prompts, tokenize)
    units = []
    for name in names:
        each = [oracle.get_text_features(**tokenize([p.format(name)])).pooler_output[0] for p in prompts]
        mean = sum(x / x.norm() for x in each) / len(each)
        units.append(mean / mean.norm())
    assert_close(classes, torch.stack(units), "classes")
    images = pixels(4, 3, 14, 14)
    features = oracle.get_image_features(images).pooler_output
    want = oracle.logit_scale.exp() * F.normalize(features, dim=1) @ torch.stack(units).T
    assert_close(clip.classify(ours, images, classes), want, "logits")
    with pytest.raises(ValueError, match="names, prompts: one or more, prompts with {}, are allowed"):
        clip.class_vectors(ours, names, ["a photo"], tokenize)


PAPER = {
    "ViT-B/32": (clip.Config.base(), 151_277_313),
    "ViT-B/16": (clip.Config.base(16), 149_620_737),
    "ViT-L/14": (clip.Config.large(), 427_616_513),
    "ViT-L/14@336px": (clip.Config.large(336), 427_944_193),
}


@pytest.mark.parametrize("name", PAPER)
def test_parameter_counts_of_the_paper(name: str) -> None:
    made, number = PAPER[name]
    assert count("CLIPModel", made) == number


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text_config": TEXT | {"hidden_act": "geglu"}}, "config.json: text_config: hidden_act: one of"),
        ({"vision_config": VISION | {"patch_size": 15}}, "config.json: vision_config: patch_size: at most"),
        ({"vision_config": VISION | {"num_attention_heads": 5}}, "vision_config: hidden_size: a multiple of"),
        ({"text_config": TEXT | {"eos_token_id": [7, 8]}}, "text_config: eos_token_id: int is allowed"),
        ({"projection_dim": 0}, "projection_dim: at least 1 is allowed"),
    ],
)
def test_bad_config(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip.Config.from_dict(values)


def test_bad_input() -> None:
    model = ours_of("CLIPModel")
    ids, images = texts(MASKS["whole"], "first"), pixels(3, 3, 14, 14)
    with pytest.raises(ValueError, match=r"input_ids: texts with eos_token_id \(7\) are allowed, text 1 has none"):
        model(ids.where(torch.tensor([[True], [False], [True]]), 9), images)
    with pytest.raises(ValueError, match=r"input_ids: at most 12 tokens \(max_position_embeddings\)"):
        model(torch.full((1, 13), EOS), images)
    with pytest.raises(ValueError, match="pixel_values: images of 14 x 14 are allowed"):
        model(ids, pixels(3, 3, 14, 15))
    with pytest.raises(ValueError, match="images, texts: the same shape"):
        model(ids, images[:2], return_loss=True)


@pytest.mark.compiles
def test_traces() -> None:
    model = ours_of("CLIPModel")
    fill_with_noise(model)
    mask = MASKS["right"]
    ids, images = texts(mask, "first"), pixels(3, 3, 14, 14)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    want = model(ids, images, mask)
    for given in ({"attention_mask": mask}, {"lengths": mask.sum(1)}):
        got = compiled(ids, images, **given)
        assert_close(got.text_embeds, want.text_embeds, "text_embeds")
        assert_close(got.image_embeds, want.image_embeds, "image_embeds")
