"""Pictures and captions on disk: what is written is read, and what is wrong is named by its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pkernels.models import unimo, uniter
from pkernels.models.parts.regions import (
    Caption,
    Image,
    Images,
    check,
    collate,
    read_captions,
    write_captions,
    write_images,
)

BOX = [1.0, 2.0, 30.0, 40.0]


def image(name: str = "a", regions: int = 2, **changes: Any) -> Image:
    draw = torch.Generator().manual_seed(regions)
    fields = {
        "features": torch.randn(regions, 5, generator=draw),
        "boxes": torch.tensor([BOX] * regions),
        "probabilities": torch.rand(regions, 3, generator=draw).softmax(1),
    }
    return Image(name, **{"width": 64, "height": 48, **fields, **changes})


def folder(path: Path) -> Path:
    write_images(path, [image("a", 2), image("b/ä", 3)])
    captions = [Caption("b/ä", "ein Bär"), Caption("a", "x", positives=("y", "z"), similar_images=("b/ä",))]
    write_captions(path, captions)
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert check(folder(tmp_path)) == (2, 5, 2)
    images = Images(tmp_path)
    assert list(images) == ["a", "b/ä"] and len(images) == 2
    for name, regions in (("a", 2), ("b/ä", 3)):
        for field in ("features", "boxes", "probabilities"):
            assert torch.equal(getattr(images[name], field), getattr(image(name, regions), field))
        assert (images[name].width, images[name].height) == (64, 48)
    first, second = read_captions(tmp_path, images)
    assert first == Caption("b/ä", "ein Bär")
    assert second == Caption("a", "x", positives=("y", "z"), similar_images=("b/ä",))
    with pytest.raises(KeyError):
        images["c"]


def test_halves_and_pictures_without_probabilities(tmp_path: Path) -> None:
    write_images(tmp_path, [image(probabilities=None, features=torch.ones(2, 5, dtype=torch.float16))])
    found = Images(tmp_path)["a"]
    assert found.probabilities is None and found.features.dtype == torch.float16
    batch = collate([found], uniter.view)
    assert batch.probabilities is None and batch.regions.dtype == torch.float32


def test_batches_are_ragged() -> None:
    batch = collate([image("a", 1), image("b", 3)], unimo.view)
    assert batch.lengths.tolist() == [2, 4] and batch.whole == 1
    assert batch.regions.shape == (2, 4, 5) and batch.locations.shape == (2, 4, 5)
    assert torch.equal(batch.regions[1, 0], image("b", 3).features.mean(0))
    assert torch.equal(batch.regions[1, 1:], image("b", 3).features) and not batch.regions[0, 2:].any()
    assert torch.equal(batch.probabilities[1, 1:], image("b", 3).probabilities) and not batch.probabilities[:, 0].any()
    assert batch.boxes[0].tolist() == [[0.0] * 4, BOX, [0.0] * 4, [0.0] * 4]
    assert collate([image("a", 1)], uniter.view).locations.shape == (1, 1, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "a: width, height: above 0 is allowed, got 0, 48"),
        ({"features": torch.zeros(0, 5)}, r"a: features: floats of shape \(n, at least 1, D\) are allowed, got"),
        ({"features": torch.zeros(3, 5)}, r"a: boxes: floats of shape \(3, 4\) are allowed, got torch.float32 of"),
        ({"boxes": torch.zeros(2, 4).long()}, r"a: boxes: .* got torch.int64 of \(2, 4\)"),
        ({"features": torch.full((2, 5), float("nan"))}, "a: features: finite numbers are allowed, got inf or nan"),
        ({"boxes": torch.tensor([BOX, [1.0, 2, 3, 49]])}, r"within 64 x 48 pixels, .* got \[1.0, 2.0, 3.0, 49.0\]"),
        ({"boxes": torch.tensor([BOX, [5.0, 2, 3, 9]])}, r"the upper left first, are allowed, got \[5.0"),
        ({"probabilities": torch.ones(2, 3)}, "a: probabilities: rows with a sum of 1, none negative, are allowed"),
    ],
)
def test_wrong_pictures_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image(**changes)


def test_pictures_of_one_folder_are_alike(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"b: features, probabilities: widths \(5, 3\) as those of a are allowed"):
        write_images(tmp_path, [image("a"), image("b", probabilities=None)])
    with pytest.raises(ValueError, match="images: at least one is allowed, got none"):
        write_images(tmp_path, [])


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("images", "{", r"images.jsonl:2: a JSON object is allowed; "),
        ("images", "[]", r"images.jsonl:2: a JSON object is allowed, got list"),
        ("images", {"regions": 3.0}, "images.jsonl:2: regions: a whole number above 0 is allowed, got 3.0"),
        ("images", {"regions": True}, "images.jsonl:2: regions: .* got True"),
        ("images", {"width": "64"}, "images.jsonl:2: width: a number above 0 is allowed, got '64'"),
        ("images", {"image": ""}, "images.jsonl:2: image: a name is allowed, got ''"),
        ("images", {"image": "a"}, "images.jsonl:2: image: a name of its own is allowed, got 'a' again"),
        ("images", {"size": 3}, "images.jsonl:2: image, label, width, height, regions are allowed, got size"),
        ("images", {"regions": 4}, r"regions.safetensors: features: a tensor of 6 rows .* is allowed, got \(5, 5\)"),
        ("captions", {"caption": ""}, "captions.jsonl:2: caption: a text is allowed, got ''"),
        ("captions", {"image": "c"}, "captions.jsonl:2: image: a name in images.jsonl is allowed, got 'c'"),
        ("captions", {"positives": "y"}, "captions.jsonl:2: positives: a list of texts is allowed, got 'y'"),
        ("captions", {"similar_images": ["c"]}, "captions.jsonl:2: image: .* got 'c'"),
        ("captions", {"text": "x"}, "captions.jsonl:2: image, caption, .* are allowed, got text"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, name: str, line: Any, message: str) -> None:
    path = folder(tmp_path) / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = line if isinstance(line, str) else json.dumps({**json.loads(lines[1]), **line})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        check(tmp_path)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path) / "regions.safetensors"
    tensors = load_file(path)
    save_file({"features": tensors["features"]}, path)
    with pytest.raises(ValueError, match=r"regions.safetensors: boxes: a tensor of 5 rows .* got none"):
        check(tmp_path)
    save_file({**tensors, "boxes": tensors["boxes"] * 2}, path)
    with pytest.raises(ValueError, match=r"regions.safetensors: a: boxes: corners within"):
        check(tmp_path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="regions.safetensors: corrupt or truncated"):
        check(tmp_path)
    for name in ("captions.jsonl", "regions.safetensors", "images.jsonl"):
        folder(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name}: missing"):
            check(tmp_path)
