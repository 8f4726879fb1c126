"""A family, and a model of it: a body and a head."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import files
from .cache import Caches
from .config import BaseConfig
from .generation import generate
from .keys import KeyMap
from .writing import Prompt, Read


@dataclass(frozen=True)
class Family:
    """All that the loader needs to know of a model family.

    Args:
        config: Its class of configs.
        body: Makes the body out of a config.
        heads: Architecture, as config.json names it -> makes the head; the first has none.
        keys: Names of parameters in published files.
        initialise: Fills a new model's parameters.
        arguments: Architecture -> from config and arguments of a call, those that the body takes
            (what a task adds to them, or another shape of them); none is needed for most.
        bodies: Architecture -> makes its body, where that is another (an encoder alone).
        stored: From architecture and a file's config and tensors to those that they are to be read as.
        others: Names that other programs give: a tensor that only such a file has -> its names.
        towers: Architecture that is a part of this family's models, and of a family of its own ->
            from this family's config.json to that of the part.
        optional: Architecture -> modules without which it works, and goes where a file has nothing
            of them.
    """

    config: type[BaseConfig]
    body: Callable[[Any], nn.Module]
    heads: Mapping[str, Callable[[Any], nn.Module]]
    keys: KeyMap
    initialise: Callable[[nn.Module, Any], None]
    arguments: Mapping[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)
    bodies: Mapping[str, Callable[[Any], nn.Module]] = field(default_factory=dict)
    stored: Callable[[str, Any, dict[str, Tensor]], tuple[Any, dict[str, Tensor]]] = lambda _, c, tensors: (c, tensors)
    others: Mapping[str, KeyMap] = field(default_factory=dict)
    towers: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = field(default_factory=dict)
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        # By name, as functions are pickled: the family of a config is its module's FAMILY.
        return _family_of, (self.config,)

    def keys_of(self, names: Collection[str]) -> KeyMap:
        """The rules by which a file's tensors are named."""
        return next((keys for mark, keys in self.others.items() if mark in names), self.keys)


def _family_of(config: type[BaseConfig]) -> Family:
    return sys.modules[config.__module__].FAMILY


class Model(nn.Module):
    """The model that a config and the name of an architecture describe.

    Called as transformers call theirs: the body's arguments (``input_ids``,
    ``attention_mask``, ...), the head's labels, ``output_hidden_states``; returns one of
    ``outputs``. Beyond that, bodies take ``lengths (B,)`` for padding on the right without a
    look at the mask, and ``offsets (n + 1,)`` for packed input ``(1, total)``: these trace in
    one graph. (For torch.export, wrap the model in a module whose ``forward`` names the
    arguments that are to be dynamic.)

    Attributes:
        config, architecture: As given.
        body: From token ids to hidden states.
        head: From hidden states to the output.
    """

    def __init__(self, family: Family, architecture: str, config: BaseConfig) -> None:
        super().__init__()
        self.family, self.architecture, self.config = family, architecture, config
        self.body = family.bodies.get(architecture, family.body)(config)
        self.head = family.heads[architecture](config)
        self._names = tuple(inspect.signature(self.body.forward).parameters)
        family.initialise(self, config)

    def forward(self, *inputs: Any, output_attentions: bool = False, **arguments: Any) -> Any:
        if output_attentions:
            raise ValueError(
                "output_attentions: False is allowed: fused attention never forms the (S, S) probabilities. "
                "To look at some, take hidden_states and compute softmax(q k^T) of a layer from them"
            )
        if self.architecture in self.family.arguments:
            named = dict(zip(self._names, inputs, strict=False))
            inputs, arguments = inputs[len(named) :], {**named, **arguments}
            arguments = self.family.arguments[self.architecture](self.config, arguments)
        labels = {name: arguments.pop(name) for name in self.head.targets if name in arguments}  # type: ignore[union-attr]
        return self.head(self.body(*inputs, **arguments), **labels)

    def generate(self, *inputs: Any, **arguments: Any) -> Tensor:
        """The prompt and what the model writes after it: see :func:`generation.generate`."""
        if not hasattr(self.head, "words") or not hasattr(self.body, "prepare"):
            raise ValueError(f"generate: a model that predicts the next word is allowed, got {self.architecture}")
        return generate(self, *inputs, **arguments)

    def prepare(self, *inputs: Any, room: Callable[[int], int], **arguments: Any) -> Prompt:
        """Read a prompt, and give the scores of the word after it; see :class:`writing.Writer`."""
        read: Read = self.body.prepare(*inputs, room=room, **arguments)  # type: ignore[operator]
        scores = self.head.words(read.states)[:, -1]  # type: ignore[operator]
        return Prompt(scores, read.caches, read.ids, read.real, read.steps, read.rules)

    def step(self, ids: Tensor, caches: Caches) -> Tensor:
        """Scores ``(B, V)`` after the next words ``ids (B,)``."""
        return self.head.words(self.body.step(ids[:, None], caches))[:, -1]  # type: ignore[operator]

    def num_parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.parameters())

    def named_tensors(self, ours: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """Parameters (or other tensors under our names, such as gradients) as files name them."""
        theirs = self.family.keys.export(self.state_dict() if ours is None else ours)
        bare = next(iter(self.family.heads)) == self.architecture
        return self.family.keys.without_prefix(theirs) if bare else theirs

    def save_pretrained(self, local_dir: str | Path, ours: Mapping[str, torch.Tensor] | None = None) -> None:
        """Write a directory that ``from_pretrained`` here and in transformers loads; of ``ours``, if the model's
        own tensors are not whole, as many processes share them out."""
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        config = {"architectures": [self.architecture], "dtype": dtype, **self.config.to_dict()}
        files.write(local_dir, config, self.named_tensors(ours))
