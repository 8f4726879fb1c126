"""A folder of pictures (:mod:`pictures`), read from end to end before a training is begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..parts.regions import IMAGES
from .albums import Album, captioned, folder_of, labelled, with_regions
from .pictures import Pictures


def check_folder(folder: str | Path, family: str) -> str:
    """Whether a family can be trained on a folder.

    Args:
        family: One of ``CHECKED``.

    Returns:
        What the folder holds.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: For the first thing that is wrong: the file, the line or the picture, the field, what is
            allowed there and what was given.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "images.jsonl").write_text('{"image": "a.npy", "label": 3}\\n')
        >>> try:
        ...     check_folder(folder, "vit")
        ... except ValueError as error:
        ...     print(str(error).removeprefix(str(folder)))
        /images.jsonl:1: label: a text is allowed, got 3
    """
    if family not in CHECKED:
        raise ValueError(f"family: one of {', '.join(CHECKED)} is allowed, got {family!r}")
    return CHECKED[family](folder_of(folder))


def _pixels(pictures: Pictures) -> str:
    """All are read."""
    shapes = {tuple(pictures.pixels(number).shape) for number in range(len(pictures))}
    (channels, height, width), *others = sorted(shapes)
    size = "sizes differ" if others else f"{width} x {height}, {channels} channels"
    return f"{len(pictures)} pictures ({size})"


def _with_labels(folder: Path) -> str:
    album = labelled(folder)
    assert album.pictures is not None
    return f"{_pixels(album.pictures)}, {len(album.classes)} classes"


def _with_captions(folder: Path) -> str:
    album = captioned(folder)
    assert album.pictures is not None
    return f"{_pixels(album.pictures)}, {_captions(album)}"


def _with_regions(folder: Path) -> str:
    album = with_regions(folder)
    regions = sum(image.regions for image in album.regions.values())
    return f"{len(album.names)} pictures, {regions} regions, {_captions(album)}"


def _captions(album: Album) -> str:
    lacking = len(set(album.names) - {caption.image for caption in album.captions})
    without = f", of which {lacking} pictures in {IMAGES} have none" if lacking else ""
    return f"{len(album.captions)} captions{without}"


CHECKED: dict[str, Callable[[Path], str]] = {
    "vit": _with_labels,
    "clip": _with_captions,
    "uniter": _with_regions,
    "unimo": _with_regions,
}
"""Families that are trained on pictures."""
