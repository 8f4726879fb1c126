"""Objectives: from a batch of rows to a model's arguments.

Each is a function of the rows, the vocabulary and a generator. Those that return functions are
ways to put them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..parts.layouts import IGNORED
from ..parts.objectives import (
    BERT,
    MACBERT,
    bart_noises,
    choose_ngrams,
    choose_tokens,
    corrupt,
    corrupt_similar,
    denoising,
    inverse_lengths,
    padded,
    partial_spans,
    permutation_lm,
    span_corruption,
    static_generator,
)
from ..parts.objectives.sentinels import SENTINELS
from ..parts.objectives.similar import Word
from .rows import Rows
from .text import Corpus
from .vocabulary import Vocabulary

Objective = Callable[[Rows, Vocabulary, torch.Generator], dict[str, Any]]
Choose = Callable[[Rows, Vocabulary, torch.Generator], Tensor]
"""From the same to the tokens ``(B, S)`` that are to be predicted, as booleans."""


def tokens(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    """15 %, each by itself (Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1)."""
    return choose_tokens(vocabulary.special[rows.ids], generator=generator)


def ngrams(lengths: tuple[float, ...]) -> Choose:
    """15 % of the words, in n-grams: ``lengths`` are the shares of each n."""

    def choose(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
        return choose_ngrams(vocabulary.word_ids(rows.ids), lengths=lengths, generator=generator)

    return choose


def cloze(choose: Choose = tokens, shares: tuple[float, float] = BERT) -> Objective:
    """Masked LM: input_ids, labels and lengths."""

    def objective(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        chosen = one_at_least(choose(rows, vocabulary, generator), vocabulary.special[rows.ids], generator)
        ids, labels = corrupt(
            rows.ids, chosen, mask_id=vocabulary.mask, words=vocabulary.size, shares=shares, generator=generator
        )
        return {"input_ids": ids, "labels": labels, "lengths": rows.lengths}

    return objective


def similar_words(similar: Mapping[Word, Word]) -> Objective:
    """MacBERT's correction of similar words (Cui et al. 2020, arXiv:2004.13922, section 3.1)."""
    choose = ngrams(MACBERT)

    def objective(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        chosen, words = choose(rows, vocabulary, generator), vocabulary.word_ids(rows.ids)
        chosen = one_at_least(chosen, vocabulary.special[rows.ids], generator)
        ids, labels = corrupt_similar(rows.ids, chosen, words, similar, words=vocabulary.size, generator=generator)
        return {"input_ids": ids, "labels": labels, "lengths": rows.lengths}

    return objective


def causal(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
    """The next word; models shift the labels themselves. Rows are full."""
    return {"input_ids": rows.ids, "labels": rows.ids}


def permuted(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
    """XLNet's: of each half of a row, of which the next row remembers the first, a sixth is predicted in an
    order of its own. Rows are full, and have segments."""
    half = rows.ids.shape[1] // 2
    starts = vocabulary.starts[rows.ids]
    chosen = [
        partial_spans(part, count=part.shape[1] // 6, generator=generator)
        for part in (starts[:, :half], starts[:, half:])
    ]
    given = permutation_lm(
        rows.ids, torch.cat(chosen, 1), vocabulary.special[rows.ids], split=half,
        targets=sum(part.shape[1] // 6 for part in chosen), generator=generator,
    )  # fmt: skip
    return {**given, "token_type_ids": rows.types}


def spans(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
    """T5's: the target tells the spans that sentinels stand for. ``words`` are the labels that are words of
    the text. Rows are full."""
    ids, labels = span_corruption(
        rows.ids, end=vocabulary.last, sentinel=vocabulary.sentinel, sentinels=SENTINELS, generator=generator
    )
    return {"input_ids": ids, "labels": labels, "words": ~vocabulary.special[labels]}


def denoised(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
    """BART's: sentences, which are the rows' segments, in any order and with gaps; the target is the text.
    ``words`` are the labels that are words of it."""
    noises, given = bart_noises(vocabulary.mask), {"first": vocabulary.first, "last": vocabulary.last}
    pairs = [
        denoising(_segments(row), noises, **given, generator=generator)
        for row in (rows[i : i + 1] for i in range(len(rows)))
    ]
    ids, lengths = padded([spoilt.tolist() for spoilt, _ in pairs], vocabulary.pad)
    labels, sizes = padded([text.tolist() for _, text in pairs], IGNORED)
    words = (labels != IGNORED) & ~vocabulary.special[labels.clamp(min=0)]
    return {"input_ids": ids, "lengths": lengths, "labels": labels, "decoder_lengths": sizes, "words": words}


def _segments(row: Rows) -> list[list[int]]:
    """Of a single row, without its first and last token."""
    inner = slice(1, int(row.lengths) - 1)
    ids, sizes = row.ids[0, inner], row.types[0, inner].bincount()
    return [part.tolist() for part in ids.split(sizes.tolist())]


def with_relation(objective: Objective, label: str) -> Objective:
    """Adds segments, and how they relate as the argument ``label``."""

    def both(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        return {**objective(rows, vocabulary, generator), "token_type_ids": rows.types, label: rows.relation}

    return both


def seeing_all(objective: Objective) -> Objective:
    """Adds that the first token sees all and is seen by all, for Longformer: the projections of global
    tokens then learn too, which tasks are going to use."""

    def with_first(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        return {**objective(rows, vocabulary, generator), "global_positions": torch.tensor([0])}

    return with_first


def static(objective: Objective, seed: int, copies: int) -> Objective:
    """Each row by itself, and the same again after ``copies`` epochs: as if the text had been masked
    beforehand in so many ways (Liu et al. 2019, arXiv:1907.11692, section 4.1)."""

    def beforehand(rows: Rows, vocabulary: Vocabulary, generator: torch.Generator) -> dict[str, Any]:
        places = zip(rows.number.tolist(), rows.epoch.tolist(), strict=True)
        of_rows = [
            objective(rows[i : i + 1], vocabulary, static_generator(seed, number, epoch, copies=copies))
            for i, (number, epoch) in enumerate(places)
        ]
        return {name: _joined([arguments[name] for arguments in of_rows], name, vocabulary) for name in of_rows[0]}

    return beforehand


def _joined(values: list[Any], name: str, vocabulary: Vocabulary) -> Any:
    """Rows of a batch, padded to the longest; of lists their parts; numbers, which are all the same."""
    if isinstance(values[0], int):
        return values[0]
    if isinstance(values[0], list):
        return [part for value in values for part in value]
    if values[0].dim() < 2:
        return torch.cat(values)
    filling = {"labels": IGNORED, "words": False}.get(name, vocabulary.pad)
    return pad_sequence([row for value in values for row in value], batch_first=True, padding_value=filling)


def one_at_least(chosen: Tensor, special: Tensor, generator: torch.Generator) -> Tensor:
    """A batch where nothing is to be predicted has no loss: then one token is, drawn from all."""
    if bool(chosen.any()) or bool(special.all()):
        return chosen
    free = (~special).flatten().nonzero().flatten()
    place = free[torch.randint(len(free), (1,), generator=generator)]
    return chosen.flatten().index_fill(0, place, True).reshape(chosen.shape)


def always(objective: Objective) -> Callable[[Corpus, Vocabulary], Objective]:
    """As a recipe has it, of objectives that do not depend on the text."""
    return lambda corpus, vocabulary: objective


ALBERT_NGRAMS = inverse_lengths(3)
"""Lan et al. 2020, arXiv:1909.11942, section 4.1."""
