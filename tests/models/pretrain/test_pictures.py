"""Folders of pictures: what is read of them, what is refused, and what is learned from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pkernels.models import clip, from_pretrained, uniter, vit
from pkernels.models.pretrain import RECIPES, Settings, Sizes, check_folder, draw, pretrain
from pkernels.models.pretrain.__main__ import main
from pkernels.models.pretrain.albums import Shuffled, captioned, with_regions
from pkernels.models.pretrain.pictures import Pictures, digest, fitted
from pkernels.models.pretrain.regional import shared_out
from pkernels.models.pretrain.seeing import HALVES, pixel_values
from pkernels.models.pretrain.vocabulary import CASED, CLIP, learn

from .. import drawings, scenes
from .tiny import SETTINGS, SIZES, TASKS, data, tokenizer

SEEING = ("vit", "clip", "uniter", "unimo")


def lines(path: Path, *records: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def colours(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Pixels ---------------------------------------------------------------------------------


def test_files_of_all_kinds_are_read(tmp_path: Path) -> None:
    made = {"a.npy": colours(5, 7), "b.npy": colours(4, 6, 3), "deep/c.png": colours(3, 5, 3), "d.png": colours(6, 4)}
    (tmp_path / "deep").mkdir()
    for name, pixels in made.items():
        if name.endswith("npy"):
            np.save(tmp_path / name, pixels)
        else:
            Image.fromarray(pixels).save(tmp_path / name)
    lines(tmp_path / "images.jsonl", *({"image": name, "label": name[0]} for name in made))
    pictures = Pictures(tmp_path)
    assert pictures.names == list(made) and pictures.classes() == ["a", "b", "d"]
    for number, pixels in enumerate(made.values()):
        want = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[..., None]).permute(2, 0, 1)
        assert torch.equal(pictures.pixels(number), want)
    assert check_folder(tmp_path, "vit") == "4 pictures (sizes differ), 3 classes"


def test_pixels_of_one_file_are_mapped(tmp_path: Path) -> None:
    pixels = colours(3, 4, 5, 1)
    np.save(tmp_path / "pixels.npy", pixels)
    lines(tmp_path / "images.jsonl", *({"image": str(i), "label": str(i % 2)} for i in range(3)))
    pictures = Pictures(tmp_path)
    assert isinstance(pictures._all, np.memmap)
    assert torch.equal(pictures.pixels(2)[0], torch.from_numpy(pixels[2, :, :, 0]))
    assert check_folder(tmp_path, "vit") == "3 pictures (5 x 4, 1 channels), 2 classes"


def test_transparent_and_indexed_pictures_become_colours(tmp_path: Path) -> None:
    pixels = colours(4, 4, 3)
    clear = np.concatenate([pixels, np.full((4, 4, 1), 255, np.uint8)], 2)
    Image.fromarray(clear).save(tmp_path / "a.png")
    Image.fromarray(pixels // 128 * 255).convert("P").save(tmp_path / "b.png")
    lines(tmp_path / "images.jsonl", {"image": "a.png"}, {"image": "b.png"})
    pictures = Pictures(tmp_path)
    assert torch.equal(pictures.pixels(0).permute(1, 2, 0), torch.from_numpy(pixels))
    assert pictures.pixels(1).shape == (3, 4, 4)


def test_pictures_cover_what_the_model_sees() -> None:
    exact = torch.from_numpy(colours(3, 8, 8))
    assert torch.equal(fitted(exact, 3, (8, 8)), exact.float() / 255)
    assert torch.equal(fitted(exact[:1], 3, (8, 8)), (exact[:1].float() / 255).expand(3, -1, -1))
    grey = fitted(exact, 1, (8, 8))
    assert torch.allclose(grey[0, 2, 3] * 255, (exact[:, 2, 3].float() * torch.tensor([0.299, 0.587, 0.114])).sum())
    # What stands over is cut off on both sides alike.
    assert torch.equal(fitted(exact, 3, (8, 4)), exact[:, :, 2:6].float() / 255)
    flat = torch.full((1, 30, 50), 51, dtype=torch.uint8)
    flat[:, :, :10] = flat[:, :, -10:] = 255
    assert torch.allclose(fitted(flat, 1, (10, 10))[:, :, 1:-1], torch.tensor(0.2))
    for height, width in ((1, 1), (7, 3), (64, 9)):
        assert fitted(torch.zeros(1, height, width, dtype=torch.uint8), 3, (5, 6)).shape == (3, 5, 6)


def test_pixels_are_centred() -> None:
    album = captioned(data("clip"))
    config = vit.Config(image_size=16, patch_size=4)
    want = album.seen(3).float() / 255 * 2 - 1
    assert torch.allclose(pixel_values(album, [1, 3], config, HALVES, HALVES)[1], want, atol=1e-6)


# Batches --------------------------------------------------------------------------------


def test_every_example_comes_once_an_epoch_and_again_from_any_place() -> None:
    found = Shuffled(torch.arange(7), batch=3, seed=1)
    taken = [found.take() for _ in range(7)]
    numbers = torch.cat([one.numbers for one in taken]).tolist()
    epochs = [numbers[i : i + 7] for i in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
    assert all(torch.equal(one.numbers, one.lengths) for one in taken)
    again = Shuffled(torch.arange(7), batch=3, seed=1)
    again.go_to(0, 6)
    assert torch.equal(again.take().numbers, taken[2].numbers) and (again.epoch, again.place) == (1, 2)


def test_tasks_share_a_batch_by_their_parts() -> None:
    draw = torch.Generator().manual_seed(0)
    drawn = torch.tensor([shared_out(16, [2, 2, 1, 1, 1], [1] * 5, draw) for _ in range(400)]).double()
    assert (drawn.sum(1) == 16).all() and drawn.min() >= 1
    assert torch.allclose(drawn.mean(0), 1 + 11 * torch.tensor([2, 2, 1, 1, 1]).double() / 7, atol=0.1, rtol=0)
    with pytest.raises(ValueError, match=r"micro: at least 5 \(some for each task\) is allowed, got 4"):
        shared_out(4, [1, 0.5, 0.5, 1], [1, 1, 1, 2], draw)


# What is refused ------------------------------------------------------------------------


def no_pixels(folder: Path) -> None:
    (folder / "pixels.npy").unlink()


def replaced(name: str, number: int, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        records[number] = {k: v for k, v in {**records[number], **changes}.items() if v is not None}
        lines(folder / name, *records)

    return change


def file(name: str, content: bytes | np.ndarray) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        no_pixels(folder)
        replaced("images.jsonl", 0, image=name)(folder)
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            np.save(folder / name, content)

    return write


def pixels(content: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "pixels.npy", content)


def rewritten(folder: Path, **changes: Any) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "regions.safetensors")
    kept = {name: x for name, x in {**tensors, **changes}.items() if x is not None}
    save_file(kept, folder / "regions.safetensors")


WRONG: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "no list": ("vit", lambda d: (d / "images.jsonl").unlink(), "images.jsonl: missing"),
    "empty list": ("vit", lambda d: lines(d / "images.jsonl"), "images.jsonl: at least one picture is allowed"),
    "twice": ("clip", replaced("images.jsonl", 2, image="drawing 1/0"), "jsonl:3: image: a name of its own is allowed"),
    "field": ("vit", replaced("images.jsonl", 2, lable="x"), "jsonl:3: image, label, .* are allowed, got lable"),
    "label": ("vit", replaced("images.jsonl", 1, label=7), "jsonl:2: label: a text is allowed, got 7"),
    "no label": ("vit", replaced("images.jsonl", 1, label=None), "jsonl:2: label: a text is allowed, got none"),
    "one class": (
        "vit",
        lambda d: lines(d / "images.jsonl", *({"image": str(i), "label": "a"} for i in range(24))),
        "label: at least two classes are allowed, got 'a' alone",
    ),
    "no file": ("vit", no_pixels, "jsonl:1: image: .* the path of a file in this folder is allowed, got 'drawing 1/0'"),
    "no picture": ("vit", file("x.png", b"PNG?"), "x.png: a picture that Pillow reads is allowed"),
    "no array": ("vit", file("x.npy", b"\x93NUMPY"), "x.npy: a .npy file of uint8 is allowed"),
    "floats": ("vit", file("x.npy", np.zeros((4, 4))), r"x.npy: uint8 of shape .* got float64 of \(4, 4\)"),
    "channels": ("vit", pixels(colours(24, 4, 4, 2)), r"pixels.npy: drawing 1/0: uint8 .* got uint8 of \(4, 4, 2\)"),
    "fewer": ("vit", pixels(colours(23, 4, 4)), r"pixels.npy: uint8 of 24 pictures .* got uint8 of \(23, 4, 4\)"),
    "pixels' type": ("clip", pixels(np.zeros((24, 4, 4))), r"pixels.npy: uint8 .* got float64"),
    "no captions": ("clip", lambda d: (d / "captions.jsonl").unlink(), "captions.jsonl: missing"),
    "empty": ("clip", lambda d: lines(d / "captions.jsonl"), "captions.jsonl: at least one caption is allowed"),
    "caption": ("clip", replaced("captions.jsonl", 1, caption=""), "captions.jsonl:2: caption: a text is allowed"),
    "other picture": ("clip", replaced("captions.jsonl", 1, image="x"), "captions.jsonl:2: image: a name in images"),
    "no regions": ("uniter", lambda d: (d / "regions.safetensors").unlink(), "regions.safetensors: missing"),
    "count": ("uniter", replaced("images.jsonl", 1, regions=0), "jsonl:2: regions: a whole number above 0"),
    "width": ("unimo", replaced("images.jsonl", 1, width="64"), "jsonl:2: width: a number above 0 is allowed"),
    "no classes": ("unimo", lambda d: rewritten(d, probabilities=None), "probabilities: a tensor .N, C. is allowed"),
    "boxes": ("uniter", lambda d: rewritten(d, boxes=torch.full((1, 4), 65.0)), "boxes: a tensor of"),
    "one picture": ("uniter", lambda d: scenes.write(d, 1, 1), "jsonl: at least two pictures are allowed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_check_names_what_is_wrong(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family, change, message = WRONG[case]
    (drawings if family in ("vit", "clip") else scenes).write(tmp_path, 24, seed=1)
    check_folder(tmp_path, family)
    change(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_folder(tmp_path, family)
    assert main(["check", str(tmp_path), family]) == 2
    assert "pretrain: " in capsys.readouterr().err


def test_the_check_tells_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(data("clip")), "clip"]) == 0
    assert capsys.readouterr().out.endswith(": 24 pictures (16 x 16, 3 channels), 24 captions\n")
    scenes.write(tmp_path, 4, seed=3)
    (tmp_path / "captions.jsonl").write_text((tmp_path / "captions.jsonl").read_text().splitlines()[0] + "\n")
    assert check_folder(tmp_path, "unimo").endswith("1 captions, of which 3 pictures in images.jsonl have none")
    with pytest.raises(ValueError, match="family: one of vit, clip, uniter, unimo is allowed, got 'bert'"):
        check_folder(tmp_path, "bert")
    with pytest.raises(FileNotFoundError, match="images: .*none: a folder of pictures is allowed, it is none there"):
        check_folder(tmp_path / "none", "vit")


@pytest.mark.parametrize(
    ("family", "settings", "changes", "message"),
    [
        ("vit", SETTINGS, {"tokenizer": Path("x.json")}, "tokenizer: .* is allowed"),
        ("vit", SETTINGS, {"model": vit.Config(image_size=16, patch_size=4)}, "model: .* labels .* got 2"),
        ("clip", SETTINGS, {"model": clip.Config()}, "model: a pad_token_id of 0"),
        ("uniter", SETTINGS, {"model": uniter.Config(pad_token_id=0)}, "model: image_embedding_size 24"),
        ("vit", replace(SETTINGS, copies=2), {"model": SIZES}, "copies: 0 is allowed"),
        ("uniter", replace(SETTINGS, batch=4, micro=4), {"model": SIZES}, "micro: at least 5"),
    ],
)
def test_trainings_refuse_what_does_not_fit(
    family: str, settings: Settings, changes: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        pretrain(family, data(family), tmp_path / "out", settings=settings, **changes)


def test_trainings_see_one_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="images: one folder of pictures is allowed, got 2"):
        pretrain("vit", [data("vit"), data("clip")], tmp_path / "two")


def test_captions_without_enough_tokens_are_named(tmp_path: Path) -> None:
    scenes.write(tmp_path, 6, seed=1)
    replaced("captions.jsonl", 3, caption="box")(tmp_path)
    learn(["box box"], RECIPES["unimo"].scheme, 300).save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=r"captions.jsonl:4: caption: a text of at least 2 tokens .* got 'box'"):
        pretrain("unimo", tmp_path, tmp_path / "out", tokenizer=tmp_path / "t.json")


def test_another_folder_is_another_training(tmp_path: Path) -> None:
    drawings.write(tmp_path, 24, seed=1)
    before = digest(tmp_path, Pictures(tmp_path).names)
    assert before == digest(data("vit"), Pictures(data("vit")).names)
    pixels(colours(24, 16, 16, 3))(tmp_path)
    assert digest(tmp_path, Pictures(tmp_path).names) != before


# What is learned ------------------------------------------------------------------------


def test_tokenizers_read_captions_as_the_authors_do() -> None:
    """And nothing that is unknown ends a text."""
    text = ["A red Box's 12 shapes!", "the red box"] * 3
    pieces = learn(text, CLIP, 400)
    assert pieces.encode("A  Red box's 12!").tokens == [
        "<|startoftext|>", "a</w>", "red</w>", "box</w>", "'s</w>", "1</w>", "2</w>", "!</w>", "<|endoftext|>",
    ]  # fmt: skip
    assert pieces.encode("a box of\n\tred").tokens.count("<|endoftext|>") == 1
    assert learn(text, CASED, 60).encode("red Box").tokens != learn(text, CASED, 60).encode("red box").tokens


SIGHT = Sizes(hidden=32, layers=1, heads=2, inner=64, vocabulary=300, pixels=16, patch=4)


def test_classes_are_learned(tmp_path: Path) -> None:
    drawings.write(tmp_path / "seen", 300, seed=1)
    drawings.write(tmp_path / "new", 100, seed=2)
    settings = Settings(batch=32, steps=120, rate=4e-3, log=10)
    done = pretrain("vit", tmp_path / "seen", tmp_path / "out", model=SIGHT, settings=settings)
    assert abs(done.unigram - math.log(16)) < 0.06 and done.measure == "classes"
    assert done.log[-1]["classes"] < 0.6 * done.unigram and done.log[-1]["right"] > 0.4
    new = Pictures(tmp_path / "new")
    model = from_pretrained(done.out).eval()
    assert model.config.labels == drawings.LABELS
    seen = torch.stack([fitted(new.pixels(i), 3, (16, 16)) * 2 - 1 for i in range(100)])
    with torch.no_grad():
        found = model(seen).logits.argmax(1).tolist()
    right = [drawings.LABELS[i] == label for i, label in zip(found, new.labels, strict=True)]
    assert sum(right) > 20  # a guess finds 6
    assert draw(done.out).read_bytes().startswith(b"\x89PNG")


def test_captions_and_pictures_find_each_other(tmp_path: Path) -> None:
    drawings.write(tmp_path / "seen", 256, seed=1)
    settings = Settings(batch=32, steps=60, rate=4e-3, log=10, length=24)
    done = pretrain("clip", tmp_path / "seen", tmp_path / "out", model=SIGHT, settings=settings)
    assert done.measure == "pairs" and done.unigram == math.log(32)
    # Of 32 pairs some have the same shape in the same colour, so none comes to 0.
    assert done.log[0]["pairs"] > 0.8 * done.unigram and done.log[-1]["pairs"] < 0.72 * done.unigram


def test_clips_factor_is_brought_down_to_100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the recipe, after each step."""
    recipe = RECIPES["clip"]

    def steep(*given: Any) -> clip.Config:
        return replace(recipe.config(*given), logit_scale_init_value=9.0)

    monkeypatch.setitem(RECIPES, "clip", replace(recipe, config=steep))
    settings = replace(SETTINGS, steps=1)
    done = pretrain("clip", data("clip"), tmp_path / "out", model=SIZES, settings=settings, tokenizer=tokenizer("clip"))
    assert from_pretrained(done.out).head.log_scale.item() == pytest.approx(math.log(100))


def test_regions_and_words_are_learned(tmp_path: Path) -> None:
    scenes.write(tmp_path / "seen", 300, seed=1)
    settings = Settings(batch=24, steps=70, rate=1e-2, log=10, length=16)
    sizes = Sizes(hidden=32, layers=1, heads=2, inner=32, vocabulary=300)
    for family in TASKS:
        done = pretrain(family, tmp_path / "seen", tmp_path / family, model=sizes, settings=settings)
        first, last = done.log[0], done.log[-1]
        assert first["words"] > last["words"] + 0.5 and last["words"] < done.unigram - 0.3, family
        names = {"uniter": ("features", "classes"), "unimo": ("regions", "written", "contrast")}[family]
        assert all(last[name] < 0.95 * first[name] for name in names), (first, last)


def test_regions_stay_on_disk_until_they_are_asked_for() -> None:
    album = with_regions(data("uniter"))
    assert not any(isinstance(value, Tensor) for value in vars(album.regions).values())
