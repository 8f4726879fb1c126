"""What was hidden of a picture, told from the states of its regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .heads import MaskedLM, States, token_loss
from .joint import JointStates
from .layers import ACTIVATIONS
from .layouts import IGNORED
from .linear import Linear, linear
from .objectives.regions import check_shape, divergence_loss, feature_loss
from .outputs import Prediction


@dataclass
class PairPreTraining:
    """``prediction_logits (B, T, V)`` of words, ``region_features (B, R, D)``, ``region_logits (B, R, C)``,
    ``matching_logits (B, 2)`` (1 is: they belong together); the loss is the sum of the losses asked for."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    region_features: Tensor | None = None
    region_logits: Tensor | None = None
    matching_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


torch.export.register_dataclass(PairPreTraining)


class Transform(nn.Module):
    """``norm(act(dense(x)))``."""

    def __init__(self, width: int, *, act: str, eps: float) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.act = ACTIVATIONS[act]
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(x)))


class RegionPredictor(Transform):
    """``decoder(norm(act(dense(x))))`` of each region: classes or features."""

    def __init__(self, width: int, out: int, *, act: str = "gelu", eps: float) -> None:
        super().__init__(width, act=act, eps=eps)
        self.decoder = Linear(width, out)

    def forward(self, states: JointStates) -> Tensor:  # type: ignore[override]
        return self.decoder(super().forward(part("regions", states).last))


class TiedFeatures(Transform):
    """Features of each region: the matrix that took them to states takes them back."""

    def __init__(self, width: int, features: int, *, act: str = "gelu", eps: float) -> None:
        super().__init__(width, act=act, eps=eps)
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, states: JointStates) -> Tensor:  # type: ignore[override]
        x = super().forward(part("regions", states).last)
        assert states.projection is not None
        return linear(x, states.projection.t(), self.bias)


def part(name: str, states: JointStates) -> States:
    """The states of the text or of the regions."""
    found: States | None = getattr(states, name)
    if found is None:
        raise ValueError(f"{'input_ids' if name == 'text' else 'regions'}: needed by this task, got None")
    return found


def regression(predicted: Tensor, targets: Tensor, states: JointStates) -> Tensor:
    """:func:`feature_loss` of ``predicted``, of the layout's regions, from ``targets (B, R, D)``."""
    layout = part("regions", states).layout
    check_shape("feature_targets", targets, (*layout.shape, predicted.shape[-1]))
    return feature_loss(predicted, layout.pack(targets), _masked(states))


def divergence(logits: Tensor, targets: Tensor, states: JointStates) -> Tensor:
    """:func:`divergence_loss` of ``logits``, of the layout's regions, from ``targets (B, R, C)``."""
    layout = part("regions", states).layout
    check_shape("class_probabilities", targets, (*layout.shape, logits.shape[-1]))
    return divergence_loss(logits, layout.pack(targets), _masked(states))


def classes(logits: Tensor, labels: Tensor, states: JointStates) -> Tensor:
    """Cross-entropy of ``labels (B, R)``, -100 where there is none."""
    try:
        loss = token_loss(part("regions", states).layout, logits, labels)
    except ValueError as error:
        raise ValueError(f"class_{error}") from error
    assert loss is not None
    return loss


def _masked(states: JointStates) -> Tensor:
    layout = part("regions", states).layout
    if states.masked is None:
        raise ValueError("masked_regions: needed by this task, got None")
    # As labels, so that padding is none.
    hidden = torch.where(states.masked, 1, IGNORED)
    return layout.labels(hidden) == 1


class HiddenParts(nn.Module):
    """Hidden words and regions, told from the states of a pair.

    Args:
        words, features, classes: From states to what is told of words or of regions.

    Args (of a call):
        labels: ``(B, T)``, words where they are hidden, else -100.
        feature_targets: ``(B, R, D)``, features; those of masked regions count.
        class_labels: ``(B, R)``, the detector's classes, else -100.
        class_probabilities: ``(B, R, C)``, its probabilities; those of masked regions count.
    """

    targets: tuple[str, ...] = ("labels", "feature_targets", "class_labels", "class_probabilities")

    def __init__(self, words: nn.Module, features: nn.Module, classes: nn.Module) -> None:
        super().__init__()
        self.words, self.features, self.classes = words, features, classes

    def tell(
        self, out: PairPreTraining, states: JointStates, targets: Mapping[str, Tensor], *, every: bool
    ) -> list[Tensor]:
        """Put what the targets ask for into ``out``, or all there is, and give the losses."""
        losses: list[Tensor] = []
        if "labels" in targets or (every and states.text is not None):
            text = part("text", states)
            found = self.words(text)
            losses += [loss for loss in [token_loss(text.layout, found, targets.get("labels"))] if loss is not None]
            out.prediction_logits = text.layout.unpack(found)
        if "feature_targets" in targets or (every and states.regions is not None):
            found = self.features(states)
            losses += [regression(found, x, states) for name, x in targets.items() if name == "feature_targets"]
            out.region_features = part("regions", states).layout.unpack(found)
        ways = {"class_labels": classes, "class_probabilities": divergence}
        if ways.keys() & targets or (every and states.regions is not None):
            found = self.classes(states)
            losses += [ways[name](found, x, states) for name, x in targets.items() if name in ways]
            out.region_logits = part("regions", states).layout.unpack(found)
        return losses


class TextCloze(MaskedLM):
    """The cloze alone: ``labels (B, T)``."""

    def forward(self, states: JointStates, labels: Tensor | None = None) -> Prediction:  # type: ignore[override]
        out = super().forward(part("text", states), labels)
        return Prediction(out.loss, out.logits, states.hidden_states)
