"""ELMo's words: all are read by their characters, the commonest are told, and states go on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pkernels.models import elmo
from pkernels.models.parts.characters import character_ids
from pkernels.models.pretrain import RECIPES, Settings, Sizes, pretrain
from pkernels.models.pretrain.folder import Folder
from pkernels.models.pretrain.optimizers import OPTIMIZERS
from pkernels.models.pretrain.rows import Rows
from pkernels.models.pretrain.vocabulary import WORDS, Vocabulary, learn
from pkernels.models.pretrain.words import learner, of_elmo

from .tiny import SETTINGS, SIZES, documents, folder, same, state, tokenizer, train

TEXT = ["the cat sees the dog .", "a dog sees the cat", "the end"]
TINY = Sizes(hidden=8, layers=1, heads=2, inner=12, vocabulary=8)


def prepared(tmp_path: Path, given: Path | None = None) -> tuple[Vocabulary, elmo.Config, Folder]:
    (tmp_path / "t.txt").write_text("\n".join(TEXT))
    source, out = RECIPES["elmo"].source(tmp_path / "t.txt"), Folder(tmp_path / "out")
    out.path.mkdir()
    source.prepare(out, given, TINY)
    settings = Settings(length=8, batch=3).of_family("adagrad", 0.2)
    course = source.course(out, TINY, settings)
    return course.vocabulary, course.config, out


def test_words_beyond_the_models_are_read_and_told_as_unknown(tmp_path: Path) -> None:
    v, config, out = prepared(tmp_path)
    ids = v.tokenizer.get_vocab()
    assert set(ids) == {"<S>", "</S>", "<UNK>", "the", "cat", "sees", "dog", ".", "a", "end"}
    assert [ids[word] for word in ("<S>", "</S>", "<UNK>", "the")] == [0, 1, 2, 3] and config.vocab_size == 8
    source = RECIPES["elmo"].source(tmp_path / "t.txt")
    course = source.course(out, TINY, Settings(length=8, batch=3).of_family("adagrad", 0.2))
    rows: Rows = course.examples.take()
    given = course.objective(rows, v, torch.Generator())
    told = sorted(zip(given["lengths"].tolist(), given["labels"].tolist(), given["input_ids"], strict=True))
    want = sorted((len(line.split()), line.split()) for line in TEXT)
    for (length, labels, characters), (count, words) in zip(told, want, strict=True):
        assert length == count and torch.equal(characters[:count], character_ids([words], 50)[0][0])
        assert not characters[count:].any()
        assert labels[:count] == [ids[word] if ids[word] < 8 else 2 for word in words]
    # A guess knows how often each is told, the mark at the end of each line too.
    counts = Counter(ids[word] if ids[word] < 8 else 2 for line in TEXT for word in line.split()) + Counter({1: 3})
    shares = [n / sum(counts.values()) for n in counts.values()]
    assert course.guess.loss == pytest.approx(-sum(p * math.log(p) for p in shares), rel=1e-6)


def test_words_that_a_tokenizer_lacks_are_read_too(tmp_path: Path) -> None:
    learn(["the cat the cat sees"], WORDS, 6).save(str(tmp_path / "w.json"))
    v, config, _ = prepared(tmp_path, tmp_path / "w.json")
    ids = v.tokenizer.get_vocab()
    assert ids["cat"] < 6 and min(ids[word] for word in ("dog", "a", "end", ".")) >= 6
    assert "<UNK>" not in v.tokenizer.encode(TEXT[0]).tokens and config.vocab_size == 8


def test_long_sentences_are_cut(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join(["a b c d e f g h i j k", "l m"]))
    source, out = RECIPES["elmo"].source(tmp_path / "t.txt"), Folder(tmp_path / "out")
    out.path.mkdir()
    source.prepare(out, None, TINY)
    rows = source.course(out, TINY, Settings(length=8, batch=3).of_family("adagrad", 0.2)).examples.take()
    assert rows.lengths.tolist() == [8, 3, 2]


def test_states_go_on_and_are_in_the_checkpoint(tmp_path: Path) -> None:
    train("elmo", tmp_path / "out", replace(SETTINGS, save=1), stop=2)
    memory = state(tmp_path / "out")["memory"]
    assert set(memory) == set(range(SETTINGS.batch))
    # Of one layer both directions' states and cells.
    assert all(x.shape == (1, 2, 16 + 24) and x.any() for x in memory.values())
    config = elmo.Config(filters=((1, 4),), dim=12, projection_dim=8, n_layers=2, dropout=0.0, vocab_size=20)
    model = learner(config).eval()
    ids, lengths = character_ids([["a", "b"], ["c"]])
    labels, given = torch.tensor([[3, 4], [5, 0]]), {"lengths": lengths, "negatives": 5}
    first = model(ids, labels, **given)
    later = model(ids, labels, mems=first.mems, **given)
    whole = model.model(ids, lengths=lengths)
    again = model.model(ids, lengths=lengths, states=whole.states)
    h, c = later.mems[0].unflatten(0, (2, 2)).split([8, 12], -1)
    assert same(h, again.states.h) and same(c, again.states.c) and not same(h, whole.states.h)
    assert not later.mems[0].requires_grad
    # One row says how well words are told; the whole softmax is not that of the sample.
    row = model.model(ids[:1], lengths=lengths[:1], labels=labels[:1])
    assert torch.allclose(first.words, row.loss) and not torch.allclose(first.words, first.loss)


def test_adagrad_is_the_authors() -> None:
    """Theirs is of 20 times the loss, with squares that begin at 1."""
    made = OPTIMIZERS["adagrad"]
    p, theirs = (torch.nn.Parameter(torch.tensor([[1.0, -2.0]])) for _ in range(2))
    ours = made.make([{"params": [p], "weight_decay": 0.5}], 0.2, 0.98)
    other = torch.optim.Adagrad([theirs], lr=0.2, initial_accumulator_value=1.0, eps=0)
    for gradient in ([0.1, 0.2], [-0.3, 0.01]):
        p.grad, theirs.grad = torch.tensor([gradient]), 20 * torch.tensor([gradient])
        ours.step()
        other.step()
    assert torch.allclose(p, theirs, atol=1e-6) and made.rate(7, 5, 100, 0.2) == 0.2


def test_more_is_learned_than_how_often_words_occur(tmp_path: Path) -> None:
    settings = Settings(length=12, batch=8, steps=90, log=15)
    sizes = Sizes(hidden=24, layers=1, heads=2, inner=32, vocabulary=150)
    done = train("elmo", tmp_path / "out", settings, model=sizes)
    assert done.log[-1]["words"] < done.unigram - 0.15 < done.log[0]["words"]


def test_what_is_no_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer: .*plain.json: one of whole words \(WordLevel\)|<S>"):
        train("elmo", tmp_path / "a", tokenizer=folder() / "plain.json")
    config = of_elmo(SIZES, Vocabulary.of(learn(["a"], WORDS, 9), WORDS), 8)
    for wrong in (replace(config, vocab_size=2), replace(config, vocab_size=9, bos_token_id=3)):
        with pytest.raises(ValueError, match="tokenizer, model: <S>, </S>, <UNK> as bos_token_id, eos_token_id"):
            train("elmo", tmp_path / f"b{wrong.bos_token_id}", model=wrong)
    assert tokenizer("elmo") == folder() / "words.json" and len(documents()) == 4
    (tmp_path / "short.txt").write_text("a b\n")
    with pytest.raises(ValueError, match="text: enough for 4 rows .batch."):
        pretrain("elmo", tmp_path / "short.txt", tmp_path / "c", model=TINY, settings=SETTINGS)
