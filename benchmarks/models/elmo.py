"""ELMo: whole sentences in its two published sizes, beside the same with a loop of plain torch for its LSTMs.
torch's own LSTM clips neither cells nor states (``benchmarks/lstm.py`` has it beside both)."""

from __future__ import annotations

import functools
from dataclasses import replace
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor

from pkernels.models import Model, elmo
from pkernels.models.parts.lstm import ProjectedLSTM

from ..lstm import looped
from .base import Encoder

ROWS = (1.0,) * 16
BARE: dict[str, Any] = {"dropout": 0.0, "mix_dropout": 0.0}


def _small(length: int, layers: int) -> elmo.Config:
    return replace(elmo.Config.small(), n_layers=layers, **BARE)


def _original(length: int, layers: int) -> elmo.Config:
    return replace(elmo.Config.original(), n_layers=layers, **BARE)


@functools.cache
def _words() -> list[str]:
    return [word for name in sorted(topics) for word in topics[name].split()]


def _sentences(real: Tensor) -> dict[str, Tensor]:
    """Words of Python's documentation, as many as are real."""
    rows, size = real.shape
    found = [_words()[row * size : (row + 1) * size] for row in range(rows)]
    ids, lengths = elmo.character_ids(found)
    return {"input_ids": ids.to(real.device), "lengths": lengths.to(real.device)}


class Loop(torch.nn.Module):
    """Stands for a ``ProjectedLSTM``, whose parameters it has; of sentences of one length, without states."""

    def __init__(self, lstm: ProjectedLSTM) -> None:
        super().__init__()
        self.input, self.recurrent, self.projection = lstm.input, lstm.recurrent, lstm.projection
        assert lstm.cell_clip is not None and lstm.cell_clip == lstm.projection_clip
        self.clip, self.reverse = lstm.cell_clip, lstm.reverse

    def forward(self, x: Tensor, lengths: Tensor, state: None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The states after it are not needed: what is returned for them is nothing."""
        out = looped(self.input(x), self.recurrent, self.projection, clip=self.clip, reverse=self.reverse)
        nothing = out.new_zeros(len(x), 0)
        return out, (nothing, nothing)


def plain(model: Any) -> Model:
    """Its LSTMs become loops."""
    for layer in model.body.lstm.layers:
        layer.ahead, layer.back = Loop(layer.ahead), Loop(layer.back)
    return model


def mixed(out: Any) -> Tensor:
    """What a task gets."""
    return out.representation


ENCODERS = tuple(
    Encoder(name, "ElmoModel", config, sizes=((20, 2), (64, 2)), peer=plain, rows=ROWS, given=_sentences, states=mixed)
    for name, config in (("ELMo small", _small), ("ELMo original", _original))
)
