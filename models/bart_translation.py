"""BART's way to translate into the language that it was trained on (Lewis et al. 2019,
arXiv:1910.13461, sections 3.4 and 5.4).

A new encoder, with words of its own, takes the place of the encoder's word embeddings: it learns to
map the foreign words into something that BART can denoise. Training has two steps:

1. Nearly all of BART is frozen: what learns are the new encoder, BART's positions, and what its
   encoder's first layer makes queries, keys and values with.
2. For a few more steps everything learns.

Example:
    >>> import torch
    >>> from pkernels.models import bart, build
    >>> sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 9}
    >>> model = build("BartForConditionalGeneration", bart.Config(vocab_size=50, **sizes))
    >>> translator = Translator(model, source(bart.Config(vocab_size=70, **sizes)))
    >>> out = translator(torch.tensor([[0, 60, 61, 2]]), labels=torch.tensor([[0, 9, 2]]))
    >>> out.logits.shape
    torch.Size([1, 3, 50])
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import Tensor, nn

from .bart import Config, initialise, stack_of, words_of
from .parts.model import Model
from .parts.seq2seq import EncoderAlone, EncoderDecoder


def source(config: Config) -> EncoderAlone:
    """A new encoder of a foreign language: ``config`` is BART's with that language's ``vocab_size``,
    and ``encoder_layers``, 6 in the paper (section 5.4)."""
    encoder = EncoderAlone(stack_of(config, words_of(config), "encoder"))
    initialise(encoder, config)
    return encoder


class Translator(nn.Module):
    """BART behind an encoder of another language.

    Args:
        model: "BartForConditionalGeneration".
        source: As wide as BART (:func:`source`).

    Called with foreign ``input_ids (B, S)``, their ``attention_mask`` or ``lengths``, and the model's
    arguments for the decoder and its labels; returns what the model returns.
    """

    def __init__(self, model: Model, source: EncoderAlone) -> None:
        super().__init__()
        if model.architecture != "BartForConditionalGeneration":
            raise ValueError(f"model: a BartForConditionalGeneration is allowed, got {model.architecture}")
        width, wanted = (body.encoder.words.shape[1] for body in (source, cast(EncoderDecoder, model.body)))
        if width != wanted:
            raise ValueError(f"source: an encoder as wide as the model ({wanted}) is allowed, got {width}")
        self.model, self.source = model, source

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        **arguments: Any,
    ) -> Any:
        where = {"attention_mask": attention_mask, "lengths": lengths}
        states = self.source(input_ids, **where)
        return self.model(inputs_embeds=states.layout.unpack(states.last), **where, **arguments)

    def first_step(self) -> Iterator[nn.Parameter]:
        """Freeze what the first step does not train, and give the parameters that it does."""
        self.requires_grad_(False)
        body: Any = self.model.body
        positions = (stack.embeddings.positions for stack in (body.encoder, body.decoder))
        for module in (self.source, *positions, body.encoder.layers[0].attention.inner.qkv):
            module.requires_grad_(True)
        return (p for p in self.parameters() if p.requires_grad)

    def second_step(self) -> Iterator[nn.Parameter]:
        """Let everything learn, and give all parameters."""
        self.requires_grad_(True)
        return self.parameters()


__all__ = ["Translator", "source"]
