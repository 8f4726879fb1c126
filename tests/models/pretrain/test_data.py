"""Tokens, rows and batches, against what they are made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from pkernels.models.parts.objectives import next_sentence_pairs
from pkernels.models.pretrain import read_log, rows, text
from pkernels.models.pretrain.neighbours import neighbours
from pkernels.models.pretrain.objectives import cloze, ngrams, tokens
from pkernels.models.pretrain.rows import Batches, Rows
from pkernels.models.pretrain.text import Corpus
from pkernels.models.pretrain.vocabulary import ALBERT, BERT, Scheme, Vocabulary, read

from .tiny import SCHEMES, documents, folder

LINES = [line for lines in documents() for line in lines]


def vocabulary(name: str) -> Vocabulary:
    return Vocabulary.of(Tokenizer.from_file(str(folder() / f"{name}.json")), SCHEMES[name])


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.encode(text.lines([folder() / "text.txt"]), vocabulary("bert").tokenizer)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_vocabulary_is_made_from_text(name: str) -> None:
    first = vocabulary(name).tokenizer
    # CLIP has all bytes, and beside them the letters with which words of the text end.
    assert 250 < first.get_vocab_size() <= (320 if name == "clip" else 300)
    ids = first.encode(LINES[3]).ids
    ends = (SCHEMES[name].framed or "none").split()[-1].split(":")[0]
    assert (first.token_to_id(ends) == ids[-1]) == (SCHEMES[name].framed is not None)
    whole = "".join(LINES[3].split())
    if name == "words":  # of which 300 are known
        known = set(first.get_vocab())
        whole = "".join(word for word, _ in first.pre_tokenizer.pre_tokenize_str(LINES[3]) if word in known)
    assert "".join(first.decode(ids).split()) == (whole.lower() if name in ("bert", "clip") else whole)
    assert [first.token_to_id(token) for token in SCHEMES[name].special] == list(range(len(SCHEMES[name].special)))


@pytest.mark.parametrize(("scheme", "name"), [(BERT, "bert"), (ALBERT, "albert")])
def test_words_are_known_by_their_tokens(scheme: Scheme, name: str) -> None:
    found = vocabulary(name)
    encoding = found.tokenizer.encode("the subscription returns", add_special_tokens=False)
    ids = [found.first, *encoding.ids, found.last, found.pad]
    words = found.word_ids(torch.tensor([ids]))[0].tolist()
    want = [i + words[1] for i in encoding.word_ids] if name == "bert" else None
    assert words[0] == words[-1] == words[-2] == -1
    assert len(encoding.ids) > 3 and len(set(words[1:-2])) == 3
    assert want is None or words[1:-2] == want


def test_a_list_of_words_is_a_tokenizer(tmp_path: Path) -> None:
    special = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
    small, large = tmp_path / "small.txt", tmp_path / "large.txt"
    small.write_text(special + "the\ncat\n##s\n")
    large.write_text(special + "The\ncat\n##s\n")
    assert read(small, BERT).encode("The cats").tokens == ["[CLS]", "the", "cat", "##s", "[SEP]"]
    assert read(large, BERT).encode("The cats [MASK]").tokens == ["[CLS]", "The", "cat", "##s", "[MASK]", "[SEP]"]
    assert read(large, BERT).encode("the").tokens == ["[CLS]", "[UNK]", "[SEP]"]


def test_a_text_is_documents_of_lines(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    encode = vocabulary("bert").tokenizer.encode
    want = [[encode(line, add_special_tokens=False).ids for line in lines] for lines in documents()]
    assert corpus.lists() == want
    monkeypatch.setattr(text, "SHARE", 7)
    again = Corpus.encode(text.lines([folder() / "text.txt"]), vocabulary("bert").tokenizer)
    assert again.lists() == want
    again.save(tmp_path / "tokens.safetensors")
    assert Corpus.load(tmp_path / "tokens.safetensors").lists() == want


def test_two_files_are_two_documents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one line\nanother")
    (tmp_path / "b").write_text("\n\na third\n\n\n")
    assert list(text.lines([tmp_path / "a", tmp_path / "b"])) == [
        "one line",
        "another",
        "",
        "",
        "",
        "a third",
        *[""] * 3,
    ]
    found = Corpus.encode(text.lines([tmp_path / "a", tmp_path / "b"]), vocabulary("bert").tokenizer)
    assert [len(document) for document in found.lists()] == [2, 1]


def taken(batches: Batches, count: int) -> Iterator[Rows]:
    return (batches.take() for _ in range(count))


@pytest.mark.parametrize("make", [rows.sentences, rows.stream, rows.pairs(next_sentence_pairs)])
def test_batches_are_a_function_of_their_place(make: rows.Make, corpus: Corpus) -> None:
    given = {"length": 24, "batch": 3, "seed": 3, "copies": 0}
    straight, other = (Batches(corpus.lists()[:4], make, vocabulary("bert"), **given) for _ in range(2))
    size = len(straight.order)
    for _ in taken(straight, size // 3 - 2):
        pass
    other.go_to(straight.epoch, straight.place)
    for one, two in zip(taken(straight, 5), taken(other, 5), strict=True):  # over the end of the epoch
        assert all(torch.equal(getattr(one, name), getattr(two, name)) for name in Rows.__dataclass_fields__)
    assert straight.epoch == 1 and set(one.epoch.tolist()) == {1}


def test_an_epoch_has_every_row_once_in_a_new_order(corpus: Corpus) -> None:
    found = vocabulary("bert")
    size = sum(1 for _ in rows.sentences(corpus.lists(), found, 24, torch.Generator()))
    batches = Batches(corpus.lists(), rows.sentences, found, length=24, batch=size, seed=3, copies=0)
    first, second = batches.take(), batches.take()
    assert sorted(first.number.tolist()) == sorted(second.number.tolist()) == list(range(size))
    assert first.number.tolist() != second.number.tolist()
    place = first.number.argsort()
    inner = ~found.special[first.ids[place]]
    assert torch.equal(first.ids[place][inner], corpus.tokens.long())
    assert torch.equal(first.ids == found.pad, torch.arange(24) >= first.lengths[:, None])


def test_pairs_come_again_if_they_are_static(corpus: Corpus) -> None:
    few, make = corpus.lists()[:4], rows.pairs(next_sentence_pairs)
    batches = Batches(few, make, vocabulary("bert"), length=24, batch=1, seed=3, copies=2)
    epochs = []
    for epoch in range(3):
        batches.go_to(epoch, 0)
        epochs.append([batches.rows[i] for i in range(len(batches.rows))])
    assert epochs[0] == epochs[2] != epochs[1]
    row = epochs[0][0]
    assert (
        row.ids[0] == vocabulary("bert").first and row.ids[row.starts[0] - 1] == row.ids[-1] == vocabulary("bert").last
    )


def test_streams_are_the_text_without_gaps(corpus: Corpus) -> None:
    found = vocabulary("plain")
    generator = torch.Generator().manual_seed(0)
    ids = [i for row in rows.stream([[[5, 6], [7]], [[8, 9]]] * 9, found, 4, generator) for i in row.ids]
    whole = [5, 6, 7, found.last, 8, 9, found.last] * 9
    assert any(ids == whole[start : start + len(ids)] for start in range(4))
    assert len(ids) >= len(whole) - 7


def test_something_is_always_predicted() -> None:
    found = vocabulary("bert")
    ids = torch.tensor([[found.first, 9, found.last, found.pad]])
    one = torch.ones(1, dtype=torch.int64)
    batch = Rows(ids, torch.zeros_like(ids), 3 * one, -one, one, one)
    for choose in (tokens, ngrams((1.0,))):
        for seed in range(20):
            out = cloze(choose)(batch, found, torch.Generator().manual_seed(seed))
            assert out["labels"].tolist() == [[-100, 9, -100, -100]]
            assert out["input_ids"][0, [0, 2, 3]].tolist() == ids[0, [0, 2, 3]].tolist()


def test_neighbours_keep_similar_company() -> None:
    lines = [f"{article} {animal} {verb}" for article in ("the", "one") for animal in ("cat", "dog") for verb in
             ("runs", "sits")] * 3  # fmt: skip
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "the", "one", "cat", "dog", "runs", "sits"]
    (folder() / "vocab.txt").write_text("\n".join(words) + "\n")
    found = Vocabulary.of(read(folder() / "vocab.txt", BERT), BERT)
    similar = neighbours(Corpus.encode(iter(lines), found.tokenizer), found)
    names = {words[a]: words[b] for (a,), (b,) in similar.items()}
    assert names["cat"] == "dog" and names["dog"] == "cat"
    assert names["runs"] == "sits" and names["the"] == "one"


def test_a_line_that_was_not_finished_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2]
