"""UniLM's four modes: one model, four answers to who sees whom (Dong et al. 2019,
arXiv:1905.03197, sections 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from ....patterns import Band, causal, dense, prefix_lm
from .masking import BERT, corrupt, mask_tokens
from .packing import padded
from .pairs import Pair
from .spans import UNILM, choose_ngrams


@dataclass(frozen=True)
class Mode:
    """
    Args:
        share: Of the rows of a batch.
        types: token_type_ids of the first and the second segment (section 2.1: each mode has its
            own; the numbers are those of the authors' program).
        pattern: From the lengths of the first segments, ``(B,)`` with [SOS] and [EOS], to who
            sees whom.
    """

    share: float
    types: tuple[int, int]
    pattern: Callable[[Tensor], Band]


MODES = {
    "bidirectional": Mode(1 / 3, (0, 1), lambda first: dense),
    "seq2seq": Mode(1 / 3, (4, 5), prefix_lm),
    "left_to_right": Mode(1 / 6, (2, 2), lambda first: causal),
    "right_to_left": Mode(1 / 6, (3, 3), lambda first: causal.transpose()),
}


def draw_modes(rows: int, generator: torch.Generator | None = None) -> list[str]:
    """A mode for each of a batch's rows, in random order. Their numbers are the shares of the rows,
    rounded at random so that they are right in expectation.

    Example:
        >>> modes = draw_modes(330)
        >>> [modes.count(mode) for mode in MODES]
        [110, 110, 55, 55]
    """
    device = None if generator is None else generator.device
    bounds = torch.tensor([mode.share for mode in MODES.values()], dtype=torch.float64).cumsum(0)[:-1]
    # Evenly spaced points with one random shift: each mode's range holds its share of them.
    shift = torch.rand((), generator=generator, device=device, dtype=torch.float64).cpu()
    places = torch.bucketize((torch.arange(rows) + shift) / rows, bounds, right=True)
    names = list(MODES)
    order = torch.randperm(rows, generator=generator, device=device).tolist()
    return [names[places[i]] for i in order]


@dataclass
class ModeBatch:
    """The rows of a batch that have one mode, masked.

    Args:
        mode: Its name.
        input_ids, token_type_ids, labels: ``(B, S)``, padded on the right.
        lengths: ``(B,)``.
        pattern: For the attention of every layer.
        next_sentence_label: ``(B,)`` in the bidirectional mode.
    """

    mode: str
    input_ids: Tensor
    token_type_ids: Tensor
    labels: Tensor
    lengths: Tensor
    pattern: Band
    next_sentence_label: Tensor | None


def unilm_batches(
    rows: int,
    related: Iterable[Pair],
    consecutive: Iterable[Pair],
    *,
    first: int,
    last: int,
    padding: int,
    mask_id: int,
    words: int,
    rate: float = 0.15,
    generator: torch.Generator | None = None,
) -> Iterator[list[ModeBatch]]:
    """Batches of ``rows`` texts, each parted by mode (a mode without rows has no part), until the
    pairs run out.

    Cloze as in section 2.3: 15 % of the tokens, in either segment, one at a time in 80 % of the
    cases and as a bigram or trigram in the others; of the chosen 80 % become [MASK], 10 % a random
    word. The losses of the parts add up.

    Args:
        related: Pairs for the bidirectional mode (:func:`next_sentence_pairs`).
        consecutive: Pairs for the others (:func:`consecutive_pairs`): source and target, or joined
            to one segment.
        first, last: Ids of [SOS] and [EOS].
        words: Size of the vocabulary.

    Example:
        >>> pairs = [Pair([5, 6], [7], 0)] * 12
        >>> ids = {"first": 1, "last": 2, "padding": 0, "mask_id": 3, "words": 9}
        >>> [batch] = unilm_batches(12, pairs, pairs, rate=0.0, **ids)
        >>> for part in batch:
        ...     print(part.mode, part.input_ids.shape, part.input_ids[0].tolist(), part.token_type_ids[0].tolist())
        bidirectional torch.Size([4, 6]) [1, 5, 6, 2, 7, 2] [0, 0, 0, 0, 1, 1]
        seq2seq torch.Size([4, 6]) [1, 5, 6, 2, 7, 2] [4, 4, 4, 4, 5, 5]
        left_to_right torch.Size([2, 5]) [1, 5, 6, 7, 2] [2, 2, 2, 2, 2]
        right_to_left torch.Size([2, 5]) [1, 5, 6, 7, 2] [3, 3, 3, 3, 3]
    """
    if rows < 1:
        raise ValueError(f"rows: at least 1 is allowed, got {rows}")
    sources = {**dict.fromkeys(MODES, iter(consecutive)), "bidirectional": iter(related)}
    while True:
        drawn = draw_modes(rows, generator)
        taken = {name: list(islice(sources[name], drawn.count(name))) for name in MODES}
        if sum(map(len, taken.values())) < rows:
            return
        batch = []
        for name, pairs in taken.items():
            if pairs:
                ids, types, lengths, prefix = _rows(pairs, MODES[name].types, first, last, padding)
                masked, labels = _cloze(ids, lengths, first, last, mask_id, words, rate, generator)
                relation = torch.tensor([pair.label for pair in pairs]) if name == "bidirectional" else None
                batch.append(ModeBatch(name, masked, types, labels, lengths, MODES[name].pattern(prefix), relation))
        yield batch


def mask_targets(
    input_ids: Tensor,
    lengths: Tensor,
    source_lengths: Tensor,
    *,
    mask_id: int,
    words: int,
    rate: float = 0.7,
    shares: tuple[float, float] = BERT,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The cloze of fine-tuning for generation (section 2.5; 0.7 is section 3.1's rate for summaries):
    words of the target alone, its [EOS] among them, so that a model learns where to end.

    Args:
        input_ids: ``(B, S)``, [SOS] source [EOS] target [EOS], padded on the right.
        lengths, source_lengths: ``(B,)``, of the rows and of their sources with [SOS] and [EOS].
        mask_id, words, shares: As for :func:`corrupt`.

    Returns:
        ``(input_ids, labels)``; labels are -100 where nothing was chosen.

    Example:
        >>> text = torch.tensor([[1, 5, 2, 6, 2, 0]])
        >>> _, labels = mask_targets(text, torch.tensor([5]), torch.tensor([3]), mask_id=3, words=9, rate=1.0)
        >>> labels
        tensor([[-100, -100, -100,    6,    2, -100]])
    """
    place = torch.arange(input_ids.shape[1], device=input_ids.device)
    others = (place < source_lengths[:, None]) | (place >= lengths[:, None])
    return mask_tokens(input_ids, others, mask_id=mask_id, words=words, rate=rate, shares=shares, generator=generator)


def _rows(
    pairs: Sequence[Pair], types: tuple[int, int], first: int, last: int, padding: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(ids, types, lengths, lengths of the first segments)``; where both segments have one type
    they are one segment."""
    if types[0] == types[1]:
        ids = [[first, *pair.first, *pair.second, last] for pair in pairs]
        batch, lengths = padded(ids, padding)
        return batch, torch.full_like(batch, types[0]), lengths, lengths
    rows = [pair.row(first=first, last=last) for pair in pairs]
    batch, lengths = padded([ids for ids, _ in rows], padding)
    segments, _ = padded([[types[segment] for segment in of] for _, of in rows], types[1])
    return batch, segments, lengths, torch.tensor([of.count(0) for _, of in rows])


def _cloze(
    ids: Tensor, lengths: Tensor, first: int, last: int, mask_id: int, words: int, rate: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    place = torch.arange(ids.shape[1])
    special = (ids == first) | (ids == last) | (place >= lengths[:, None])
    chosen = choose_ngrams(place.where(~special, -1), lengths=UNILM, rate=rate, generator=generator)
    return corrupt(ids, chosen, mask_id=mask_id, words=words, shares=BERT, generator=generator)
