"""An answer in a text, whose end is told by its start, and whether there is one: XLNet's task (Yang et al. 2019,
arXiv:1906.08237, section 3.3, SQuAD2.0; zihangdai/xlnet, ``function_builder.get_qa_outputs``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .heads import States, place_loss
from .linear import Linear, linear
from .outputs import Answers

NEVER = -1e30  # transformers' score of a token that may be in no answer


class Ends(nn.Module):
    """Scores of ends: ``dense_1(norm(tanh(dense_0([token, start]))))``."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.dense_0 = Linear(2 * width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dense_1 = Linear(width, 1)

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        """Tokens ``(B, S, width)`` and starts ``(B, n, width)`` -> ``(B, S, n)``."""
        tokens, begun = self.dense_0.weight.chunk(2, 1)  # rather than S n pairs of twice the width
        both = linear(x, tokens, self.dense_0.bias)[:, :, None] + linear(starts, begun)[:, None]
        return self.dense_1(self.norm(both.tanh())).squeeze(-1)


class Unanswerable(nn.Module):
    """``dense_1(tanh(dense_0([start, summary])))``: above 0 if there is no answer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense_0 = Linear(2 * width, width)
        self.dense_1 = Linear(width, 1, bias=False)

    def forward(self, start: Tensor, summary: Tensor) -> Tensor:
        """``(B, width)`` each -> ``(B,)``."""
        return self.dense_1(self.dense_0(torch.cat([start, summary], -1)).tanh()).squeeze(-1)


class BeamAnswers(nn.Module):
    """Where an answer starts, and for each of the likeliest starts where it ends.

    ``start_positions`` and ``end_positions (B,)`` give a loss, in which the end follows the true start;
    (or, if that is outside the text and has no loss, the summary); with ``is_impossible (B,)``, 1 where there is
    no answer, half of its binary cross-entropy is added.
    Without them the ``starts`` likeliest starts come out, and the ``ends`` likeliest ends of each.

    ``cls_index (B,)`` is the token that sums the text up, by default the last real one (transformers'
    ``is_impossible`` counts if that is given too); where ``p_mask (B, S)`` is 1, no answer starts or ends.
    A softmax runs over real tokens alone; in transformers over padding too, unless ``p_mask`` says so.
    """

    targets = ("start_positions", "end_positions", "is_impossible", "cls_index", "p_mask")

    def __init__(self, width: int, *, starts: int, ends: int, eps: float) -> None:
        super().__init__()
        self.starts, self.ends = starts, ends
        self.start = Linear(width, 1)
        self.end, self.unanswerable = Ends(width, eps=eps), Unanswerable(width)

    def forward(
        self,
        states: States,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        is_impossible: Tensor | None = None,
        cls_index: Tensor | None = None,
        p_mask: Tensor | None = None,
    ) -> Answers:
        x = states.layout.unpack(states.last)
        summary = states.layout.last(states.last) if cls_index is None else _at(x, cls_index[:, None])[:, 0]
        if len(summary) != len(x):
            raise ValueError("offsets: texts in rows, (B, S), are allowed where answers are looked for")
        real = states.layout.unpack(torch.ones_like(states.last[..., 0])) > 0
        if p_mask is not None and p_mask.shape != real.shape:
            raise ValueError(f"p_mask: shape {tuple(real.shape)} is allowed, got {tuple(p_mask.shape)}")

        def allowed(scores: Tensor) -> Tensor:
            """Of scores ``(B, S, n)``."""
            scores = scores if p_mask is None else scores.masked_fill(p_mask[..., None] > 0, NEVER)
            return scores.masked_fill(~real[..., None], float("-inf"))

        start = allowed(self.start(x)).squeeze(-1)
        if start_positions is None or end_positions is None:
            found = self._likeliest(x, start, summary, allowed)
            return replace(found, hidden_states=states.hidden_states, mems=states.mems)
        places = start_positions.reshape(-1, 1)
        inside = (places >= 0) & (places < x.shape[1])
        begun = _at(x, places.where(inside, 0)).where(inside[..., None], summary[:, None])
        end = allowed(self.end(x, begun)).squeeze(-1)
        loss = (place_loss(start, start_positions.flatten()) + place_loss(end, end_positions.flatten())) / 2
        if is_impossible is not None:
            none = self.unanswerable(begun[:, 0], summary)
            loss = loss + F.binary_cross_entropy_with_logits(none, is_impossible.flatten().to(none.dtype)) / 2
        return Answers(loss, hidden_states=states.hidden_states, mems=states.mems)

    def _likeliest(self, x: Tensor, start: Tensor, summary: Tensor, allowed: Callable[[Tensor], Tensor]) -> Answers:
        if x.shape[1] < max(self.starts, self.ends):
            raise ValueError(
                f"input_ids: at least {max(self.starts, self.ends)} tokens (start_n_top, end_n_top) are allowed, "
                f"got {x.shape[1]}"
            )
        probabilities = start.softmax(-1)
        likely, places = probabilities.topk(self.starts, -1)
        end = allowed(self.end(x, _at(x, places))).softmax(1)
        likely_ends, end_places = end.topk(self.ends, 1)
        mean = torch.einsum("bs,bsw->bw", probabilities, x)
        none = self.unanswerable(mean, summary)
        return Answers(None, likely, places, likely_ends.flatten(1), end_places.flatten(1), none)


def _at(x: Tensor, places: Tensor) -> Tensor:
    """``x (B, S, width)`` at ``places (B, n)``."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
