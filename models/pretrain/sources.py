"""What a training reads, and how: text files, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..parts.config import BaseConfig
from .folder import Folder
from .objectives import Objective, static
from .rows import Batches, Examples
from .settings import Settings, Sizes
from .text import Corpus, digest, files_of, lines
from .vocabulary import Scheme, Vocabulary, learn, read


@dataclass(frozen=True)
class Guess:
    """What a guess loses that sees nothing, with which a training is compared.

    Args:
        name: Of the loss in the log.
        loss: In nats.
        meaning: Of the guess.
    """

    name: str
    loss: float
    meaning: str


@dataclass(frozen=True)
class Course:
    """What a training is to do.

    Args:
        config: The model's.
        vocabulary: None where nothing is cut into tokens.
    """

    config: BaseConfig
    examples: Examples
    objective: Objective
    vocabulary: Any
    guess: Guess


class Source(Protocol):
    """Of a recipe."""

    def digest(self) -> str:
        """To know it again."""

    def prepare(self, folder: Folder, tokenizer: Path | None, model: Sizes | BaseConfig) -> None:
        """Write what all processes are going to read, the tokenizer and the tokens, if it is not there."""

    def course(self, folder: Folder, model: Sizes | BaseConfig, settings: Settings) -> Course: ...


class TextSource:
    """UTF-8 files, a sentence a line and an empty line between documents.

    Args:
        recipe: A ``Recipe``.

    Raises:
        FileNotFoundError: If a file is missing.
    """

    def __init__(self, recipe: Any, text: Sequence[str | Path] | str | Path) -> None:
        self.recipe, self.paths = recipe, files_of(text)

    def digest(self) -> str:
        return digest(self.paths)

    def prepare(self, folder: Folder, tokenizer: Path | None, model: Sizes | BaseConfig) -> None:
        if folder.tokens.is_file():
            return
        texts = list(lines(self.paths))
        found = cut_by(self.recipe.scheme, tokenizer, texts, model)
        found.save(str(folder.tokenizer))
        Corpus.encode(iter(texts), found).save(folder.tokens)

    def course(self, folder: Folder, model: Sizes | BaseConfig, settings: Settings) -> Course:
        recipe, corpus = self.recipe, Corpus.load(folder.tokens)
        vocabulary = Vocabulary.of(read(folder.tokenizer, recipe.scheme), recipe.scheme)
        config = recipe.config(model, vocabulary, settings.length) if isinstance(model, Sizes) else model
        self.fits(config, vocabulary)
        copies = recipe.copies if settings.copies < 0 else settings.copies
        objective = self.objective(corpus, vocabulary, config)
        if copies:
            objective = static(objective, settings.seed, copies)
        batches = Batches(
            corpus.lists(), recipe.rows, vocabulary, recipe.order,
            length=settings.length, batch=settings.batch, seed=settings.seed, copies=copies,
        )  # fmt: skip
        return Course(config, batches, objective, vocabulary, self.guess(corpus, config, settings.length))

    def fits(self, config: BaseConfig, vocabulary: Vocabulary) -> None:
        """
        Raises:
            ValueError: If a model cannot read the tokens.
        """
        check_tokens(config, vocabulary)

    def objective(self, corpus: Corpus, vocabulary: Vocabulary, config: BaseConfig) -> Objective:
        found: Objective = self.recipe.objective(corpus, vocabulary)
        return found

    def guess(self, corpus: Corpus, config: BaseConfig, length: int) -> Guess:
        return Guess("words", corpus.unigram(), "unigrams: no context")


def cut_by(scheme: Scheme, tokenizer: Path | None, texts: Sequence[str], model: Sizes | BaseConfig) -> Any:
    """The tokenizer in a file, or one that is made from the texts."""
    if tokenizer is None:
        size = model.vocabulary if isinstance(model, Sizes) else reader(model).vocab_size
        found = learn(texts, scheme, size)
    else:
        found = read(tokenizer, scheme)
    Vocabulary.of(found, scheme, str(tokenizer))
    return found


def reader(config: Any) -> Any:
    """What of a config is of words: all, or that of the text's tower."""
    return getattr(config, "text_config", config)


def check_tokens(config: Any, vocabulary: Vocabulary) -> None:
    """
    Raises:
        ValueError: If the model has too few words, or other padding.
    """
    config = reader(config)
    if config.vocab_size < vocabulary.size:
        raise ValueError(
            f"model: a vocab_size of {vocabulary.size} (the tokenizer's) or more is allowed, got {config.vocab_size}"
        )
    pad = getattr(config, "pad_token_id", None)
    if pad not in (None, vocabulary.pad):
        raise ValueError(f"model: a pad_token_id of {vocabulary.pad} (the tokenizer's) is allowed, got {pad}")
