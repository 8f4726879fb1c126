"""Replaced token detection: a generator and a discriminator (ELECTRA: Clark et al. 2020,
arXiv:2003.10555, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ..layouts import IGNORED
from .real import real_tokens


@dataclass
class Detection:
    """What came of a batch: ``loss`` is ``generator_loss + weight * discriminator_loss``;
    ``input_ids (B, S)`` is what the discriminator saw, ``replaced (B, S)`` says where that is not
    the text, ``logits (B, S)`` are its answers."""

    loss: Tensor
    generator_loss: Tensor
    discriminator_loss: Tensor
    input_ids: Tensor
    replaced: Tensor
    logits: Tensor


class ReplacedTokens(nn.Module):
    """The generator fills in masked tokens, the discriminator tells which tokens are its own.

    Args:
        generator: A masked LM: called with input_ids, labels and the arguments of a call, it
            returns ``loss`` and ``logits (B, S, V)``.
        discriminator: Called with input_ids and the arguments, it returns ``logits (B, S)`` or
            ``(B, S, 1)``, above 0 for "replaced".
        weight: Of the discriminator's loss (lambda of section 2; 50 in appendix A).

    Tokens are sampled from the generator's distribution; no gradient goes through that. A token
    that the generator guessed right counts as original.

    Example:
        >>> from pkernels.models import bert, build
        >>> tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> generator = build("BertForMaskedLM", bert.Config(**tiny))
        >>> discriminator = build("BertForTokenClassification", bert.Config(labels=("replaced",), **tiny))
        >>> share_embeddings(generator, discriminator)
        >>> electra = ReplacedTokens(generator, discriminator)
        >>> out = electra(torch.tensor([[5, 3, 7]]), torch.tensor([[-100, 6, -100]]))
        >>> out.logits.shape, bool(out.replaced[0, 0])
        (torch.Size([1, 3]), False)
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, *, weight: float = 50.0) -> None:
        super().__init__()
        self.generator, self.discriminator, self.weight = generator, discriminator, weight

    def forward(
        self, input_ids: Tensor, labels: Tensor, *, draw: torch.Generator | None = None, **arguments: Any
    ) -> Detection:
        """The losses of a masked batch.

        Args:
            input_ids, labels: ``(B, S)``, of :func:`mask_tokens` with ``shares=ELECTRA``.
            draw: Where the sampled tokens come from.
            **arguments: For both models: attention_mask, lengths, token_type_ids, ...
        """
        filled = self.generator(input_ids, labels=labels, **arguments)
        chosen = labels != IGNORED
        original = torch.where(chosen, labels.to(input_ids.dtype), input_ids)
        seen = original.clone()
        seen[chosen] = sample(filled.logits[chosen], draw).to(seen.dtype)
        replaced = seen != original
        logits = self.discriminator(seen, **arguments).logits.reshape(input_ids.shape)
        found = replaced_loss(logits, replaced, real_tokens(input_ids, **arguments))
        return Detection(filled.loss + self.weight * found, filled.loss, found, seen, replaced, logits)


def sample(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One class for each row of ``logits (..., V)``, from its softmax: the largest of the logits
    with Gumbel noise added. Carries no gradient.

    Example:
        >>> sample(torch.tensor([[0.0, 100.0], [100.0, 0.0]]))
        tensor([1, 0])
    """
    with torch.no_grad():
        exponential = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator)
        return (logits.float() - exponential.log()).argmax(-1)


def replaced_loss(logits: Tensor, replaced: Tensor, real: Tensor) -> Tensor:
    """Mean binary cross-entropy over the real tokens; all three ``(B, S)``."""
    losses = F.binary_cross_entropy_with_logits(logits, replaced.to(logits.dtype), reduction="none")
    return losses.where(real, 0).sum() / real.sum()


def share_embeddings(generator: nn.Module, discriminator: nn.Module) -> None:
    """The generator's words, positions and segments become the discriminator's (section 3.2);
    their tables must be as wide. Word predictors that are tied to the words follow.

    Raises:
        ValueError: If a table of the generator has another shape.
    """
    bodies: Any = generator.body, discriminator.body
    mine, theirs = (body.embeddings for body in bodies)
    for name in ("words", "positions", "types"):
        table, shared = getattr(mine, name).weight, getattr(theirs, name).weight
        if table.shape != shared.shape:
            raise ValueError(
                f"generator: {name} of shape {tuple(shared.shape)}, the discriminator's, are allowed, "
                f"got {tuple(table.shape)}"
            )
    for name in ("words", "positions", "types"):
        setattr(mine, name, getattr(theirs, name))
