"""From files to numbered tokens. A line is a sentence, an empty line ends a document, as does the end of
a file: the form of google-research/bert's ``create_pretraining_data``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

SHARE = 4096
"""Lines that are tokenised at a time."""


def files_of(text: Sequence[str | Path] | str | Path) -> list[Path]:
    """The files, each of which must be there."""
    paths = [Path(text)] if isinstance(text, (str, Path)) else [Path(one) for one in text]
    if not paths:
        raise ValueError("text: at least one file is allowed, got none")
    for path in paths:
        if not path.is_file():
            what = "a directory" if path.is_dir() else "none there"
            raise FileNotFoundError(f"text: {path}: a file is allowed, it is {what}")
    return paths


def digest(paths: Sequence[Path]) -> str:
    """Of the files' bytes, to know them again."""
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
        found.update(b"\0")
    return found.hexdigest()


def lines(paths: Sequence[Path]) -> Iterator[str]:
    """Stripped lines of all files, and an empty one at the end of each.

    Raises:
        ValueError: If a file is not UTF-8.
    """
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    yield line.strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"text: {path}: UTF-8 is allowed; {error}") from error
        yield ""


@dataclass(frozen=True)
class Corpus:
    """A text's tokens.

    Args:
        tokens: ``(n,)`` int32, no special ones.
        sentences: ``(sentences + 1,)``: where each begins among the tokens, and the end of the last.
        documents: ``(documents + 1,)``: the same of documents among the sentences.
    """

    tokens: Tensor
    sentences: Tensor
    documents: Tensor

    @classmethod
    def encode(cls, texts: Iterator[str], tokenizer: Tokenizer) -> Corpus:
        """
        Raises:
            ValueError: If there is no token.
        """
        tokens, sentences, documents = [torch.empty(0, dtype=torch.int32)], [0], [0]
        for share in _shares(texts, SHARE):
            ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(share, add_special_tokens=False)]
            for line, of_line in zip(share, ids, strict=True):
                if of_line:
                    sentences.append(sentences[-1] + len(of_line))
                elif not line and len(sentences) - 1 > documents[-1]:
                    documents.append(len(sentences) - 1)
            tokens.append(torch.tensor([i for of_line in ids for i in of_line], dtype=torch.int32))
        if len(sentences) == 1:
            raise ValueError("text: files with at least one word are allowed, they hold none")
        return cls(torch.cat(tokens), torch.tensor(sentences), torch.tensor(documents))

    def save(self, path: Path) -> None:
        save_file({"tokens": self.tokens, "sentences": self.sentences, "documents": self.documents}, path)

    @classmethod
    def load(cls, path: Path) -> Corpus:
        return cls(**load_file(path))

    def lists(self) -> list[list[list[int]]]:
        """Documents of sentences of ids."""
        tokens, sentences = self.tokens.tolist(), self.sentences.tolist()
        cut = [tokens[start:end] for start, end in pairwise(sentences)]
        return [cut[start:end] for start, end in pairwise(self.documents.tolist())]

    def unigram(self) -> float:
        """Entropy of the tokens, in nats: what a guess loses that knows how often each occurs, and no
        context. A model that learned nothing more of the language stays above.

        Example:
            >>> one_sentence, one_document = torch.tensor([0, 4]), torch.tensor([0, 1])
            >>> Corpus(torch.tensor([5, 5, 7, 7]), one_sentence, one_document).unigram()
            0.6931471805599453
        """
        shares = self.tokens.long().bincount().double() / len(self.tokens)
        return float(torch.special.entr(shares).sum())


def _shares(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    share: list[str] = []
    for text in texts:
        share.append(text)
        if len(share) == size:
            yield share
            share = []
    if share:
        yield share
