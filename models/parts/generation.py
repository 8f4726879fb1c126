"""``generate``: from a prompt word by word, with caches, under the names of transformers'."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from .beams import search
from .scores import Sampling, best, processed
from .writing import Ends, Prompt, Settings, Writer


@torch.no_grad()
def generate(model: Writer, *inputs: Any, **arguments: Any) -> Tensor:
    """The prompt and what the model writes after it, ``(B * num_return_sequences, P + n)``; of models that read
    a source, which is no part of what they write, P is 0 or what their texts begin with.

    Args:
        inputs, arguments: The fields of :class:`Settings`; the others are the model's
            (``input_ids (B, P)``, ``attention_mask``, ...).

    A batch may be padded on either side: new words come after column P - 1 in every row, and
    are those that the row would have got alone. A row that has ended is filled with padding.

    Raises:
        ValueError: Naming the argument.

    Example:
        >>> from pkernels.models import build, gpt2
        >>> model = build("GPT2LMHeadModel", gpt2.Config(n_embd=12, n_layer=1, n_head=3)).eval()
        >>> ids, mask = torch.tensor([[464, 3290], [0, 464]]), torch.tensor([[1, 1], [0, 1]])
        >>> generate(model, ids, mask, max_new_tokens=3, num_beams=2, eos_token_id=()).shape
        torch.Size([2, 5])
    """
    names = {field.name for field in fields(Settings)}
    given = {name: arguments.pop(name) for name in names & set(arguments)}
    settings = Settings(**given)
    ends = settings.ends(model.config)
    prompt = model.prepare(*inputs, room=settings.room, **arguments)
    if settings.num_beams > 1:
        return search(model, prompt, settings, ends)
    pick: Callable[[Tensor], Tensor] = best
    if settings.do_sample:
        pick = Sampling(settings.temperature, settings.top_k, settings.top_p, settings.generator)
    return _follow(model, prompt.repeated(settings.num_return_sequences), settings, ends, pick)


def _follow(model: Writer, prompt: Prompt, settings: Settings, ends: Ends, pick: Callable[[Tensor], Tensor]) -> Tensor:
    """A word after the other, each row for itself."""
    start = prompt.ids.shape[1]
    total = start + settings.room(start)
    ids = prompt.ids.new_full((len(prompt.ids), total), ends.padding)
    ids[:, :start] = prompt.ids
    steps, scores = settings.steps(prompt, ends), prompt.scores
    open_ = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    for place in range(start, total):
        if place > start:
            scores = model.step(ids[:, place - 1], prompt.caches)
        words = pick(processed(ids[:, :place], scores.float(), steps))
        ids[:, place] = words.where(open_, ends.padding)
        open_ &= ~ends.among(words)
        if ends.words and not bool(open_.any()):
            return ids[:, : place + 1]
    return ids
