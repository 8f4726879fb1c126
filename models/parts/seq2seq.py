"""An encoder and a decoder that looks at what it encoded (Vaswani et al. 2017, arXiv:1706.03762,
section 3): what T5 and BART share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...bias import Distance
from .cache import Caches, Growing, Writing
from .crossing import Looked, Memory, Texts, layouts_of
from .embeddings import inputs_layout
from .heads import States
from .layouts import IGNORED, Whole
from .outputs import Encoding, Prediction, Seq2SeqEncoding, Seq2SeqPrediction, Seq2SeqSpan, Span
from .scores import ForcedLast
from .writing import Read


class Layer(nn.Module):
    """Self-attention, attention to a memory (a decoder's layer alone), then a feed-forward network,
    each in its residual wrapper."""

    def __init__(self, attention: nn.Module, feed_forward: nn.Module, cross: nn.Module | None = None) -> None:
        super().__init__()
        self.attention, self.cross, self.feed_forward = attention, cross, feed_forward

    def forward(self, x: Tensor, layout: Whole, bias: Distance | None = None, memory: Looked | None = None) -> Tensor:
        x = self.attention(x, layout, bias)
        if self.cross is not None:
            x = self.cross(x, layout, memory)
        return self.feed_forward(x)


class Stack(nn.Module):
    """Embeddings and layers of one side.

    Args:
        embeddings: From a layout, ``input_ids`` and ``inputs_embeds`` to hidden states.
        layers: Called as :class:`Layer` is.
        bias: From the longest sequence's tokens to a position bias, which all layers share.
        end: What the last layer's states go through.
    """

    def __init__(
        self,
        embeddings: nn.Module,
        layers: Iterable[nn.Module],
        *,
        bias: nn.Module | None = None,
        end: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings, self.layers = embeddings, nn.ModuleList(layers)
        self.bias, self.end = bias, nn.Identity() if end is None else end

    @property
    def words(self) -> Tensor:
        """``(V, width)``, the table of word embeddings."""
        return self.embeddings.words.weight  # type: ignore[union-attr, return-value]

    def forward(
        self,
        layout: Whole,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None = None,
        memory: Memory | None = None,
        *,
        keep: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """The last states of the layout's tokens, and, to ``keep``, all of them, ``(B, S, width)`` each."""
        x = self.embeddings(layout, input_ids=input_ids, inputs_embeds=inputs_embeds)
        bias = None if self.bias is None else self.bias(layout.longest)
        trace = deque([x], maxlen=None if keep else 1)
        for layer in self.layers:
            trace.append(layer(trace[-1], layout, bias, memory))
        trace.append(self.end(trace.pop()))
        return trace[-1], tuple(layout.unpack(x) for x in trace) if keep else None

    def step(self, ids: Tensor, caches: Caches) -> Tensor:
        """The last states of words ``ids (B, n)`` that follow those in ``caches``."""
        *own, texts = cast(Any, caches.layers)
        batch, size = ids.shape
        start = own[0].size
        x = self.embeddings(Onward(batch, size, ids.device, start), input_ids=ids)
        bias = None if self.bias is None else self.bias(size, start + size)
        for i, (layer, cache) in enumerate(zip(self.layers, own, strict=True)):
            x = layer(x, Writing(batch, size, ids.device, cache), bias, texts[i])
        caches.lengths = caches.lengths + size
        return self.end(x)


class Onward(Whole):
    """Tokens ``(B, S)`` of which ``start`` others stand before."""

    def __init__(self, batch: int, size: int, device: torch.device, start: int) -> None:
        super().__init__(batch, size, device)
        self.start, self.longest = start, start + size

    def positions(self) -> Tensor:
        return super().positions() + self.start


class EncoderAlone(nn.Module):
    """A body that encodes and has no decoder."""

    def __init__(self, encoder: Stack) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> States:
        layout = inputs_layout(input_ids, inputs_embeds, attention_mask, lengths, offsets)
        last, states = self.encoder(layout, input_ids, inputs_embeds, keep=output_hidden_states)
        return States(last, layout, self.encoder.words, states)


@dataclass
class Decoded(States):
    """States of a decoder.

    Args:
        source: ``input_ids`` of the encoder, if it was given such.
        encoded: ``(B, S, width)``, its last states, and ``encoder_hidden_states`` all, if asked for.
    """

    source: Tensor | None = None
    encoded: Tensor | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None


class EncoderDecoder(nn.Module):
    """A body of both.

    Args:
        start: The word with which the decoder's texts begin.
        last: The word with which a text ends that had no room for more, if not any.
        shift: From ``input_ids`` and offsets to the decoder's, where none are given; without it
            they must be.
    """

    def __init__(
        self,
        encoder: Stack,
        decoder: Stack,
        *,
        start: int,
        last: int | None = None,
        shift: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.start, self.last, self.shift = start, last, shift

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Encoding | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        decoder_lengths: Tensor | None = None,
        offsets: Tensor | None = None,
        decoder_offsets: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Decoded:
        """States of the decoder's tokens.

        Args:
            input_ids: ``(B, S)``, or ``inputs_embeds (B, S, width)``.
            decoder_input_ids: ``(B, T)``, or ``decoder_inputs_embeds (B, T, width)``: what is to be
                predicted, a place to the right.
            attention_mask, decoder_attention_mask: ``(B, S)`` and ``(B, T)``, 0 for padding,
                anywhere; or ``lengths`` and ``decoder_lengths (B,)``, where it is on the right; or
                ``offsets`` and ``decoder_offsets (n + 1,)`` of packed texts, as many of each.
            encoder_outputs: What the encoder made of the source before, in its stead.
        """
        if decoder_input_ids is None and decoder_inputs_embeds is None and self.shift and input_ids is not None:
            decoder_input_ids = self.shift(input_ids, offsets)
            decoder_lengths, decoder_offsets = lengths, offsets
        states = None if encoder_outputs is None else encoder_outputs.last_hidden_state
        embeds = inputs_embeds if states is None else states
        ids = input_ids if states is None else None
        source, target = layouts_of(
            (ids, embeds, attention_mask, lengths, offsets),
            (decoder_input_ids, decoder_inputs_embeds, decoder_attention_mask, decoder_lengths, decoder_offsets),
        )
        if states is None:
            last, trace = self.encoder(source, input_ids, inputs_embeds, keep=output_hidden_states)
        else:
            last, trace = source.pack(states), None if encoder_outputs is None else encoder_outputs.hidden_states
        memory = Memory(last, source)
        out, kept = self.decoder(target, decoder_input_ids, decoder_inputs_embeds, memory, keep=output_hidden_states)
        return Decoded(out, target, self.decoder.words, kept, input_ids, source.unpack(last), trace)

    def prepare(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: Encoding | None = None,
        inputs_embeds: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        room: Callable[[int], int],
    ) -> Read:
        """Encode the source, and read the decoder's first words ``(B, P)``, by default ``start`` alone.
        The other arguments are :meth:`forward`'s; ``room`` as :class:`writing.Writer` has it."""
        given = (input_ids, inputs_embeds)
        if encoder_outputs is not None:
            given = (None, encoder_outputs.last_hidden_state)
        where = inputs_layout(*given, attention_mask, lengths, None, packs_up_to=0)
        if encoder_outputs is None:
            layout = inputs_layout(*given, attention_mask, lengths, None)
            states = layout.unpack(self.encoder(layout, *given)[0])
        else:
            states = encoder_outputs.last_hidden_state
        ids = decoder_input_ids
        if ids is None:
            ids = torch.full((where.shape[0], 1), self.start, device=where.device)
        if ids.dim() != 2 or ids.shape[0] != where.shape[0] or ids.shape[1] == 0:
            raise ValueError(f"decoder_input_ids: shape ({where.shape[0]}, P) is allowed, got {tuple(ids.shape)}")
        total = ids.shape[1] + room(ids.shape[1])
        # The last new word is not read.
        if total - 1 > cast(Any, self.decoder.embeddings).longest:
            longest = cast(Any, self.decoder.embeddings).longest + 1
            raise ValueError(
                f"max_new_tokens: a text of at most {longest} tokens (max_position_embeddings + 1) is allowed, "
                f"got {total}"
            )
        layers = [cast(Any, layer) for layer in self.decoder.layers]
        texts: Any = Texts([layer.cross.inner.pair(states) for layer in layers], where)
        none = torch.zeros(where.shape[0], dtype=torch.int64, device=where.device)
        caches = Caches([*(Growing(total - 1) for _ in layers), texts], none)
        steps = () if self.last is None else (ForcedLast(self.last, total),)
        return Read(self._states(self.decoder.step(ids, caches)[:, -1:]), caches, ids, steps=steps)

    def step(self, ids: Tensor, caches: Caches) -> States:
        """States of ``ids (B, n)``, the words that follow those in ``caches``."""
        return self._states(self.decoder.step(ids, caches))

    def _states(self, x: Tensor) -> States:
        return States(x, Whole(x.shape[0], x.shape[1], x.device), self.decoder.words)


def shifted(ids: Tensor, start: int, padding: int, offsets: Tensor | None = None) -> Tensor:
    """What a decoder reads to predict ``ids (B, T)``: ``start``, then all but the last; padding
    stands for ids that carry no loss (-100).

    Args:
        offsets: First places of the texts in a packed row, and its end.

    Example:
        >>> shifted(torch.tensor([[5, 6, 1, -100]]), start=0, padding=0)
        tensor([[0, 5, 6, 1]])
    """
    moved = ids.roll(1, -1)
    moved[..., 0 if offsets is None else offsets[:-1].to(ids.device)] = start
    return moved.masked_fill(moved == IGNORED, padding)


def shifted_labels(arguments: dict[str, Any], start: int, padding: int) -> dict[str, Any]:
    """Arguments of a call, with the decoder's out of ``labels (B, T)``, where they are not given."""
    labels = arguments.get("labels")
    given = [arguments.get(name) for name in ("decoder_input_ids", "decoder_inputs_embeds")]
    if not isinstance(labels, Tensor) or any(x is not None for x in given):
        return arguments
    ids = shifted(labels, start, padding, arguments.get("decoder_offsets"))
    return {**arguments, "decoder_input_ids": ids}


# Output of a head -> the same of a decoder, and what it tells of the task.
_OUTPUTS: dict[type, tuple[type, tuple[str, ...]]] = {
    Encoding: (Seq2SeqEncoding, ("last_hidden_state",)),
    Prediction: (Seq2SeqPrediction, ("loss", "logits")),
    Span: (Seq2SeqSpan, ("loss", "start_logits", "end_logits")),
}


class OfDecoder(nn.Module):
    """A head on a decoder's states, whose output tells of the encoder too."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task
        self.targets = task.targets

    @property
    def words(self) -> nn.Module:
        """What scores words, of tasks that do."""
        return cast(nn.Module, self.task.words)

    def forward(self, states: Decoded, **labels: Any) -> Seq2SeqEncoding | Seq2SeqPrediction | Seq2SeqSpan:
        out = self.task(states, **labels)
        kind, names = _OUTPUTS[type(out)]
        return kind(
            **{name: getattr(out, name) for name in names},
            decoder_hidden_states=out.hidden_states,
            encoder_last_hidden_state=states.encoded,
            encoder_hidden_states=states.encoder_hidden_states,
        )
