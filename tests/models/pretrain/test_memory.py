"""Texts read in order, and what trainings remember of them from step to step."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch

from pkernels.models import xlnet
from pkernels.models.pretrain import RECIPES, draws, read_log
from pkernels.models.pretrain.objectives import permuted
from pkernels.models.pretrain.rows import Batches, Rows
from pkernels.models.pretrain.text import Corpus
from pkernels.models.pretrain.vocabulary import Vocabulary, read

from .tiny import FLAT, SETTINGS, documents, state, tokenizer, train, trained

LENGTH = 32


def batches(family: str, batch: int) -> tuple[Vocabulary, Corpus, Batches]:
    recipe = RECIPES[family]
    found = Vocabulary.of(read(tokenizer(family), recipe.scheme), recipe.scheme)
    corpus = Corpus.encode((line for lines in documents() for line in (*lines, "")), found.tokenizer)
    given: dict[str, Any] = {"length": LENGTH, "batch": batch, "seed": SETTINGS.seed, "copies": 0}
    return found, corpus, Batches(corpus.lists(), recipe.rows, found, recipe.order, **given)


def epoch(of: Batches) -> list[Rows]:
    """Its batches, all of them full."""
    assert len(of.order) % of.batch == 0
    return [of.take() for _ in range(len(of.order) // of.batch)]


def test_each_stream_is_the_text_without_gaps() -> None:
    found, corpus, source = batches("transformer_xl", 3)
    text = [i for document in corpus.lists() for sentence in [*document, [found.last]] for i in sentence]
    for number in range(2):
        steps = epoch(source)
        assert {int(i) for rows in steps for i in rows.epoch} == {number}
        whole = torch.cat([torch.cat([rows.ids[stream] for rows in steps]) for stream in range(3)]).tolist()
        start = next(i for i in range(LENGTH) if text[i : i + 2 * LENGTH] == whole[: 2 * LENGTH])
        assert whole == text[start : start + len(whole)] and len(text) - start - len(whole) < 4 * LENGTH


def test_half_of_a_row_is_remembered_and_half_comes_again() -> None:
    found, corpus, source = batches("xlnet", 2)
    sentences = [sentence for document in corpus.lists() for sentence in document]
    text, starts = [i for sentence in sentences for i in sentence], [0, *accumulate(map(len, sentences))]
    half, steps = LENGTH // 2, epoch(source)
    whole = torch.cat([rows.ids[0, :half] for rows in steps]).tolist()
    start = next(i for i in range(half) if text[i : i + LENGTH] == whole[:LENGTH])
    assert whole == text[start : start + len(whole)]
    relations, ends = [], []
    for number, rows in enumerate(steps):
        ids, types, place = rows.ids[0].tolist(), rows.types[0], start + number * half
        [cut, end] = [int((types == i).nonzero().max()) for i in range(2)]
        assert ids[cut] == ids[end] == found.last and ids[end + 1 :] == [found.first] and end == LENGTH - 2
        first, second, relation = ids[:cut], ids[cut + 1 : end], int(rows.relation[0])
        assert first == text[place : place + cut]
        assert relation or second == text[place + cut : place + end - 1]
        assert not relation or any(text[i : i + len(second)] == second for i in starts)
        relations.append(relation)
        if any(place + half < i < place + LENGTH - 3 for i in starts):
            ends.append(place + cut in starts)
    assert 0.3 < sum(relations) / len(relations) < 0.7 and all(ends) and len(ends) > 5


def test_each_half_predicts_its_share_and_sees_nothing_behind() -> None:
    found, _, source = batches("xlnet", 8)
    rows = source.take()
    out = permuted(rows, found, torch.Generator().manual_seed(0))
    places = out["target_mapping"].argmax(2)
    told = out["labels"] >= 0
    assert out["labels"].shape == (8, 4) and out["split"] == LENGTH // 2
    assert torch.equal(out["labels"][told], rows.ids.gather(1, places)[told])
    assert not bool(found.special[out["labels"][told]].any())
    assert torch.equal(((places < LENGTH // 2) & told).sum(1), torch.full((8,), 2))
    assert torch.equal(out["token_type_ids"], rows.types)


@pytest.mark.parametrize("family", ["transformer_xl", "xlnet"])
def test_a_step_remembers_the_ones_before_it(family: str, tmp_path: Path) -> None:
    """With a rate of nearly 0 and no dropout the losses are those of one model, read over the text by hand; at
    the epoch's end all is forgotten."""
    found, corpus, source = batches(family, 24)
    recipe, sizes, steps = RECIPES[family], replace(FLAT, dropout=0.0), len(epoch(source))
    settings = replace(SETTINGS, batch=24, micro=12, steps=steps + 2, rate=1e-30, decay=0.0, save=99)
    train(family, tmp_path / "out", settings, model=sizes)
    assert recipe.learner is not None and steps > 2
    learner: Any = recipe.learner(recipe.config(sizes, found, LENGTH)).train()
    learner.load_state_dict(state(tmp_path / "out")["learner"])
    objective, mems = recipe.objective(corpus, found), [None, None]
    source.go_to(0, 0)
    for step, row in enumerate(read_log(tmp_path / "out")):
        mems, rows, losses = ([None, None] if step == steps else mems), source.take(), []
        for number, part in enumerate((rows[:12], rows[12:])):
            arguments = objective(part, found, draws.generator(0, "objective", step, number))
            out = learner(**arguments, mems=mems[number])
            mems[number] = out.mems
            losses.append(out.loss.item())
        assert row["loss"] == pytest.approx(sum(losses) / 2, rel=1e-5), step


@pytest.mark.parametrize("family", ["transformer_xl", "xlnet"])
def test_memories_are_in_the_checkpoint(family: str, tmp_path: Path) -> None:
    """Without them a training would go on to other bits."""
    for name in ("whole", "robbed"):
        train(family, tmp_path / name, stop=2)
    values = state(tmp_path / "robbed")
    assert set(values["memory"]) == {0, 1, 2, 3} and all(x.any() for x in values["memory"].values())
    torch.save({**values, "memory": {}}, tmp_path / "robbed" / "state.pt")
    losses = [train(family, tmp_path / name).log[-1]["loss"] for name in ("whole", "robbed")]
    assert losses[0] == read_log(trained(family))[-1]["loss"] != losses[1]


def test_streams_need_a_text_for_each() -> None:
    with pytest.raises(ValueError, match=r"text: enough for 999 rows .batch. of 32 tokens .length. is allowed"):
        batches("transformer_xl", 999)


def test_configs_fit_how_rows_are_read(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 300,
        "d_model": 8,
        "n_layer": 1,
        "n_head": 2,
        "d_inner": 8,
        "pad_token_id": 0,
    }
    with pytest.raises(ValueError, match="model: a bi_data of False"):
        train("xlnet", tmp_path / "a", model=xlnet.Config.pretraining(**sizes))
    with pytest.raises(ValueError, match="model: a reuse_len of half the length .16. is allowed, got 256"):
        train("xlnet", tmp_path / "b", model=xlnet.Config.pretraining(**sizes, bi_data=False))
    without = train("xlnet", tmp_path / "c", model=xlnet.Config(**sizes))
    assert without.step == 3 and not state(tmp_path / "c")["memory"]
