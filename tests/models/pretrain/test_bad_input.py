"""What cannot be trained on is refused, by name, before anything is written over."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pkernels.models import bert, roberta
from pkernels.models.pretrain import Settings, Sizes, pretrain
from pkernels.models.pretrain.__main__ import main

from .tiny import SETTINGS, SIZES, folder, state, tokenizer, train, trained


def command(family: str, out: Path, **changes: Any) -> list[str]:
    """A command line of a tiny training."""
    options = {
        "text": folder() / "text.txt", "tokenizer": tokenizer("bert"), "length": 32, "batch": 2, "steps": 2,
        "hidden": 16, "inner": 16, "out": out,
    }  # fmt: skip
    given = {name: value for name, value in {**options, **changes}.items() if value is not None}
    return [family, "--quiet", *(part for name, value in given.items() for part in (f"--{name}", str(value)))]


def test_the_command_line_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("bert", tmp_path / "out")) == 0
    assert "step 2: words" in capsys.readouterr().out
    loud = [part for part in command("bert", tmp_path / "loud") if part != "--quiet"]
    assert main(loud) == 0
    assert "2/2" in capsys.readouterr().out and (tmp_path / "loud" / "loss.png").is_file()


def text(folder: Path, content: bytes) -> Path:
    (folder / "text.txt").write_bytes(content)
    return folder / "text.txt"


def vocabulary(folder: Path) -> Path:
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\nthe\n")
    return folder / "vocab.txt"


def config(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(content))
    return folder / "config.json"


WRONG: dict[str, tuple[str, Callable[[Path], dict[str, Any]], str]] = {
    "no file": ("bert", lambda d: {"text": d / "none.txt"}, "text: .*none.txt: a file is allowed"),
    "directory": ("bert", lambda d: {"text": d}, "text: .*it is a directory"),
    "empty": ("bert", lambda d: {"text": text(d, b" \n\n")}, "text: .*at least one word"),
    "not UTF-8": ("bert", lambda d: {"text": text(d, b"caf\xe9\n")}, "text: .*UTF-8"),
    "one document": ("bert", lambda d: {"text": text(d, b"a line\nanother line\n")}, "documents: at least two"),
    "short": ("reformer", lambda d: {"text": text(d, b"a line\n"), "tokenizer": None}, "text: enough for one row"),
    "family": ("bart2", lambda d: {}, "family: one of bert, .* is allowed, got 'bart2'"),
    "no tokenizer": ("bert", lambda d: {"tokenizer": d / "none.json"}, "tokenizer: .*there is none"),
    "broken tokenizer": ("bert", lambda d: {"tokenizer": config(d, {"a": 1})}, "tokenizer: .*is allowed"),
    "other tokenizer": ("roberta", lambda d: {}, r"tokenizer with <s>, <pad>.* is allowed"),
    "vocabulary": ("bert", lambda d: {"tokenizer": vocabulary(d)}, r"\['\[CLS\]', '\[SEP\]', '\[MASK\]'\] lack"),
    "no config": ("bert", lambda d: {"config": d / "none.json"}, "config: .*there is none"),
    "other config": ("bert", lambda d: {"config": config(d, {"model_type": "t5"})}, "model_type: 'bert' is allowed"),
    "teacher": ("roberta", lambda d: {"teacher": d}, "teacher: none is allowed"),
    "no teacher": ("distilbert", lambda d: {"teacher": d}, "config.json: missing"),
    "needed teacher": ("tinybert", lambda d: {}, "teacher: the directory of a trained BERT is allowed, got None"),
    "heads": ("tinybert", lambda d: {"teacher": trained("bert"), "heads": 1}, "num_attention_heads 2 .the teacher's"),
    "sentinels": ("t5", lambda d: {"tokenizer": tokenizer("reformer")}, "'<extra_id_99>', .* are missing"),
    "steps": ("bert", lambda d: {"steps": 0}, "steps: at least 1"),
    "stop": ("bert", lambda d: {"stop": 3}, r"stop: from 1 to steps \(2\)"),
    "micro": ("bert", lambda d: {"micro": 3}, r"batch: a multiple of micro \(3\)"),
    "warmup": ("bert", lambda d: {"warmup": 2}, r"warmup: in \[0, 1\]"),
    "hidden": ("bert", lambda d: {"hidden": 18}, r"hidden: a multiple of 4 \* heads"),
    "vocabulary size": ("bert", lambda d: {"vocabulary": 3, "tokenizer": None}, "vocabulary: more than the 5"),
    "optimizer": (
        "bert",
        lambda d: {"optimizer": "sgd"},
        "optimizer: one of adamw, adafactor, adagrad is allowed, got sgd",
    ),
    "rate of another": (
        "t5",
        lambda d: {"optimizer": "adamw"},
        "rate: must be given with adamw, .* is one of adafactor",
    ),
    "parallel": ("t5", lambda d: {"parallel": "fsdp"}, "parallel: ddp is allowed with adafactor, got 'fsdp'"),
    "rate": ("roberta", lambda d: {"rate": 1e30, "tokenizer": None, "steps": 9}, "a lower rate may help"),
}


@pytest.mark.filterwarnings("ignore:.*has no use for")  # a teacher's head for pairs
@pytest.mark.parametrize("case", WRONG)
def test_errors_name_what_is_wrong(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family, changes, message = WRONG[case]
    assert main(command(family, tmp_path / "out", **changes(tmp_path))) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said


def test_a_directory_belongs_to_one_training(tmp_path: Path) -> None:
    out = tmp_path / "out"
    train("roberta", out, replace(SETTINGS, steps=2))
    before = state(out)
    with pytest.raises(ValueError, match=r"another training(.|\n)*settings.rate: 0.002 there, 0.5 asked for"):
        train("roberta", out, replace(SETTINGS, steps=2, rate=0.5))
    with pytest.raises(ValueError, match=r"family: 'roberta' there, 'longformer' asked for"):
        train("longformer", out, replace(SETTINGS, steps=2))
    with pytest.raises(ValueError, match=r"text: .* there, .* asked for"):
        pretrain(
            "roberta", text(tmp_path, b"other\n"), out, model=SIZES, settings=replace(SETTINGS, steps=2),
            tokenizer=tokenizer("roberta"),
        )  # fmt: skip
    assert torch.equal(before["learner"]["head.words.bias"], state(out)["learner"]["head.words.bias"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="out: .*full: a new or empty directory"):
        train("roberta", tmp_path / "full")


def test_a_directory_without_a_step_belongs_to_none(tmp_path: Path) -> None:
    assert main(command("bert", tmp_path / "out", text=text(tmp_path, b"a line\n"))) == 2
    assert main(command("bert", tmp_path / "out")) == 0
    assert state(tmp_path / "out")["step"] == 2


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    train("roberta", tmp_path / "out", stop=1)
    (tmp_path / "out" / "state.pt").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=r"state.pt: a checkpoint of this training is allowed"):
        train("roberta", tmp_path / "out")


def test_models_fit_their_tokens(tmp_path: Path) -> None:
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 12}
    with pytest.raises(ValueError, match="model: a vocab_size of 300"):
        train("roberta", tmp_path / "a", model=roberta.Config(vocab_size=200, **small))
    with pytest.raises(ValueError, match="model: a pad_token_id of 1"):
        train("roberta", tmp_path / "b", model=roberta.Config(vocab_size=300, pad_token_id=0, **small))
    with pytest.raises(ValueError, match="model: Sizes or pkernels.models.roberta.Config"):
        train("roberta", tmp_path / "c", model=bert.Config(**small))
    given = train("roberta", tmp_path / "d", replace(SETTINGS, steps=1), model=roberta.Config(vocab_size=310, **small))
    assert given.step == 1


def test_settings_name_their_fields() -> None:
    for name, value in {"length": 7, "batch": 0, "micro": -1, "rate": 0.0, "decay": -1.0, "beta": 1.0}.items():
        with pytest.raises(ValueError, match=f"{name}: "):
            Settings(**{name: value})
    for name, value in {"heads": 0, "dropout": 1.0}.items():
        with pytest.raises(ValueError, match=f"{name}: "):
            Sizes(**{name: value})
    with pytest.raises(ValueError, match="parallel: one of ddp, fsdp"):
        train("bert", Path("nowhere"), parallel="tensor")
    with pytest.raises(ValueError, match="device: "):
        train("bert", Path("nowhere"), device="tpu")
