"""A model as pkernels builds it and as transformers has it: what an entry of this folder says."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pkernels.models import Model, build
from pkernels.models.parts.config import BaseConfig

from .. import corpus

Attend = Callable[[Tensor], Tensor]
"""From hidden states ``(1, S, width)`` to the states that an attention module makes of them."""
Plain = Callable[[Model], Model]
"""From a copy of our model to the same in plain torch."""


def nothing(length: int, device: str) -> dict[str, Tensor]:
    """Arguments of a model that is called with token ids alone."""
    return {}


def text(real: Tensor) -> dict[str, Tensor]:
    """Rows of the corpus; ``real (B, S)`` says which of their tokens are no padding."""
    ids = corpus.rows(real.shape[1])[: len(real)].to(real.device)
    if bool(real.all()):
        return {"input_ids": ids}
    return {"input_ids": ids.where(real, corpus.PADDING), "attention_mask": real.long()}


def last(out: Any) -> Tensor:
    """The last hidden states."""
    return out.last_hidden_state


def same(tensors: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """Names in transformers' memory that are those of its files."""
    return tensors


@dataclass(frozen=True)
class Encoder:
    """A model over one long text, or a batch. Its memory must grow in proportion to the length, or faster.

    Attributes:
        name: As tables show it.
        architecture: The class in transformers, and what ``pkernels.models.build`` calls it.
        config: From length and layers to our config, with the vocabulary of ``corpus`` and
            without dropout, whose bits would differ.
        sizes: (length, layers) of ``--full``.
        quick: The same of a quick run.
        arguments: From length and device to what both are called with beside ``input_ids``.
        attention: From both models, a length and a device to the first layer's attention of
            each, projections included: what the family "long attention" measures.
        lengths: Of the attention alone, in ``--full``.
        peer: The class in transformers, where it is another, and ``told``, what it is called with then. Or, of
            families that transformers lacks, what makes of a copy of our model the same in plain torch.
        rows: For each row of the batch, which part of the length is real; padding follows.
        tolerance: Largest difference of the states over the largest state.
        hashes: Whether rounding can decide which rows meet: one on the border of two buckets moves the chunks behind
            it. What is held against the rival's is then worked out with the linear maps of one library.
        given: From which tokens are real, ``(B, S)``, to the batch.
        states: From what either returns to its states, ``(B, S, width)``, or ``(n, width)`` without padding.
        files: Gives tensors of transformers' model the names that its files have.
    """

    name: str
    architecture: str
    config: Callable[[int, int], BaseConfig]
    sizes: tuple[tuple[int, int], ...]
    quick: tuple[tuple[int, int], ...] = ()
    arguments: Callable[[int, str], Mapping[str, Any]] = nothing
    attention: Callable[[Any, Any, int, str], tuple[Attend, Attend]] | None = None
    lengths: tuple[int, ...] = ()
    peer: str | Plain | None = None
    told: Callable[[int, str], Mapping[str, Tensor]] | None = None
    rows: tuple[float, ...] = (1.0,)
    tolerance: float = 2.5e-5
    hashes: bool = False
    given: Callable[[Tensor], Mapping[str, Tensor]] = text
    states: Callable[[Any], Tensor] = last
    files: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] = same

    @property
    def rival(self) -> str:
        """The other contender."""
        return "plain torch" if callable(self.peer) else "transformers"


@dataclass(frozen=True)
class Learner:
    """A small model that is trained for a few hundred steps.

    Attributes:
        name: As the command line has it.
        architecture: With a head whose output has a ``loss``; otherwise as an encoder's.
        config: From the length to our config, without dropout.
        objective: From token ids ``(B, S)`` and a generator to the arguments of the model,
            ``labels`` among them.
        length, batch, rate: Tokens of a row, rows of a batch, and AdamW's learning rate.
        tolerance: Largest difference of the losses of the first steps.
        unused: Parameters of ours that transformers' model has and does not use; they stay as they are.
    """

    name: str
    architecture: str
    config: Callable[[int], BaseConfig]
    objective: Callable[[Tensor, torch.Generator], dict[str, Tensor]]
    length: int = 1024
    batch: int = 4
    rate: float = 1e-3
    tolerance: float = 1e-4
    unused: tuple[str, ...] = ()


def twins(
    architecture: str, config: BaseConfig, device: str, noise: float = 0.0, peer: str | Plain | None = None
) -> tuple[Model, nn.Module]:
    """A new model of ours, and transformers' with the same weights, which went through files; or ``peer`` of
    a copy.

    Args:
        noise: Standard deviation of what is added to every parameter. Without it attention is
            nearly uniform, biases are 0 and projections copies of others, which hides errors.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        ours = build(architecture, config)
        for parameter in ours.parameters():
            parameter.data += noise * torch.randn_like(parameter)
    if callable(peer):
        return ours.to(device), peer(copy.deepcopy(ours))
    import transformers

    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        kind = getattr(transformers, peer or architecture)
        theirs = kind.from_pretrained(folder, config=kind.config_class.from_pretrained(folder), dtype=torch.float32)
    for parameter in theirs.parameters():  # out of the file, whose pages would count as memory of the first call
        parameter.data = parameter.data.clone()
    return ours.to(device), theirs.to(device)
