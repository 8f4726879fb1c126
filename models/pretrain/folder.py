"""The output directory of a training: what belongs to it, and to which training it belongs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..parts import files
from ..parts.model import Model


@dataclass(frozen=True)
class Folder:
    """``run.json`` (what was asked for), ``tokenizer.json``, ``tokens.safetensors`` (the text),
    ``state.pt`` (the checkpoint), ``log.jsonl``, ``guess.json`` (what its losses are
    compared with), and the model's files."""

    path: Path

    @property
    def run(self) -> Path:
        return self.path / "run.json"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def tokens(self) -> Path:
        return self.path / "tokens.safetensors"

    @property
    def state(self) -> Path:
        return self.path / "state.pt"

    @property
    def guess(self) -> Path:
        return self.path / "guess.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def claim(self, asked: Mapping[str, Any]) -> None:
        """Make the directory that of the training asked for.

        Raises:
            ValueError: If it holds another training, naming what differs, or something else.
        """
        asked = json.loads(json.dumps(asked))  # as it will be read
        if self.run.is_file():
            found = files.read_json(self.run)
            wrong = _differences(found, asked)
            if wrong and self.state.is_file():
                lines = "\n".join(f"  {line}" for line in wrong)
                raise ValueError(f"out: {self.path} holds another training; an empty directory is allowed\n{lines}")
            if not wrong:
                return
            for path in (self.tokenizer, self.tokens, self.log):  # of a training that never took a step
                path.unlink(missing_ok=True)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ValueError(f"out: {self.path}: a new or empty directory is allowed, or one of this training")
        self.path.mkdir(parents=True, exist_ok=True)
        self.run.write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")

    def save_models(self, learner: nn.Module, models: Mapping[str, Model], tensors: Mapping[str, Tensor]) -> None:
        """Directories that ``from_pretrained`` loads; ``tensors`` are the learner's, whole."""
        places = {id(part): name for name, part in learner.named_modules(remove_duplicate=False)}
        for name, model in models.items():
            prefix = places[id(model)]
            start = f"{prefix}." if prefix else ""
            own = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
            model.save_pretrained(self.path / name, own)

    def write_log(self, rows: Iterable[Mapping[str, Any]], mode: str = "a") -> None:
        with self.log.open(mode, encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")

    def cut_log(self, step: int) -> None:
        """Leave out the lines after a step: they are about to be written again."""
        self.write_log([row for row in read_log(self.path) if row["step"] <= step], "w")


def read_log(out: str | Path) -> list[dict[str, Any]]:
    """The lines of a training's log, each ``{"step", "loss", "words", "rate", ...}``; but for one that was
    not written to its end."""
    path = Folder(Path(out)).log
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _differences(found: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for name in dict.fromkeys([*found, *asked]):
        there, here = found.get(name), asked.get(name)
        if isinstance(there, Mapping) and isinstance(here, Mapping):
            lines += _differences(there, here, f"{prefix}{name}.")
        elif there != here:
            lines.append(f"{prefix}{name}: {there!r} there, {here!r} asked for")
    return lines
