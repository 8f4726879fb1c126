"""Trainings on a folder of pictures (:mod:`pictures`): what is read of it, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..parts.config import BaseConfig
from ..parts.regions import CAPTIONS, IMAGES, Caption, Images
from . import draws
from .folder import Folder
from .pictures import Pictures, captions_of, digest
from .settings import Settings, Sizes
from .sources import Course, Guess, check_tokens, cut_by
from .text import Corpus
from .vocabulary import Vocabulary, read


@dataclass(frozen=True)
class Album:
    """A folder that was opened.

    Args:
        pictures: Their pixels, of families that see pixels.
        images: Their regions, of families that see regions.
        classes: Their labels, of families that learn those.
        captions: Of families that read.
    """

    folder: Path
    names: list[str]
    pictures: Pictures | None = None
    images: Images | None = None
    classes: tuple[str, ...] = ()
    captions: tuple[Caption, ...] = ()

    def seen(self, number: int) -> Tensor:
        """Pixels of a picture."""
        assert self.pictures is not None
        return self.pictures.pixels(number)

    @property
    def regions(self) -> Images:
        assert self.images is not None
        return self.images


def labelled(folder: Path) -> Album:
    """Pixels and labels."""
    pictures = Pictures(folder)
    return Album(folder, pictures.names, pictures, classes=tuple(pictures.classes()))


def captioned(folder: Path) -> Album:
    """Pixels and captions."""
    pictures = Pictures(folder)
    return Album(folder, pictures.names, pictures, captions=tuple(captions_of(folder, pictures.names)))


def with_regions(folder: Path) -> Album:
    """Regions, the detector's probabilities of them, and captions."""
    images = Images(folder)
    if len(images) < 2:
        raise ValueError(
            f"{folder / IMAGES}: at least two pictures are allowed, to exchange one, it holds {len(images)}"
        )
    first = images[next(iter(images))]
    if first.probabilities is None:
        raise ValueError(f"{images.path}: probabilities: a tensor (N, C) is allowed, got none")
    return Album(folder, list(images), images=images, captions=tuple(captions_of(folder, images)))


def folder_of(data: Sequence[str | Path] | str | Path) -> Path:
    """The one folder that was named.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several.
    """
    paths = [Path(data)] if isinstance(data, (str, Path)) else [Path(one) for one in data]
    if len(paths) != 1:
        raise ValueError(f"images: one folder of pictures is allowed, got {len(paths)}")
    if not paths[0].is_dir():
        what = "a file" if paths[0].is_file() else "none there"
        raise FileNotFoundError(f"images: {paths[0]}: a folder of pictures is allowed, it is {what}")
    return paths[0]


# Batches --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picked:
    """Numbers ``(B,)`` of pictures, or of captions, and ``lengths (B,)``, the tokens of each."""

    numbers: Tensor
    lengths: Tensor

    def __getitem__(self, part: slice) -> Picked:
        return Picked(self.numbers[part], self.lengths[part])

    def __len__(self) -> int:
        return len(self.numbers)


class Shuffled:
    """An endless sequence of batches, in an order drawn anew for each epoch; a function of its arguments.

    Args:
        lengths: ``(N,)``: tokens of each example.
        batch: Examples of a batch.

    Example:
        >>> found = Shuffled(torch.ones(3), batch=2, seed=0)
        >>> first = [found.take().numbers.tolist() for _ in range(3)]
        >>> sorted(first[0] + first[1][:1]), found.epoch, found.place
        ([0, 1, 2], 1, 3)
    """

    def __init__(self, lengths: Tensor, *, batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = lengths, batch, seed
        self.go_to(0, 0)

    def go_to(self, epoch: int, place: int) -> None:
        self.order = torch.randperm(len(self.lengths), generator=draws.generator(self.seed, "order", epoch))
        self.epoch, self.place = epoch, place

    def take(self) -> Picked:
        numbers = torch.stack(list(self._next(self.batch)))
        return Picked(numbers, self.lengths[numbers])

    def _next(self, count: int) -> Iterator[Tensor]:
        for _ in range(count):
            if self.place == len(self.order):
                self.go_to(self.epoch + 1, 0)
            yield self.order[self.place]
            self.place += 1


# Sources --------------------------------------------------------------------------------


def _check_copies(settings: Settings) -> None:
    if settings.copies > 0:
        raise ValueError(f"copies: 0 is allowed, of pictures tasks are drawn anew each time, got {settings.copies}")


class LabelledSource:
    """Pictures and their classes, without a word.

    Args:
        recipe: A ``Recipe``; its ``config`` takes sizes and the album, its ``objective`` the album and the
            config.
    """

    def __init__(self, recipe: Any, data: Sequence[str | Path] | str | Path) -> None:
        self.recipe, self.album = recipe, labelled(folder_of(data))

    def digest(self) -> str:
        return digest(self.album.folder, self.album.names)

    def prepare(self, folder: Folder, tokenizer: Path | None, model: Sizes | BaseConfig) -> None:
        if tokenizer is not None:
            raise ValueError(f"tokenizer: none is allowed, this family reads no text, got {tokenizer}")

    def course(self, folder: Folder, model: Sizes | BaseConfig, settings: Settings) -> Course:
        _check_copies(settings)
        album = self.album
        config = self.recipe.config(model, album) if isinstance(model, Sizes) else model
        if config.num_labels != len(album.classes):
            raise ValueError(
                f"model: {len(album.classes)} labels (those in {album.folder / IMAGES}) are allowed, "
                f"got {config.num_labels}"
            )
        assert album.pictures is not None
        labels = torch.tensor([album.classes.index(str(label)) for label in album.pictures.labels])
        shares = labels.bincount().double() / len(labels)
        examples = Shuffled(torch.ones(len(album.names), dtype=torch.int64), batch=settings.batch, seed=settings.seed)
        guess = Guess("classes", float(torch.special.entr(shares).sum()), "shares of classes: no picture")
        return Course(config, examples, self.recipe.objective(album, labels, config), None, guess)


class CaptionedSource:
    """Captions and their pictures.

    Args:
        recipe: A ``Recipe``; its ``config`` takes sizes, the album, the vocabulary and the length, its
            ``objective`` the album, the vocabulary, the config and the length.
        opened: From a folder to the album.
        least: Tokens of a caption.
        guess: From the captions' tokens and the settings to the guess.
    """

    def __init__(
        self, recipe: Any, data: Sequence[str | Path] | str | Path, opened: Callable[[Path], Album],
        guess: Callable[[Corpus, Settings], Guess], least: int = 1,
    ) -> None:  # fmt: skip
        self.recipe, self.album, self.guess, self.least = recipe, opened(folder_of(data)), guess, least

    def digest(self) -> str:
        return digest(self.album.folder, self.album.names)

    def prepare(self, folder: Folder, tokenizer: Path | None, model: Sizes | BaseConfig) -> None:
        if folder.tokens.is_file():
            return
        texts = [caption.caption for caption in self.album.captions]
        found = cut_by(self.recipe.scheme, tokenizer, texts, model)
        sizes = [len(one.ids) for one in found.encode_batch_fast(texts, add_special_tokens=False)]
        for number, size in enumerate(sizes, 1):
            if size < self.least:
                where = f"{self.album.folder / CAPTIONS}:{number}: caption"
                raise ValueError(
                    f"{where}: a text of at least {self.least} tokens is allowed, got {texts[number - 1]!r}"
                )
        found.save(str(folder.tokenizer))
        Corpus.encode(iter(texts), found).save(folder.tokens)

    def course(self, folder: Folder, model: Sizes | BaseConfig, settings: Settings) -> Course:
        _check_copies(settings)
        recipe, album, corpus = self.recipe, self.album, Corpus.load(folder.tokens)
        vocabulary = Vocabulary.of(read(folder.tokenizer, recipe.scheme), recipe.scheme)
        config = recipe.config(model, album, vocabulary, settings.length) if isinstance(model, Sizes) else model
        check_tokens(config, vocabulary)
        words = (corpus.sentences.diff() + 2).clamp(max=settings.length)
        if album.images is not None:
            words += torch.tensor([album.images.count(caption.image) for caption in album.captions])
        examples = Shuffled(words, batch=settings.batch, seed=settings.seed)
        objective = recipe.objective(album, vocabulary, config, settings.length)
        return Course(config, examples, objective, vocabulary, self.guess(corpus, settings))


def unigrams(corpus: Corpus, settings: Settings) -> Guess:
    return Guess("words", corpus.unigram(), "unigrams: no context")
