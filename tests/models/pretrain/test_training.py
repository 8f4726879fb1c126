"""Every family trains, stops and goes on to the same bits, and leaves files that load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

from pkernels.models import from_pretrained
from pkernels.models.pretrain import RECIPES, Settings, Sizes, draw, pretrain, read_log

from .tiny import SETTINGS, SIZES, flat, same, state, tokenizer, train, trained

STILL = {
    "transformer_xl": {"body.rates"},
    "bart": {"model.head.task.words.bias"},
    "tinybert": {"student.head.pooler.dense.weight", "student.head.pooler.dense.bias"},
    "bigbird": {"head.unused.weight", "head.unused.bias"},
    "longformer": {f"body.layers.1.attention.inner.of_globals.{name}.bias" for name in ("q", "kv")},
}
FOLDERS = {
    "electra": {".": "discriminator.", "generator": "generator."},
    "tinybert": {".": "student."},
} | {family: {".": "model."} for family in ("bart", "t5", "unilm", "uniter", "unimo", "elmo")}
"""Folders within the output, and how the names of their tensors begin in the checkpoint."""


@pytest.mark.filterwarnings("ignore:.*has no use for")  # a teacher's head for pairs
@pytest.mark.parametrize("family", RECIPES)
def test_stopped_trainings_go_on_to_the_same_bits(family: str, tmp_path: Path) -> None:
    """And every parameter learns: those that get no gradient would keep other processes waiting. (That of
    Longformer's last biases is 0: nothing is predicted where [CLS] stands. Transformer-XL's rates are no
    parameter.)"""
    straight = trained(family)
    before = torch.get_rng_state()
    assert train(family, tmp_path / "out", stop=2).step == 2
    early = state(tmp_path / "out")["learner"]
    torch.rand(5)  # what the caller draws in between plays no part
    random = torch.get_rng_state()
    assert train(family, tmp_path / "out").step == 3
    assert torch.equal(torch.get_rng_state(), random) and not torch.equal(before, random)
    want, got = flat(state(straight)), flat(state(tmp_path / "out"))
    assert set(got) == set(want)
    assert not [name for name, value in want.items() if not same(got[name], value)]
    speed = "tokens_per_second"
    assert [{**row, speed: 0} for row in read_log(tmp_path / "out")] == [
        {**row, speed: 0} for row in read_log(straight)
    ]
    still = {name for name, tensor in early.items() if torch.equal(tensor, state(straight)["learner"][name])}
    assert still == STILL.get(family, set())


@pytest.mark.filterwarnings("ignore:.*has no use for")
@pytest.mark.parametrize("family", RECIPES)
def test_the_directory_is_a_model_here_and_in_transformers(family: str) -> None:
    out = trained(family)
    tensors = state(out)["learner"]
    for folder, prefix in FOLDERS.get(family, {".": ""}).items():
        ours = from_pretrained(out / folder)
        for name, tensor in ours.state_dict().items():
            assert torch.equal(tensor, tensors[prefix + name])
        if family in ("gpt3", "unilm", "transformer_xl", "elmo", "uniter", "unimo"):  # unknown there
            continue
        theirs = getattr(transformers, "ViTModel" if family == "vit" else ours.architecture)
        _, info = theirs.from_pretrained(out / folder, output_loading_info=True)
        # Its head of pre-training is unknown there, but for the layer with tanh.
        beside = {"classifier.weight", "classifier.bias"} if family == "vit" else set()
        assert not info["missing_keys"] and set(info["unexpected_keys"]) == beside and not info["mismatched_keys"]
    if family == "vit":  # it reads nothing
        return
    text = transformers.PreTrainedTokenizerFast(tokenizer_file=str(out / "tokenizer.json"))
    assert text.decode(text("the value")["input_ids"], skip_special_tokens=False)


def test_a_model_learns_more_of_the_text_than_its_tokens_shares(tmp_path: Path) -> None:
    settings = Settings(length=32, batch=16, steps=80, rate=1e-2, log=20)
    sizes = Sizes(hidden=32, layers=1, heads=2, inner=32)
    done = train("reformer", tmp_path / "out", settings, model=sizes)
    words = [row["words"] for row in done.log]
    assert words[0] > done.unigram > words[-1] + 0.5
    assert draw(tmp_path / "out").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("family", ["albert", "electra", "reformer"])
def test_bfloat16_is_nearly_the_same(family: str, tmp_path: Path) -> None:
    rounded = train(family, tmp_path / "rounded", replace(SETTINGS, bf16=True), stop=1).log
    exact = read_log(trained(family))
    assert rounded[0]["gradient"] != exact[0]["gradient"]
    assert rounded[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.02)


def test_a_step_has_the_mean_gradient_of_its_parts(tmp_path: Path) -> None:
    """With rows of one length and nothing random, the parts of a batch do not matter."""
    sizes = replace(SIZES, layers=1, dropout=0.0)  # one local layer: no hashes
    whole, parts = (
        train("reformer", tmp_path / str(micro), replace(SETTINGS, steps=2, micro=micro), model=sizes)
        for micro in (4, 1)
    )
    for one, other in zip(whole.log, parts.log, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["gradient"] == pytest.approx(other["gradient"], rel=1e-4)


def test_masks_come_again_if_they_are_static(tmp_path: Path) -> None:
    """With the rate 0 nothing changes but what is hidden; one row makes a step and an epoch."""
    text = tmp_path / "text.txt"
    text.write_text("the value of the first name is the object of the next line in the list\n")
    losses, given = {}, {"model": replace(SIZES, dropout=0.0), "tokenizer": tokenizer("roberta")}
    for copies in (0, 2):
        settings = Settings(length=64, batch=1, steps=6, rate=1e-30, log=1, copies=copies)
        done = pretrain("roberta", text, tmp_path / str(copies), settings=settings, **given)
        losses[copies] = [row["loss"] for row in done.log]
    assert losses[2][:2] == losses[2][2:4] == losses[2][4:] and losses[2][0] != losses[2][1]
    assert len(set(losses[0])) == 6


@pytest.mark.filterwarnings("ignore:.*has no use for")  # the teacher's head for pairs
def test_a_student_learns_from_a_teacher(tmp_path: Path) -> None:
    teacher = trained("bert")
    before = from_pretrained(teacher).state_dict()
    done = train("distilbert", tmp_path / "out", tokenizer=None, teacher=teacher)
    assert {"words", "soft", "cosine"} <= set(done.log[0])
    assert len(from_pretrained(tmp_path / "out").body.layers) == 1
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dim"] == SIZES.hidden and config["dropout"] == SIZES.dropout
    after = from_pretrained(teacher).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any("teacher" in name for name in state(tmp_path / "out")["learner"])
    train("distilbert", tmp_path / "parted", tokenizer=None, teacher=teacher, stop=2)
    train("distilbert", tmp_path / "parted", tokenizer=None, teacher=teacher)
    want, got = flat(state(tmp_path / "out")), flat(state(tmp_path / "parted"))
    assert set(got) == set(want) and all(same(got[name], value) for name, value in want.items())


def test_each_family_has_its_optimizer(tmp_path: Path) -> None:
    """Rates are those of the log: T5's is the same over the warm-up, and falls by the root of the steps."""
    settings = replace(SETTINGS, steps=4, warmup=0.25, rate=None)
    own = train("t5", tmp_path / "own", settings)
    named = train("t5", tmp_path / "named", replace(settings, optimizer="adamw", rate=0.5))
    assert {name for moments in state(own.out)["optimizer"].values() for name in moments} > {"row_var", "col_var"}
    assert {name for moments in state(named.out)["optimizer"].values() for name in moments} > {"exp_avg", "exp_avg_sq"}
    rate = RECIPES["t5"].rate
    assert [row["rate"] for row in own.log] == pytest.approx([rate / n**0.5 for n in (1, 2, 3, 4)])
    assert [row["rate"] for row in named.log] == pytest.approx([0.5, 0.5, 1 / 3, 1 / 6])
    asked = json.loads((own.out / "run.json").read_text())["settings"]
    assert (asked["optimizer"], asked["rate"]) == ("adafactor", rate)
