"""What families of several parts and of two sides get, against the text it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pkernels.models.parts.layouts import IGNORED
from pkernels.models.parts.objectives import MODES
from pkernels.models.pretrain import RECIPES
from pkernels.models.pretrain.modes import in_modes
from pkernels.models.pretrain.objectives import denoised, spans, static
from pkernels.models.pretrain.rows import Batches, Rows
from pkernels.models.pretrain.text import Corpus
from pkernels.models.pretrain.vocabulary import Vocabulary, read

from .tiny import SIZES, documents, tokenizer


def taken(family: str, count: int, length: int = 48) -> tuple[Corpus, Vocabulary, Rows]:
    """A family's rows of the text."""
    scheme = RECIPES[family].scheme
    found = Vocabulary.of(read(tokenizer(family), scheme), scheme)
    lines = (line for lines in documents() for line in (*lines, ""))
    corpus = Corpus.encode(lines, found.tokenizer)
    batches = Batches(corpus.lists(), RECIPES[family].rows, found, length=length, batch=count, seed=1, copies=0)
    return corpus, found, batches.take()


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_parts_are_the_rows_in_their_modes() -> None:
    corpus, found, batch = taken("unilm", 48)
    parts = in_modes(corpus, found)(batch, found, draw())["parts"]
    assert [len(part["input_ids"]) for part in parts] == [16, 16, 8, 8]
    labels = [set(part["next_sentence_label"].tolist()) for part in parts if part["next_sentence_label"] is not None]
    assert labels == [{0, 1}]
    text, want = [], [
        [i for i in row[:length].tolist() if not found.special[i]]
        for row, length in zip(batch.ids, batch.lengths.tolist(), strict=True)
    ]  # fmt: skip
    for part, (mode, of) in zip(parts, MODES.items(), strict=True):
        places = torch.arange(part["input_ids"].shape[1]) < part["lengths"][:, None]
        assert set(part["token_type_ids"][places].tolist()) == set(of.types), mode
        whole = part["labels"].where(part["labels"] != IGNORED, part["input_ids"])
        text += [
            [i for i in row[real].tolist() if not found.special[i]] for row, real in zip(whole, places, strict=True)
        ]
    same = [one == other for one, other in zip(text, want, strict=True)]
    assert same == [label == 0 for label in parts[0]["next_sentence_label"].tolist()] + [True] * 32


def test_other_segments_are_sentences_of_the_text() -> None:
    corpus, found, batch = taken("unilm", 48)
    [part, *_] = in_modes(corpus, found)(batch, found, draw())["parts"]
    sentences = {tuple(sentence) for document in corpus.lists() for sentence in document}
    whole = part["labels"].where(part["labels"] != IGNORED, part["input_ids"])
    others = part["next_sentence_label"] == 1
    assert int(others.sum()) > 3
    for row, types, length in zip(
        whole[others], part["token_type_ids"][others], part["lengths"][others].tolist(), strict=True
    ):
        second = row[:length][types[:length] == 1].tolist()[:-1]
        assert any(sentence[: len(second)] == tuple(second[: len(sentence)]) for sentence in sentences)


def test_spans_and_what_is_left_are_the_text() -> None:
    _, found, batch = taken("t5", 8)
    out = spans(batch, found, draw())
    assert not bool(found.special[batch.ids].any())
    for row, ids, labels, words in zip(batch.ids, out["input_ids"], out["labels"], out["words"], strict=True):
        parts: dict[int, list[int]] = {}
        mark = -1
        for token, word in zip(labels.tolist()[:-1], words.tolist(), strict=False):
            if word:
                parts[mark].append(token)
            else:
                mark = token
                parts[mark] = []
        assert list(parts) == [found.sentinel - i for i in range(len(parts))]
        assert ids[-1] == labels[-1] == found.last
        assert [i for token in ids.tolist()[:-1] for i in parts.get(token, [token])] == row.tolist()


def test_a_spoilt_text_is_told_as_it_was() -> None:
    corpus, found, batch = taken("bart", 12)
    out = denoised(batch, found, draw())
    sentences = [sentence for document in corpus.lists() for sentence in document]
    pieces = {tuple(sentence[start : start + 46]) for sentence in sentences for start in range(0, len(sentence), 46)}
    places = torch.arange(out["labels"].shape[1]) < out["decoder_lengths"][:, None]
    assert torch.equal(out["labels"] != IGNORED, places)
    assert torch.equal(out["decoder_lengths"], batch.lengths)
    assert torch.equal(out["labels"][places], batch.ids[torch.arange(48) < batch.lengths[:, None]])
    assert torch.equal(out["words"], places & ~found.special[out["labels"].clamp(min=0)])
    assert int((out["input_ids"] == found.mask).sum()) > 12
    for ids, types, length in zip(batch.ids, batch.types, batch.lengths.tolist(), strict=True):
        inner = slice(1, length - 1)
        sizes = types[inner].bincount()
        assert bool((types[inner].diff() >= 0).all())
        assert {tuple(part.tolist()) for part in ids[inner].split(sizes.tolist())} <= pieces
    assert int(batch.types.max()) > 1


@pytest.mark.parametrize("family", ["bart", "t5", "unilm"])
def test_static_batches_are_learned_from(family: str) -> None:
    """Each row is drawn by itself, and the batch is one again."""
    corpus, found, batch = taken(family, 6)
    recipe = RECIPES[family]
    objective = static(recipe.objective(corpus, found), seed=0, copies=2)
    one, two = (objective(batch, found, draw(seed)) for seed in (1, 2))
    sizes: Any = recipe.config(SIZES, found, 48)
    assert recipe.learner is not None
    learner = recipe.learner(sizes).eval()
    losses = [learner(**arguments).loss for arguments in (one, two)]
    assert losses[0] == losses[1] and losses[0].isfinite()


def test_modes_without_words_weigh_nothing() -> None:
    """Parts of one batch have the loss of all their words; a part without any changes nothing."""
    corpus, found, batch = taken("unilm", 12)
    learner: Any = RECIPES["unilm"].learner
    learner = learner(RECIPES["unilm"].config(SIZES, found, 48)).eval()
    parts = in_modes(corpus, found)(batch, found, draw())["parts"]
    counts = torch.tensor([float((part["labels"] != IGNORED).sum()) for part in parts])
    alone = torch.stack([learner([part]).words for part in parts])
    together = learner(parts)
    torch.testing.assert_close(together.words, (alone * counts).sum() / counts.sum())
    empty = {**parts[2], "labels": torch.full_like(parts[2]["labels"], IGNORED)}
    torch.testing.assert_close(learner([*parts, empty]).loss, together.loss)
    last = learner(parts[1:])
    last.relation.backward()
    assert last.relation == 0 and all(p.grad is None or not p.grad.any() for p in learner.parameters())
    assert learner.model.head.relation.weight.grad is not None
