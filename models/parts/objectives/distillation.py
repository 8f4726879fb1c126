"""A student that learns from a teacher: DistilBERT's triple loss, and what others share of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .real import real_tokens

DISTILBERT = (0, 2, 4, 7, 9, 11)
"""The teacher's layers that become the student's (Sanh et al. 2019, arXiv:1910.01108, section 3:
every other one; these are the authors')."""


def soft_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """Mean over rows of ``T² KL(softmax(teacher / T) || softmax(student / T))`` (Hinton et al. 2015,
    arXiv:1503.02531, section 2; T² keeps the gradients' size). The teacher gets no gradient.

    Args:
        student, teacher: Logits ``(n, V)``.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> float(soft_loss(x, x + 3))
        0.0
    """
    s = F.log_softmax(student / _positive(temperature), dim=-1)
    t = F.log_softmax(teacher.detach() / temperature, dim=-1)
    return temperature**2 * F.kl_div(s, t, reduction="batchmean", log_target=True)


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean over rows of the cross-entropy of ``softmax(teacher / T)`` and ``softmax(student / T)``:
    TinyBERT's prediction loss (Jiao et al. 2020, arXiv:1909.10351, equation 10). (The authors'
    program divides it by the number of classes as well.) The teacher gets no gradient.

    Args:
        student, teacher: Logits ``(n, classes)``.
    """
    return F.cross_entropy(student / _positive(temperature), F.softmax(teacher.detach() / temperature, dim=-1))


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of ``1 - cos(student, teacher)``, both ``(n, width)``. The teacher gets no
    gradient."""
    return 1 - F.cosine_similarity(student, teacher.detach(), dim=-1).mean()


def _positive(temperature: float) -> float:
    if not temperature > 0:
        raise ValueError(f"temperature: above 0 is allowed, got {temperature}")
    return temperature


class Taught(nn.Module):
    """A student and its teacher, who stays as he is: frozen, and in evaluation mode.

    Train ``student.parameters()``, and what else a loss says it learns.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Taught:
        super().train(mode)
        self.teacher.eval()
        return self


def depth(model: nn.Module) -> int:
    """How many layers its body has."""
    body: Any = model.body
    return len(body.layers)


@dataclass
class Triple:
    """``loss`` is the weighted sum of the other three."""

    loss: Tensor
    soft: Tensor
    masked: Tensor
    cosine: Tensor


class TripleLoss(Taught):
    """DistilBERT's loss (Sanh et al. 2019, arXiv:1910.01108, section 3): the teacher's softened
    predictions at every real token, masked LM, and the direction of the last hidden states.

    Args:
        student, teacher: Masked LMs of the same vocabulary and width.
        temperature: Of both softmaxes.
        weights: Of the three losses, in this order; those of the authors' programs.

    Example:
        >>> from pkernels.models import bert, build
        >>> tiny = {"vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
        >>> teacher = build("BertForMaskedLM", bert.Config(num_hidden_layers=12, **tiny))
        >>> student = build("BertForMaskedLM", bert.Config(num_hidden_layers=6, **tiny))
        >>> initialise_student(student, teacher)
        >>> triple = TripleLoss(student, teacher).eval()
        >>> out = triple(torch.tensor([[5, 3, 7]]), torch.tensor([[-100, 6, -100]]))
        >>> out.loss.shape
        torch.Size([])
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float = 2.0,
        weights: tuple[float, float, float] = (5.0, 2.0, 1.0),
    ) -> None:
        super().__init__(student, teacher)
        self.temperature, self.weights = _positive(temperature), weights

    def forward(self, input_ids: Tensor, labels: Tensor, **arguments: Any) -> Triple:
        """The losses of a masked batch: ``input_ids`` and ``labels (B, S)`` of :func:`mask_tokens`,
        ``arguments`` for both models."""
        student = self.student(input_ids, labels=labels, output_hidden_states=True, **arguments)
        with torch.no_grad():
            teacher = self.teacher(input_ids, output_hidden_states=True, **arguments)
        real = real_tokens(input_ids, **arguments)
        soft = soft_loss(student.logits[real], teacher.logits[real], self.temperature)
        cosine = cosine_loss(student.hidden_states[-1][real], teacher.hidden_states[-1][real])
        losses = (soft, student.loss, cosine)
        return Triple(sum(w * x for w, x in zip(self.weights, losses, strict=True)), *losses)


def initialise_student(student: nn.Module, teacher: nn.Module, layers: Sequence[int] = DISTILBERT) -> None:
    """The student starts as the teacher with some of its layers: layer i is ``layers[i]`` of the
    teacher, everything else (embeddings, head) what the teacher has under the same name.

    Raises:
        ValueError: If the student has another number of layers, or the teacher lacks a layer or a
            tensor, or has it in another shape (all are listed).
    """
    if len(layers) != depth(student):
        raise ValueError(f"layers: {depth(student)} (the student's) are allowed, got {len(layers)}")
    if not all(0 <= layer < depth(teacher) for layer in layers):
        raise ValueError(f"layers: 0 to {depth(teacher) - 1} (the teacher's) are allowed, got {tuple(layers)}")

    def source(name: str) -> str:
        return re.sub(r"^body\.layers\.(\d+)\.", lambda found: f"body.layers.{layers[int(found[1])]}.", name)

    mine, theirs = student.state_dict(), teacher.state_dict()
    wrong = [
        f"{name} ({tuple(tensor.shape)}, the teacher: {tuple(theirs[name].shape) if name in theirs else 'none'})"
        for name, tensor in ((source(name), tensor) for name, tensor in mine.items())
        if name not in theirs or theirs[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"teacher: one that has the student's tensors is allowed, got {', '.join(wrong)}")
    student.load_state_dict({name: theirs[source(name)] for name in mine})
