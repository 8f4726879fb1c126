"""Pictures on disk, and what is said of them: the folder that image families are trained on.

It holds, by what is learned from it::

    images.jsonl         of all: a picture a line, an object with
                           "image"    its name, which no other has
                           "label"    its class, a text (vit)
                           "width", "height"    in pixels, and "regions", how many (uniter, unimo)
    captions.jsonl       clip, uniter, unimo: a caption a line, an object with "image" (a name in images.jsonl),
                           "caption" and, for unimo's contrast, the lists "positives", "negatives", "similar_texts"
                           (of texts) and "similar_images" (of names); a picture may have many captions
    pixels.npy           vit, clip: all pictures, uint8 (N, height, width, channels) or (N, height, width), in the
                           order of images.jsonl; or else
    the pictures' files  each at the path, in this folder, that its name is: *.npy, uint8 (height, width, channels)
                           or (height, width), or PNG, JPEG and what else Pillow reads
    regions.safetensors  uniter, unimo: of all pictures' regions, one after the other in the order of images.jsonl,
                           floats: features (N, D), boxes (N, 4), x1, y1, x2, y2 in pixels, and probabilities (N, C)
                           of the detector's classes, the background first

Nothing is read before it is needed: ``pixels.npy`` and ``regions.safetensors`` are mapped into memory, files
are opened one by one. So a folder may be larger than memory. ``parts.regions.write_images`` and
``write_captions`` write regions and captions. Files that are no ``.npy`` need Pillow (which comes with
matplotlib, and so with ``pkernels[train]``).

Channels are 1 (grey) or 3 (red, green, blue). Pictures are scaled so that they cover what the model
sees, and what stands over on both sides is cut off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..parts.regions import CAPTIONS, FIELDS, IMAGES, REGIONS, Caption, known, name_in, read_captions, records

PIXELS = "pixels.npy"
BLOCK = 1 << 20


class Pictures:
    """The pictures of a folder, each read when it is asked for.

    Attributes:
        names: Of all pictures, in the order of ``images.jsonl``.
        labels: Of each, None where it has none.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: Naming the file, the line and the field, or the picture, and what is allowed there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "images.jsonl").write_text('{"image": "a", "label": "dark"}\\n')
        ...     np.save(Path(folder) / "pixels.npy", np.zeros((1, 4, 6), np.uint8))
        ...     pictures = Pictures(folder)
        ...     print(pictures.names, pictures.labels, pictures.pixels(0).shape)
        ['a'] ['dark'] torch.Size([1, 4, 6])
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.places: dict[str, int] = {}
        self.labels: list[str | None] = []
        for where, line in records(self.folder / IMAGES):
            known(where, line, FIELDS)
            name = name_in(where, line)
            if name in self.places:
                raise ValueError(f"{where}: image: a name of its own is allowed, got {name!r} again")
            label = line.get("label")
            if label is not None and (not isinstance(label, str) or not label):
                raise ValueError(f"{where}: label: a text is allowed, got {label!r}")
            self.places[name] = len(self.places)
            self.labels.append(label)
        if not self.places:
            raise ValueError(f"{self.folder / IMAGES}: at least one picture is allowed, it holds none")
        self.names = list(self.places)
        self._all = self._mapped()

    def __len__(self) -> int:
        return len(self.names)

    def classes(self) -> list[str]:
        """The labels, each once, in the order of the alphabet.

        Raises:
            ValueError: If a picture has none, or all have the same.
        """
        for number, label in enumerate(self.labels, 1):
            if label is None:
                raise ValueError(f"{self.folder / IMAGES}:{number}: label: a text is allowed, got none")
        found = sorted({label for label in self.labels if label is not None})
        if len(found) < 2:
            raise ValueError(f"{self.folder / IMAGES}: label: at least two classes are allowed, got {found[0]!r} alone")
        return found

    def pixels(self, number: int) -> Tensor:
        """``(channels, height, width)`` uint8, 1 or 3 channels."""
        name = self.names[number]
        if self._all is not None:
            return _channels(self._all[number], f"{self.folder / PIXELS}: {name}")
        path = self.folder / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.folder / IMAGES}:{number + 1}: image: without a {PIXELS} the path of a file in this folder "
                f"is allowed, got {name!r}; there is none"
            )
        return _channels(_read(path), str(path))

    def _mapped(self) -> np.ndarray | None:
        path = self.folder / PIXELS
        if not path.is_file():
            return None
        found = _array(path)
        if found.dtype != np.uint8 or found.ndim not in (3, 4) or len(found) != len(self):
            raise ValueError(
                f"{path}: uint8 of {len(self)} pictures (those of {IMAGES}), (N, height, width, channels) or "
                f"(N, height, width), is allowed, got {found.dtype} of {found.shape}"
            )
        return found


def _array(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: a .npy file of uint8 is allowed; {error}") from error
    return found


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return _array(path)
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(f"{path}: .npy is allowed without Pillow: pip install pillow") from error
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "I;16") else "RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: a picture that Pillow reads is allowed; {error}") from error


def _channels(found: np.ndarray, where: str) -> Tensor:
    if (
        found.dtype != np.uint8
        or found.ndim not in (2, 3)
        or found.size == 0
        or found.shape[2:] not in ((), (1,), (3,))
    ):
        raise ValueError(
            f"{where}: uint8 of shape (height, width), (height, width, 1) or (height, width, 3) is allowed, "
            f"got {found.dtype} of {found.shape}"
        )
    pixels = torch.from_numpy(np.array(found))  # a copy: the file's memory may not be written to
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def fitted(pixels: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """A picture as a model sees it: ``(channels, height, width)`` floats, 0 to 1. Grey becomes three equal
    channels, and colours the grey that BT.601 gives them.

    Args:
        pixels: ``(1 or 3, height, width)`` uint8.
        size: Height and width.

    Example:
        >>> wide = torch.tensor([[[0, 255, 255, 0]]], dtype=torch.uint8)
        >>> fitted(wide, 1, (1, 2))
        tensor([[[1., 1.]]])
    """
    x = pixels.float() / 255
    if channels == 1 and len(x) == 3:
        x = torch.tensor([0.299, 0.587, 0.114]) @ x.flatten(1)
        x = x.reshape(1, *pixels.shape[1:])
    x = x.expand(channels, -1, -1)
    height, width = x.shape[1:]
    scale = max(size[0] / height, size[1] / width)
    covering = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    if covering != (height, width):
        x = F.interpolate(x[None], covering, mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = ((covering[i] - size[i]) // 2 for i in range(2))
    return x[:, top : top + size[0], left : left + size[1]].contiguous()


def captions_of(folder: Path, names: Iterable[str]) -> list[Caption]:
    """The captions of a folder whose pictures have these names.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: Naming file, line and field, or if there is none.
    """
    found = read_captions(folder, set(names))
    if not found:
        raise ValueError(f"{folder / CAPTIONS}: at least one caption is allowed, it holds none")
    return found


def digest(folder: Path, names: Sequence[str]) -> str:
    """To know a folder again: the bytes of its lists, and of what is large the size, the first and the last
    ones; of the pictures' own files the sizes."""
    found = hashlib.blake2b(digest_size=16)

    def add(value: Any) -> None:
        found.update(repr(value).encode())

    for name in (IMAGES, CAPTIONS):
        path = folder / name
        add((name, hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else None))
    large = [folder / name for name in (PIXELS, REGIONS)]
    for path in large:
        add((path.name, _ends(path) if path.is_file() else None))
    if not large[0].is_file():
        add([(folder / name).stat().st_size if (folder / name).is_file() else None for name in names])
    return found.hexdigest()


def _ends(path: Path) -> tuple[int, bytes, bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(BLOCK)
        file.seek(max(0, size - BLOCK))
        return size, hashlib.blake2b(first).digest(), hashlib.blake2b(file.read()).digest()
