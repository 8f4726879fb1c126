"""Beam search: several texts of each row at once, and the best of those that ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .scores import processed
from .writing import Ends, Prompt, Rules, Settings, Writer

NEVER = -1e9  # as good as impossible, yet finite: it is added to


@dataclass(frozen=True)
class Beams:
    """Some texts of each row, the best first.

    Args:
        ids: ``(B, K, total)``.
        scores: ``(B, K)``; of running texts log-probabilities, of ended ones also divided by a
            power of the length.
        ended: ``(B, K)`` booleans.
        sizes: ``(B, K)`` new words.
    """

    ids: Tensor
    scores: Tensor
    ended: Tensor
    sizes: Tensor

    def at(self, places: Tensor) -> Beams:
        """Those at ``places (B, n)``."""
        ids = self.ids.gather(1, places[..., None].expand(-1, -1, self.ids.shape[2]))
        return Beams(ids, *(x.gather(1, places) for x in (self.scores, self.ended, self.sizes)))

    def beside(self, other: Beams, count: int) -> Beams:
        """The ``count`` best of both."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        both = Beams(*(torch.cat(pair, 1) for pair in pairs))
        return both.at(both.scores.topk(count).indices)


def search(model: Writer, prompt: Prompt, settings: Settings, ends: Ends) -> Tensor:
    """:func:`generation.generate` of a prompt with ``num_beams``, by the prompt's rules. Transformers': of the
    ``2 num_beams`` best continuations (or more, with several ends) those that have not ended run
    on; an ended one counts if it is among the first ``num_beams``."""
    if settings.early_stopping is None:
        settings = replace(settings, early_stopping=prompt.rules.early_stopping)
    count, start = settings.num_beams, prompt.ids.shape[1]
    rows, room = len(prompt.ids), settings.room(start)
    prompt = prompt.repeated(count)
    running, finished = _empty(prompt.ids, count, room, ends.padding)
    steps, scores = settings.steps(prompt, ends), prompt.scores
    length = partial(_length, prompt.rules, settings.length_penalty)
    looked_at = count * prompt.rules.looked_at(len(ends.words))
    open_ = torch.ones(rows, 1, dtype=torch.bool, device=scores.device)
    for size in range(1, room + 1):
        if size > 1:
            scores = model.step(running.ids[:, :, start + size - 2].flatten(), prompt.caches)
        texts = running.ids[:, :, : start + size - 1].flatten(0, 1)
        logs = processed(texts, scores.float().log_softmax(-1), steps)
        found, origins = _continued(running, logs, start + size - 1, looked_at, ends)
        if size == room:
            found.ended.fill_(True)
        order = (found.scores + NEVER * found.ended).topk(count).indices
        # Ended ones among them stay where there are no others, and win nothing.
        running = found.at(order)
        running = Beams(running.ids, running.scores + NEVER * running.ended, running.ended, running.sizes)
        finished = finished.beside(_counted(found, finished, open_, length(size), settings), count)
        open_ = open_ & _may_win(running, finished, length(room if _far(settings) else size))
        enough = settings.early_stopping is True and bool(finished.ended.all())
        if enough or not bool(open_.any()) or bool(found.ended.all()):
            break
        base = torch.arange(rows, device=order.device)[:, None] * count
        prompt.caches.reorder((base + origins.gather(1, order)).flatten())
    return _returned(finished, start, settings.num_return_sequences)


def _empty(ids: Tensor, count: int, room: int, pad: int) -> tuple[Beams, Beams]:
    """Running texts, of which only the first of each row can be continued (they are the same), and
    finished ones, of which there are none."""
    full = torch.nn.functional.pad(ids, (0, room), value=pad).unflatten(0, (-1, count))
    none = torch.full(full.shape[:2], NEVER, device=ids.device)
    first = none.clone()
    first[:, 0] = 0
    false, zero = (torch.zeros_like(none, dtype=dtype) for dtype in (torch.bool, torch.int64))
    return Beams(full, first, false, zero), Beams(full, none, false, zero)


def _length(rules: Rules, penalty: float, words: int) -> float:
    return rules.length(words, penalty)


def _far(settings: Settings) -> bool:
    """Whether the most that a text can come to is what it comes to at the end: scores fall, and so do lengths."""
    return settings.early_stopping == "never" and settings.length_penalty > 0


def _continued(running: Beams, logs: Tensor, place: int, looked_at: int, ends: Ends) -> tuple[Beams, Tensor]:
    """The best continuations by one word, which is put at ``place``; and which beam each continues."""
    words = logs.shape[-1]
    total = logs.unflatten(0, running.scores.shape) + running.scores[..., None]
    scores, places = total.flatten(1).topk(min(looked_at, total[0].numel()))
    origins = places // words
    found = running.at(origins)
    found.ids[:, :, place] = places % words
    return Beams(found.ids, scores, ends.among(places % words), found.sizes + 1), origins


def _counted(found: Beams, finished: Beams, open_: Tensor, length: float, settings: Settings) -> Beams:
    """Continuations as candidates of the finished texts: only those that ended in front, and none
    in rows that are closed."""
    front = torch.arange(found.scores.shape[1], device=found.scores.device) < settings.num_beams
    ended = found.ended & front
    scores = found.scores / length
    if settings.early_stopping is True:
        scores = scores + NEVER * finished.ended.all(1, keepdim=True)
    return Beams(found.ids, scores + NEVER * ~open_ + NEVER * ~ended, ended, found.sizes)


def _may_win(running: Beams, finished: Beams, length: float) -> Tensor:
    """``(B, 1)``: whether the best running text can still come among the finished ones."""
    hoped = running.scores[:, :1] / length
    worst = finished.scores.min(1, keepdim=True).values.where(finished.ended, NEVER)
    return (hoped > worst).any(1, keepdim=True)


def _returned(finished: Beams, start: int, count: int) -> Tensor:
    ids, sizes = finished.ids[:, :count].flatten(0, 1), finished.sizes[:, :count]
    return ids[:, : start + int(sizes.max())]
