"""Permutation language modelling: words are predicted in a random order, the last of it alone (Yang et al.
2019, arXiv:1906.08237, section 2.3; zihangdai/xlnet, ``data_utils.py``)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layouts import IGNORED
from .masking import same_shape
from .spans import inverse_lengths


def partial_spans(
    starts: Tensor,
    *,
    context: int = 6,
    longest: int = 5,
    count: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Spans of tokens, each with ``context`` times as many around it: about a share of 1 / (``context`` + 1).

    Row by row: a length n up to ``longest`` is drawn with p(n) in proportion to 1 / n; the span
    stands anywhere in ``context * n`` other tokens, but at the start of a word; the next one's
    begin behind those. One that would reach the row's last token is not taken.

    Args:
        starts: ``(B, S)`` booleans, where words start. A span has n tokens, whole words or not: so
            has the paper, and so does the authors' program.
        context: "mask_alpha" over "mask_beta" in the authors' program.
        count: Tokens to choose in each row exactly, S / K in the paper: the last span is cut, and single ones are
            drawn where spans were too few. As many as come out, if not given.

    Returns:
        ``(B, S)`` booleans.

    Example:
        >>> chosen = partial_spans(torch.ones(2, 512, dtype=torch.bool), count=85)
        >>> chosen.sum(1).tolist()
        [85, 85]
    """
    if starts.dim() != 2 or starts.dtype != torch.bool:
        raise ValueError(f"starts: booleans of shape (B, S) are allowed, got {starts.dtype} of {tuple(starts.shape)}")
    if context < 1 or longest < 1:
        raise ValueError(f"context, longest: at least 1 is allowed, got {context}, {longest}")
    if count is not None and not 0 <= count <= starts.shape[1]:
        raise ValueError(f"count: 0 to {starts.shape[1]} is allowed, got {count}")
    rows = [_spans(row.tolist(), context, longest, count, generator) for row in starts]
    return torch.stack(rows).to(starts.device)


def _spans(
    starts: list[bool], context: int, longest: int, count: int | None, generator: torch.Generator | None
) -> Tensor:
    """``(S,)`` booleans."""
    size, place, total = len(starts), 0, 0
    device = None if generator is None else generator.device
    share = torch.tensor(inverse_lengths(longest), device=device)
    chosen = torch.zeros(size, dtype=torch.bool)
    goal = size if count is None else count
    while place < size and total < goal:
        n = min(1 + int(torch.multinomial(share, 1, generator=generator)), goal - total)
        before = int(torch.randint(context * n, (1,), generator=generator, device=device))
        first = next((i for i in range(place + before, size) if starts[i]), size)
        if first + n >= size:
            break
        chosen[first : first + n] = True
        total += n
        place = first + n + context * n - before
    if count is not None and total < count:
        others = (~chosen).nonzero().squeeze(1)
        more = torch.randperm(len(others), generator=generator, device=device).cpu()[: count - total]
        chosen[others[more]] = True
    return chosen


def permutation_lm(
    input_ids: Tensor,
    chosen: Tensor,
    special: Tensor,
    *,
    split: int = 0,
    targets: int | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor | int]:
    """What XLNet is pre-trained on, of texts of which some tokens are ``chosen`` to be predicted.

    The chosen and the special tokens get a random order; the others come before all of them, so
    all may see them. Special tokens are not predicted: they wait for their turn, and see what
    came before it.

    Args:
        input_ids: ``(B, S)``.
        chosen, special: ``(B, S)`` booleans: of :func:`partial_spans`, and [SEP] and [CLS].
        split: Where the part begins that the next segment does not remember: the first ``split``
            tokens, the authors' "reuse_len", see none behind them, and have an order of their own.
        targets: Words to predict in each row, by default as many as the row with the most has.
            Of rows with fewer the rest predicts nothing.

    Returns:
        Arguments of the model: ``input_ids``, ``ranks (B, S)``, ``split``, ``target_mapping (B, P, S)``, and
        ``labels (B, P)``, -100 where nothing is predicted.

    Example:
        >>> ids = torch.tensor([[7, 8, 9, 4]])
        >>> given = permutation_lm(ids, torch.tensor([[False, True, False, False]]), ids == 4)
        >>> given["labels"], (given["ranks"] >= 0).int()
        (tensor([[8]]), tensor([[0, 1, 0, 1]], dtype=torch.int32))
    """
    same_shape("chosen", chosen, input_ids)
    same_shape("special", special, input_ids)
    size = input_ids.shape[1]
    if not 0 <= split < size:
        raise ValueError(f"split: 0 to {size - 1} is allowed, got {split}")
    predicted = chosen & ~special
    most = int(predicted.sum(1).max())
    targets = most if targets is None else targets
    if not most <= targets <= size:
        raise ValueError(f"targets: {most} (words to predict) to {size} is allowed, got {targets}")
    draw = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
    order = [part.argsort(1).argsort(1) for part in (draw[:, :split], draw[:, split:])]
    ranks = torch.cat(order, 1).where(chosen | special, -1)
    places = (~predicted).to(torch.int8).argsort(dim=1, stable=True)[:, :targets]
    some = predicted.gather(1, places)
    mapping = torch.nn.functional.one_hot(places, size).to(torch.float32) * some[..., None]
    labels = input_ids.gather(1, places).masked_fill(~some, IGNORED)
    return {"input_ids": input_ids, "ranks": ranks, "split": split, "target_mapping": mapping, "labels": labels}
