"""Masked LM: which tokens are chosen, and what stands in their place.

The two are apart: a way to choose returns booleans, and a way to corrupt takes them. So every
choice of tokens, words or spans goes with every corruption.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..layouts import IGNORED

BERT = (0.8, 0.1)
"""Shares of the chosen that become [MASK] and a random word; the others stay (Devlin et al. 2019,
arXiv:1810.04805, section 3.1, task 1)."""
ELECTRA = (0.85, 0.0)
"""The same of ELECTRA's generator (Clark et al. 2020, arXiv:2003.10555; the authors' code, ``mask``,
which draws 15 % of a row's places with replacement, so some twice)."""


def choose_tokens(special: Tensor, *, rate: float = 0.15, generator: torch.Generator | None = None) -> Tensor:
    """Each token by itself, with probability ``rate``.

    Args:
        special: Booleans of any shape: [CLS], [SEP] and padding, never chosen.

    Returns:
        Booleans of the same shape.

    Example:
        >>> choose_tokens(torch.tensor([True, False, False]), rate=1.0)
        tensor([False,  True,  True])
    """
    check_rate(rate)
    if special.dtype != torch.bool:
        raise ValueError(f"special: booleans are allowed, got {special.dtype}")
    return (torch.rand(special.shape, generator=generator, device=special.device) < rate) & ~special


def corrupt(
    input_ids: Tensor,
    chosen: Tensor,
    *,
    mask_id: int,
    words: int,
    shares: tuple[float, float] = BERT,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Masked LM's input and labels, given the chosen tokens.

    Args:
        input_ids: Integers of any shape.
        chosen: Booleans of the same shape.
        mask_id: Id of [MASK].
        words: Size of the vocabulary that random words come from.
        shares: Of the chosen, those that become [MASK] and those that become a random word.

    Returns:
        ``(input_ids, labels)``; labels are -100 where nothing was chosen.

    Example:
        >>> corrupt(torch.tensor([5, 6, 7]), torch.tensor([False, True, False]), mask_id=3, words=9, shares=(1.0, 0.0))
        (tensor([5, 3, 7]), tensor([-100,    6, -100]))
    """
    same_shape("chosen", chosen, input_ids)
    fate = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
    hidden, random = fates(fate, chosen, shares)
    masked = input_ids.masked_fill(hidden, mask_id)
    masked = torch.where(random, random_words(input_ids, words, generator), masked)
    return masked, input_ids.masked_fill(~chosen, IGNORED)


def mask_tokens(
    input_ids: Tensor,
    special: Tensor,
    *,
    mask_id: int,
    words: int,
    rate: float = 0.15,
    shares: tuple[float, float] = BERT,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Masked LM's input and labels (Devlin et al. 2019, arXiv:1810.04805, section 3.1, task 1).

    Each token is chosen with probability ``rate``; of the chosen, 80 % become [MASK], 10 % a
    random word, and 10 % stay as they are. Called again whenever a text is seen again, it hides
    other tokens: dynamic masking (Liu et al. 2019, arXiv:1907.11692, section 4.1). Static
    masking is the same with :func:`static_generator`.

    Args:
        input_ids: Integers of any shape.
        special: Booleans of the same shape: [CLS], [SEP] and padding, never chosen.
        mask_id, words, shares: As for :func:`corrupt`.

    Returns:
        ``(input_ids, labels)``; labels are -100 where nothing was chosen.

    Example:
        >>> ids = torch.full((1, 1000), 7)
        >>> masked, labels = mask_tokens(ids, ids == 0, mask_id=3, words=10, rate=1.0)
        >>> bool((labels == 7).all()), round(float((masked == 3).float().mean()), 1)
        (True, 0.8)
    """
    check_rate(rate)
    same_shape("special", special, input_ids)
    chosen = choose_tokens(special, rate=rate, generator=generator)
    return corrupt(input_ids, chosen, mask_id=mask_id, words=words, shares=shares, generator=generator)


def static_generator(seed: int, text: int, epoch: int, *, copies: int = 10) -> torch.Generator:
    """A generator that draws the same for a text in every ``copies``-th epoch: static masking, where
    each text is masked beforehand in 10 ways (Devlin et al. 2019; Liu et al. 2019,
    arXiv:1907.11692, section 4.1). Nothing has to be stored.

    Args:
        text: Number of the text.
        copies: Ways to mask each text, 1 for the same one in all epochs.

    Example:
        >>> first, last = (static_generator(0, text=7, epoch=epoch) for epoch in (3, 33))
        >>> torch.equal(torch.rand(9, generator=first), torch.rand(9, generator=last))
        True
    """
    if copies < 1:
        raise ValueError(f"copies: at least 1 is allowed, got {copies}")
    digest = hashlib.blake2b(f"{seed} {text} {epoch % copies}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


def fates(draw: Tensor, chosen: Tensor, shares: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """``(hidden, random)``: the chosen that fall into the two shares, by uniform draws."""
    hide, swap = shares
    if min(shares) < 0 or hide + swap > 1 + 1e-9:
        raise ValueError(f"shares: two shares with a sum of at most 1 are allowed, got {shares}")
    return chosen & (draw < hide), chosen & (draw >= hide) & (draw < hide + swap)


def random_words(input_ids: Tensor, words: int, generator: torch.Generator | None) -> Tensor:
    """A random word for every token."""
    return torch.randint(words, input_ids.shape, generator=generator, device=input_ids.device).to(input_ids.dtype)


def check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: in [0, 1] is allowed, got {rate}")


def same_shape(name: str, booleans: Tensor, input_ids: Tensor) -> None:
    if booleans.shape != input_ids.shape or booleans.dtype != torch.bool:
        raise ValueError(
            f"{name}: booleans of shape {tuple(input_ids.shape)} are allowed, "
            f"got {booleans.dtype} of {tuple(booleans.shape)}"
        )
