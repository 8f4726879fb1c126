"""Pictures as an object detector sees them, and captions, on disk.

A folder holds three files::

    images.jsonl         one picture a line: {"image": name, "width": W, "height": H, "regions": n}, and
                         "label", which is not read here
    regions.safetensors  of all pictures' regions, one after the other in the order of images.jsonl:
                         features (N, D), boxes (N, 4) and, if wanted, probabilities (N, C)
    captions.jsonl       one caption a line: {"image": name, "caption": text} and, for contrast, lists
                         positives, negatives, similar_texts (of texts) and similar_images (of names)

Boxes are ``x1, y1, x2, y2`` in pixels. Probabilities are the detector's, the background first. All
tensors are floats; features and probabilities may be half of the precision. Features are read picture
by picture, so a folder may be larger than memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

IMAGES, REGIONS, CAPTIONS = "images.jsonl", "regions.safetensors", "captions.jsonl"
FIELDS = ("image", "label", "width", "height", "regions")
"""Of a line of images.jsonl."""


@dataclass(frozen=True, eq=False)
class Image:
    """A picture's regions.

    Args:
        features: ``(n, D)``, n at least 1.
        boxes: ``(n, 4)``: x1, y1, x2, y2 in pixels, ``0 <= x1 <= x2 <= width`` and so in height.
        probabilities: ``(n, C)`` of the detector's classes, the background first.

    Raises:
        ValueError: Naming the picture and the field.

    Example:
        >>> Image("a", 64, 48, torch.zeros(1, 8), torch.tensor([[0.0, 0.0, 65.0, 48.0]]))
        Traceback (most recent call last):
            ...
        ValueError: a: boxes: corners within 64 x 48 pixels, the upper left first, are allowed, got [0.0, 0.0, 65.0, 48.0]
    """  # noqa: E501

    name: str
    width: float
    height: float
    features: Tensor
    boxes: Tensor
    probabilities: Tensor | None = None

    def __post_init__(self) -> None:
        if not (self.width > 0 and self.height > 0):
            raise ValueError(f"{self.name}: width, height: above 0 is allowed, got {self.width}, {self.height}")
        n = self.features.shape[0] if self.features.dim() == 2 else 0
        wanted = {"features": (n, "D"), "boxes": (n, 4), "probabilities": (n, "C")}
        for name, shape in wanted.items():
            x = getattr(self, name)
            if x is None and name == "probabilities":
                continue
            fits = x.is_floating_point() and x.dim() == 2 and n > 0 and x.shape[0] == n
            if not fits or (name == "boxes" and x.shape[1] != 4):
                listed = f"({n or 'n, at least 1'}, {shape[1]})"
                raise ValueError(f"{self.name}: {name}: floats of shape {listed} are allowed, got {_seen(x)}")
            if not bool(torch.isfinite(x).all()):
                raise ValueError(f"{self.name}: {name}: finite numbers are allowed, got inf or nan")
        self._check_values()

    def _check_values(self) -> None:
        x1, y1, x2, y2 = self.boxes.unbind(1)
        # A box may end on the border; detectors round there.
        wide, high = self.width * (1 + 1e-4), self.height * (1 + 1e-4)
        wrong = (x1 < 0) | (x2 < x1) | (x2 > wide) | (y1 < 0) | (y2 < y1) | (y2 > high)
        if bool(wrong.any()):
            raise ValueError(
                f"{self.name}: boxes: corners within {self.width} x {self.height} pixels, the upper left first, "
                f"are allowed, got {self.boxes[int(wrong.int().argmax())].tolist()}"
            )
        if self.probabilities is not None:
            p = self.probabilities.float()
            if bool((p < 0).any()) or bool(((p.sum(1) - 1).abs() > 1e-2).any()):
                raise ValueError(f"{self.name}: probabilities: rows with a sum of 1, none negative, are allowed")

    @property
    def regions(self) -> int:
        return self.features.shape[0]


@dataclass(frozen=True)
class Caption:
    """A text of a picture, and what contrast sets it against (Li et al. 2020, arXiv:2012.15409,
    section 2.3).

    Args:
        positives, negatives: The text rewritten so that it still describes the picture, or no more.
        similar_texts, similar_images: Found by retrieval: texts like it, and names of pictures like its own.
    """

    image: str
    caption: str
    positives: tuple[str, ...] = ()
    negatives: tuple[str, ...] = ()
    similar_texts: tuple[str, ...] = ()
    similar_images: tuple[str, ...] = ()


def write_images(folder: str | Path, images: Iterable[Image]) -> None:
    """Write ``images.jsonl`` and ``regions.safetensors``.

    Example:
        >>> import tempfile
        >>> box = torch.tensor([[0.0, 0.0, 8.0, 6.0]])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_images(folder, [Image("a", 8, 6, torch.ones(1, 5), box)])
        ...     print(Images(folder)["a"].features.shape)
        torch.Size([1, 5])
    """
    folder, kept = Path(folder), list(images)
    _alike(kept)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: torch.cat([getattr(image, name) for image in kept]).contiguous()
        for name in ("features", "boxes", "probabilities")
        if kept and getattr(kept[0], name) is not None
    }
    save_file(tensors, folder / REGIONS)
    _write_lines(
        folder / IMAGES,
        ({"image": i.name, "width": i.width, "height": i.height, "regions": i.regions} for i in kept),
    )


def write_captions(folder: str | Path, captions: Iterable[Caption]) -> None:
    """Write ``captions.jsonl``; lists that are empty are left out."""
    rows = ({f.name: getattr(caption, f.name) for f in fields(Caption)} for caption in captions)
    _write_lines(Path(folder) / CAPTIONS, ({name: x for name, x in row.items() if x != ()} for row in rows))


class Images(Mapping[str, Image]):
    """The pictures of a folder, by name, each read when it is asked for.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: Naming the file, the line or the picture, and what is allowed there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / REGIONS
        self._places: dict[str, tuple[float, float, int, int]] = {}
        total = 0
        for where, line in records(Path(folder) / IMAGES):
            name, width, height, count = _picture(where, line)
            if name in self._places:
                raise ValueError(f"{where}: image: a name of its own is allowed, got {name!r} again")
            self._places[name] = (width, height, total, total + count)
            total += count
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: missing; it holds the regions of {IMAGES}")
        try:
            self._file = safe_open(self.path, "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path}: corrupt or truncated: {error}") from error
        self._names = [name for name in ("features", "boxes", "probabilities") if name in self._file.keys()]  # noqa: SIM118
        for name in ("features", "boxes", *self._names):
            shape = tuple(self._file.get_slice(name).get_shape()) if name in self._names else None
            if shape is None or len(shape) != 2 or shape[0] != total:
                wanted = f"a tensor of {total} rows (the regions of {IMAGES})"
                raise ValueError(f"{self.path}: {name}: {wanted} is allowed, got {shape or 'none'}")

    def __getitem__(self, name: str) -> Image:
        width, height, first, last = self._places[name]
        found = {key: self._file.get_slice(key)[first:last] for key in self._names}
        try:
            return Image(name, width, height, **found)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def count(self, name: str) -> int:
        """How many regions a picture has."""
        _, _, first, last = self._places[name]
        return last - first

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read_captions(folder: str | Path, images: Container[str]) -> list[Caption]:
    """The captions of a folder, whose pictures ``images`` has.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: Naming file, line and field.
    """
    return [_caption(where, line, images) for where, line in records(Path(folder) / CAPTIONS)]


def check(folder: str | Path) -> tuple[int, int, int]:
    """Read all of a folder: numbers of its pictures, regions and captions.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: For the first thing that is wrong, naming its place.
    """
    images = Images(folder)
    regions = sum(image.regions for image in images.values())
    return len(images), regions, len(read_captions(folder, images))


View = Callable[[Image], tuple[Tensor, Tensor]]
"""From a picture to the features ``(m, D)`` and locations ``(m, L)`` that a family sees of it. Where m is
more than the picture's regions, those in front stand for the whole picture."""


@dataclass
class RegionBatch:
    """Pictures side by side, padded on the right with 0.

    Args:
        regions: ``(B, R, D)``.
        locations: ``(B, R, L)``.
        lengths: ``(B,)``.
        whole: Regions in front of each picture that stand for all of it; their boxes and probabilities are 0.
        boxes: ``(B, R, 4)`` in pixels.
        probabilities: ``(B, R, C)``, None if the pictures have none.
    """

    regions: Tensor
    locations: Tensor
    lengths: Tensor
    whole: int
    boxes: Tensor
    probabilities: Tensor | None


def collate(images: Sequence[Image], view: View) -> RegionBatch:
    """A batch of pictures, in float32."""
    _alike(images)
    rows = torch.nn.utils.rnn.pad_sequence
    seen = [view(image) for image in images]
    regions, locations = (rows([pair[i].float() for pair in seen], batch_first=True) for i in range(2))
    whole = len(seen[0][0]) - images[0].regions

    def behind(name: str) -> Tensor:
        found = [torch.nn.functional.pad(getattr(image, name).float(), (0, 0, whole, 0)) for image in images]
        return rows(found, batch_first=True)

    probabilities = None if images[0].probabilities is None else behind("probabilities")
    lengths = torch.tensor([len(features) for features, _ in seen])
    return RegionBatch(regions, locations, lengths, whole, behind("boxes"), probabilities)


def in_shares(boxes: Tensor, width: float, height: float) -> Tensor:
    """``boxes (..., 4)``, x1, y1, x2, y2 in pixels, in shares of the picture's width and height.

    Example:
        >>> in_shares(torch.tensor([0.0, 12.0, 32.0, 48.0]), 64, 48)
        tensor([0.0000, 0.2500, 0.5000, 1.0000])
    """
    if boxes.shape[-1] != 4 or not (width > 0 and height > 0):
        raise ValueError(
            f"boxes, width, height: shape (..., 4) and sizes above 0 are allowed, "
            f"got {tuple(boxes.shape)}, {width}, {height}"
        )
    return boxes.float() / torch.tensor([width, height, width, height], device=boxes.device)


def _alike(images: Sequence[Image]) -> None:
    if not images:
        raise ValueError("images: at least one is allowed, got none")

    def sizes(image: Image) -> tuple[int, int | None]:
        return image.features.shape[1], None if image.probabilities is None else image.probabilities.shape[1]

    for image in images:
        if sizes(image) != sizes(images[0]):
            raise ValueError(
                f"{image.name}: features, probabilities: widths {sizes(images[0])} as those of {images[0].name} "
                f"are allowed, got {sizes(image)}"
            )


def records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(place, object)`` of each line of a file of JSON objects.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: Naming file and line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            where = f"{path}:{number}"
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: a JSON object is allowed; {error}") from error
            if not isinstance(value, dict):
                raise ValueError(f"{where}: a JSON object is allowed, got {type(value).__name__}")
            yield where, value


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _picture(where: str, line: dict[str, Any]) -> tuple[str, float, float, int]:
    known(where, line, FIELDS)
    name = name_in(where, line)
    for key, kinds in (("width", (int, float)), ("height", (int, float)), ("regions", (int,))):
        value = line.get(key)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
            what = "a whole number" if kinds == (int,) else "a number"
            raise ValueError(f"{where}: {key}: {what} above 0 is allowed, got {value!r}")
    return name, line["width"], line["height"], line["regions"]


def name_in(where: str, line: dict[str, Any]) -> str:
    """The picture that a line is about."""
    name = line.get("image")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: image: a name is allowed, got {name!r}")
    return name


def _caption(where: str, line: dict[str, Any], images: Container[str]) -> Caption:
    known(where, line, [f.name for f in fields(Caption)])
    for name in ("image", "caption"):
        if not isinstance(line.get(name), str) or not line[name]:
            raise ValueError(f"{where}: {name}: a text is allowed, got {line.get(name)!r}")
    lists = {name: value for name, value in line.items() if name not in ("image", "caption")}
    for name, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(text, str) and text for text in value):
            raise ValueError(f"{where}: {name}: a list of texts is allowed, got {value!r}")
    for name in (line["image"], *lists.get("similar_images", ())):
        if name not in images:
            raise ValueError(f"{where}: image: a name in {IMAGES} is allowed, got {name!r}")
    return Caption(line["image"], line["caption"], **{name: tuple(value) for name, value in lists.items()})


def known(where: str, line: dict[str, Any], names: Iterable[str]) -> None:
    """Refuse fields of other names."""
    unknown = sorted(set(line) - set(names))
    if unknown:
        raise ValueError(f"{where}: {', '.join(names)} are allowed, got {', '.join(unknown)}")


def _seen(x: object) -> str:
    return f"{x.dtype} of {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
