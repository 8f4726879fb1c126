"""ELMo: whole words, read by their characters, in sentences that go on from batch to batch (Peters et al. 2018,
arXiv:1802.05365, section 3.4; allenai/bilm-tf)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from .. import elmo
from ..elmo import LSTMStates
from ..parts.characters import character_ids
from ..parts.config import BaseConfig
from ..parts.model import Model
from ..parts.objectives.packing import Document
from ..pretrained import build
from .folder import Folder
from .objectives import Objective
from .rows import Row, Rows
from .settings import Sizes
from .sources import Guess, TextSource, cut_by
from .text import Corpus, lines
from .vocabulary import Vocabulary

NEGATIVES = 8192
"""Of the authors' 793,471 words; of a small vocabulary a quarter."""
FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128))
"""The first of the paper's: what a small model has."""


class WordSource(TextSource):
    """A text whose tokens are all its words. The model predicts the commonest, the first in the tokenizer; any other is
    one word to it, <UNK>, but is read by its characters all the same."""

    def prepare(self, folder: Folder, tokenizer: Path | None, model: Sizes | BaseConfig) -> None:
        if folder.tokens.is_file():
            return
        texts = list(lines(self.paths))
        found = cut_by(self.recipe.scheme, tokenizer, texts, model)
        with_all_words(found, texts, str(tokenizer)).save(str(folder.tokenizer))
        Corpus.encode(iter(texts), found).save(folder.tokens)

    def fits(self, config: Any, vocabulary: Vocabulary) -> None:
        """Any number of words does that has the marks in it."""
        unknown = vocabulary.tokenizer.token_to_id("<UNK>")
        found = (vocabulary.first, vocabulary.last, unknown)
        if (config.bos_token_id, config.eos_token_id, unknown_of(config)) != found or config.vocab_size <= unknown:
            raise ValueError(
                f"tokenizer, model: <S>, </S>, <UNK> as bos_token_id, eos_token_id and the word behind both, below "
                f"vocab_size, are allowed, got {found} and {config.bos_token_id}, {config.eos_token_id}, "
                f"{config.vocab_size}"
            )

    def objective(self, corpus: Corpus, vocabulary: Vocabulary, config: Any) -> Objective:
        return spelled(vocabulary, config)

    def guess(self, corpus: Corpus, config: Any, length: int) -> Guess:
        """Each row ends with a mark, which is told too."""
        marks = sum(-(-size // length) for size in corpus.sentences.diff().tolist())
        counts = labels_of(corpus.tokens.long(), config).bincount(minlength=config.eos_token_id + 1)
        counts[config.eos_token_id] += marks
        entropy = float(torch.special.entr(counts.double() / counts.sum()).sum())
        return Guess("words", entropy, "unigrams: no context")


def with_all_words(tokenizer: Tokenizer, texts: Sequence[str], source: str) -> Tokenizer:
    """With all words of the texts behind its own.

    Raises:
        ValueError: Naming ``source``, if its tokens are no whole words.
    """
    if not isinstance(tokenizer.model, models.WordLevel):
        kind = type(tokenizer.model).__name__
        raise ValueError(f"tokenizer: {source}: one of whole words (WordLevel) is allowed, got {kind}")
    cut: Any = tokenizer.pre_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        counts.update(word for word, _ in cut.pre_tokenize_str(normal))
    ids = tokenizer.get_vocab(with_added_tokens=True)
    new = sorted((word for word in counts if word not in ids), key=lambda word: (-counts[word], word))
    first = max(ids.values()) + 1
    words = {**ids, **{word: first + number for number, word in enumerate(new)}}
    tokenizer.model = models.WordLevel(words, unk_token="<UNK>")
    return tokenizer


def sentences(
    documents: Sequence[Document], vocabulary: Vocabulary, length: int, generator: torch.Generator
) -> Iterator[Row]:
    """A sentence a row, of long ones pieces."""
    for document in documents:
        for sentence in document:
            for start in range(0, len(sentence), length):
                yield Row(list(sentence[start : start + length]), [])


def labels_of(ids: Tensor, config: elmo.Config) -> Tensor:
    """Words that the model does not know are <UNK>."""
    return ids.where(ids < config.vocab_size, unknown_of(config))


def unknown_of(config: elmo.Config) -> int:
    """<UNK>, behind both marks."""
    return max(config.bos_token_id, config.eos_token_id) + 1


def spelled(vocabulary: Vocabulary, config: elmo.Config) -> Objective:
    """Of rows of words: their characters, and the words as labels."""
    words = [word for word, _ in sorted(vocabulary.tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    # 16 bits: there may be a million words.
    table = character_ids([[word] for word in words], config.max_characters_per_token)[0][:, 0].short()
    negatives = min(NEGATIVES, config.vocab_size // 4)

    def objective(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        ids = rows.ids[:, : int(rows.lengths.max())]
        real = torch.arange(ids.shape[1]) < rows.lengths[:, None]
        characters = table[ids].long().masked_fill(~real[..., None], 0)
        labels = labels_of(ids, config)
        return {"input_ids": characters, "labels": labels, "lengths": rows.lengths, "negatives": negatives}

    return objective


@dataclass
class Told:
    """``loss`` against sampled words, ``words`` against all of them, ``mems`` for the sentences that follow."""

    loss: Tensor
    words: Tensor
    mems: tuple[Tensor, ...]


class Remembering(nn.Module):
    """A bidirectional language model that goes on from the states that it had after the sentence before."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, labels: Tensor, lengths: Tensor, negatives: int, mems: tuple[Tensor, ...] = ()
    ) -> Told:
        """``mems``: ``(2 layers, B, P + C)``, the states of each layer and direction."""
        body, head = self.model.body, self.model.head
        c: Any = self.model.config
        states = None
        if mems:
            h, cells = mems[0].unflatten(0, (c.n_layers, 2)).split([c.projection_dim, c.dim], -1)
            states = LSTMStates(h, cells)
        read: elmo.Layers = body(input_ids, lengths=lengths, states=states)
        out = head(read, labels, negatives)
        with torch.no_grad():
            words = head(_first(read), labels[:1]).loss
        after = torch.cat([read.states.h, read.states.c], -1).flatten(0, 1).detach().float()
        return Told(out.loss, words, (after,))


def _first(read: elmo.Layers) -> elmo.Layers:
    """The first row alone: all words are many, and one row says how well they are told."""
    return elmo.Layers([x[:1] for x in read.layers], read.real[:1], read.lengths[:1], read.states, False)


def learner(config: elmo.Config) -> Remembering:
    return Remembering(build("ElmoForBidirectionalLM", config))


def of_told(out: Told, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    return {"words": out.words}


def of_elmo(s: Sizes, v: Vocabulary, length: int) -> elmo.Config:
    """``hidden`` is what an LSTM is projected to, ``inner`` its cells."""
    return elmo.Config(
        filters=FILTERS, n_highway=1, dim=s.inner, projection_dim=s.hidden, n_layers=s.layers, dropout=s.dropout,
        vocab_size=min(s.vocabulary, v.size), bos_token_id=v.first, eos_token_id=v.last,
    )  # fmt: skip
