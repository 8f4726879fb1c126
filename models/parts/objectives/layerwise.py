"""TinyBERT's losses, layer by layer (Jiao et al. 2020, arXiv:1909.10351, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..attention import SelfAttention, split_heads
from ..layouts import Packed, Unpadded, Whole
from .distillation import Taught, depth
from .real import real_tokens
from .scores import score_loss


@dataclass
class Layerwise:
    """``loss`` is the sum of the next three; ``hidden`` and ``attention`` are sums over layers. ``last
    (B, S, width)``: the student's last states as the teacher would have them."""

    loss: Tensor
    embedding: Tensor
    hidden: Tensor
    attention: Tensor
    last: Tensor


class LayerwiseLoss(Taught):
    """Embeddings, hidden states and attention scores as the teacher's (equations 7 to 9, each with
    weight 1): the general stage, and the first half of the task stage, whose other half is
    :func:`soft_cross_entropy` of the logits.

    All are mean squared errors over real tokens (the authors' programs count padding too). Scores
    are compared before the softmax, tile by tile (:func:`score_loss`), so student and teacher need
    as many heads.

    Args:
        student, teacher: Models whose bodies attend by ``SelfAttention``.
        project: From the student's width to the teacher's, for embeddings and hidden states alike
            as in the authors' programs; to be trained with the student. (By equations 8 and 9 the
            two have matrices of their own.)
        layers: For each layer of the student the teacher's that it learns from, counted from 1
            as in section 3: the uniform ``g(m) = m N / M`` if not given.

    Example:
        >>> from pkernels.models import bert, build
        >>> tiny = {"vocab_size": 50, "num_attention_heads": 2, "intermediate_size": 8}
        >>> teacher = build("BertModel", bert.Config(num_hidden_layers=4, hidden_size=12, **tiny))
        >>> student = build("BertModel", bert.Config(num_hidden_layers=2, hidden_size=8, **tiny))
        >>> loss = LayerwiseLoss(student, teacher, nn.Linear(8, 12))
        >>> loss.layers, loss(torch.tensor([[5, 6, 7]])).loss.shape
        ((2, 4), torch.Size([]))
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, project: nn.Module, *, layers: Sequence[int] | None = None
    ) -> None:
        super().__init__(student, teacher)
        self.project = project
        self.layers = _mapping(depth(student), depth(teacher), layers)

    def forward(self, input_ids: Tensor, **arguments: Any) -> Layerwise:
        """The losses of a batch; ``arguments`` are for both models."""
        with recorded(self.student) as mine:
            student = self.student(input_ids, output_hidden_states=True, **arguments).hidden_states
        with torch.no_grad(), recorded(self.teacher) as theirs:
            teacher = self.teacher(input_ids, output_hidden_states=True, **arguments).hidden_states
        real = real_tokens(input_ids, **arguments)

        embedding, *hiddens = (self.project(x) for x in student)

        def states(x: Tensor, layer: int) -> Tensor:
            return nn.functional.mse_loss(x[real], teacher[layer][real])

        of_layers = [states(x, layer) for x, layer in zip(hiddens, self.layers, strict=True)]
        embedding, hidden = states(embedding, 0), torch.stack(of_layers).sum()
        scores = [self._scores(mine[m], theirs[layer - 1]) for m, layer in enumerate(self.layers)]
        attention = torch.stack(scores).sum()
        return Layerwise(embedding + hidden + attention, embedding, hidden, attention, hiddens[-1])

    @staticmethod
    def _scores(mine: Scores, theirs: Scores) -> Tensor:
        return score_loss(mine.q, mine.k, theirs.q, theirs.k, real=mine.real)


def _mapping(mine: int, theirs: int, layers: Sequence[int] | None) -> tuple[int, ...]:
    if layers is None:
        if theirs % mine:
            raise ValueError(f"layers: needed, as {theirs} layers of the teacher do not part evenly into {mine}")
        return tuple(range(theirs // mine, theirs + 1, theirs // mine))
    if len(layers) != mine or not all(1 <= layer <= theirs for layer in layers):
        raise ValueError(f"layers: {mine} numbers from 1 to {theirs} are allowed, got {tuple(layers)}")
    return tuple(layers)


@dataclass
class Scores:
    """What a layer's scores are made of: ``q`` and ``k (B, H, S, D)``, and which of the tokens are
    ``real (B, S)``."""

    q: Tensor
    k: Tensor
    real: Tensor


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Scores]]:
    """Collects the ``Scores`` of every ``SelfAttention`` that is called meanwhile, in order.

    Example:
        >>> attention = SelfAttention(12, heads=3)
        >>> with recorded(attention) as found:
        ...     x = attention(torch.randn(2, 5, 12), Whole(2, 5, torch.device("cpu")))
        >>> found[0].q.shape
        torch.Size([2, 3, 5, 4])
    """
    found: list[Scores] = []
    projected: dict[nn.Module, Tensor] = {}

    def keep(qkv: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        projected[qkv] = output

    def note(attention: SelfAttention, inputs: tuple[Any, ...], output: Tensor) -> None:
        q, k, _ = split_heads(projected.pop(attention.qkv), 3, attention.heads)
        layout = inputs[1]
        real = _apart(layout, q.new_ones(q.shape[0], 1, q.shape[2], 1))[:, 0, :, 0].bool()
        found.append(Scores(_apart(layout, q), _apart(layout, k), real))

    modules = [module for module in model.modules() if isinstance(module, SelfAttention)]
    if not modules:
        raise ValueError("model: one with SelfAttention layers is allowed, got none")
    hooks = [module.qkv.register_forward_hook(keep) for module in modules]
    hooks += [module.register_forward_hook(note) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _apart(layout: Whole, x: Tensor) -> Tensor:
    """``(b, H, n, D)`` of the layout's tokens -> ``(B, H, S, D)``, a row for each sequence."""
    x = x.transpose(1, 2)
    if isinstance(layout, Packed) and not isinstance(layout, Unpadded):
        x = pad_sequence(list(x[0].split(layout.offsets.diff().tolist())), batch_first=True)
    else:
        x = layout.unpack(x)
    return x.transpose(1, 2)
