"""How far two sides are apart: the largest difference over the largest value of the peer's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from pkernels.models import Model, from_pretrained

from .. import pairs

Tensors = Mapping[str, Tensor]
Fields = Mapping[str, Tensor | None]
"""Name of an output -> which of its positions count (the others are padding), None for all."""


@dataclass(frozen=True)
class Agreement:
    """Largest differences, relative: of the worst output, and of all gradients together."""

    outputs: float
    gradients: float


def apart(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape, f"{tuple(got.shape)} instead of {tuple(want.shape)}"
    return float((got - want).detach().abs().max() / want.detach().abs().max())


def worst(differences: Iterable[float]) -> float:
    """The largest, or no number if one of them is none, which ``max`` would pass over."""
    return float(torch.tensor([*differences], dtype=torch.float64).max())


def outputs_apart(pairs_of: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The worst of pairs ``(ours, the peer's)``."""
    return worst(apart(got, want) for got, want in pairs_of)


def gradients_apart(got: Tensors, want: Tensors) -> float:
    """Of the same parameters on both sides."""
    assert set(got) == set(want), sorted(set(got) ^ set(want))
    largest = worst(float(x.abs().max()) for x in want.values())
    return worst(float((got[name] - x).abs().max()) for name, x in want.items()) / largest


def own_gradients(ours: Model) -> dict[str, Tensor]:
    """Under the names of files."""
    return dict(ours.named_tensors({n: p.grad for n, p in ours.named_parameters() if p.grad is not None}))


def their_gradients(oracle: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in oracle.named_parameters() if p.grad is not None}


def its_loss(out: Any) -> Tensor:
    return out.loss


def as_they_are(oracle: Any, ours: Model) -> None:
    """Both sides stay as they are."""


@dataclass(frozen=True)
class Transformers:
    """A model of transformers beside ours, both ways through files.

    Args:
        architecture, config: Its class, and a config of its kind.
        given: What both are called with.
        fields: What is compared; gradients are those of ``loss``.
        pair: From a folder, the architecture and the config to both.
        ready: What has to be done to both before they run.
        gradients: Theirs under the names of files.
    """

    architecture: str
    config: Any
    given: Mapping[str, Any]
    fields: Fields
    loss: Callable[[Any], Tensor] = its_loss
    pair: Callable[..., tuple[Any, Model]] = pairs.pair
    ready: Callable[[Any, Model], object] = as_they_are
    gradients: Callable[[Any], Tensors] = their_gradients

    def __call__(self, folder: Path) -> Agreement:
        """They save and we load."""
        oracle, ours = self.pair(folder, self.architecture, self.config)
        self.ready(oracle, ours)
        want, got = (model(**self.given) for model in (oracle, ours))
        outputs = self._outputs(got, want)
        for out in (want, got):
            self.loss(out).backward()
        return Agreement(outputs, gradients_apart(own_gradients(ours), self.gradients(oracle)))

    def files(self, folder: Path) -> None:
        """We save; they load, and so do we."""
        _, ours = self.pair(folder / "theirs", self.architecture, self.config)
        ours.save_pretrained(folder / "ours")
        kind = getattr(transformers, self.architecture)
        theirs, report = kind.from_pretrained(folder / "ours", output_loading_info=True)
        assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        again = from_pretrained(folder / "ours")
        assert again.config == ours.config
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
        self.ready(theirs.eval(), again)
        with torch.no_grad():
            assert self._outputs(again(**self.given), theirs(**self.given)) < 1e-5

    def _outputs(self, got: Any, want: Any) -> float:
        chosen = ((getattr(got, name), want[name], real) for name, real in self.fields.items())
        return outputs_apart((x, y) if real is None else (x[real], y[real]) for x, y, real in chosen)


def from_our_files(ours: Model, folder: Path) -> Model:
    """The model that we saved, after it has been found to be the same."""
    ours.save_pretrained(folder)
    again = from_pretrained(folder)
    assert again.config == ours.config and again.architecture == ours.architecture
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))
    return again
