"""Attention that looks back past a segment, by distance: what Transformer-XL brought (Dai et al. 2019,
arXiv:1901.02860, section 3) and XLNet took over (Yang et al. 2019, arXiv:1906.08237, section 2.5).

A score has two products in which the query takes part: with the key (terms a and c of section 3.3) and
with an encoding of how far back the key stands (b and d). The second is :class:`pkernels.Relative`,
whose table has a row for each distance; nothing has a size of queries times keys.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layouts import Whole

Memories = tuple[Tensor, ...]
"""For each layer what went into it for the tokens before, ``(M, B, width)``: transformers' order, so
that either library goes on where the other left off."""


def rates(width: int, device: torch.device | None = None) -> Tensor:
    """Of the sinusoids, ``(width / 2,)``."""
    return 1 / 10000 ** (torch.arange(0.0, width, 2.0, device=device) / width)


def sinusoids(steps: Tensor, width: int) -> Tensor:
    """``steps (n,)`` -> ``(n, width)`` in float32: sines, then cosines (not in turn, as in Vaswani et al.
    2017, arXiv:1706.03762, section 3.5).

    Example:
        >>> sinusoids(torch.tensor([0]), 4)
        tensor([[0., 0., 1., 1.]])
    """
    angles = steps.float()[:, None] * rates(width, steps.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


def encodings(
    queries: int, keys: int, width: int, *, clamp: int, device: torch.device, ahead: int = 0, way: int = 1
) -> Tensor:
    """Encodings of all distances, in the order of a :class:`pkernels.Relative` table.

    Args:
        queries, keys: How many there are; the last ones stand beside each other.
        clamp: Distances beyond it count as this one; 0 or less for no such limit.
        ahead: How much further on the queries stand.
        way: -1 where the text is read backwards.

    Example:
        >>> encodings(2, 3, 4, clamp=0, device=torch.device("cpu")).shape
        torch.Size([4, 4])
    """
    steps = (torch.arange(keys - 1, -queries, -1, device=device) + ahead) * way
    return sinusoids(steps.clamp(-clamp, clamp) if clamp > 0 else steps, width)


class Biases(nn.Module):
    """What stands for the query's own place: ``content`` and ``position (heads, head)``, the papers' u
    and v (section 3.3)."""

    def __init__(self, heads: int, head: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.zeros(heads, head))
        self.position = nn.Parameter(torch.zeros(heads, head))

    def forward(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """``q (B, H, S, D)`` as it meets the keys, and as it meets the distances."""
        return q + self.content[:, None], q + self.position[:, None]


def with_memory(x: Tensor, memory: Tensor | None) -> Tensor:
    """Tokens ``(B, S, width)`` behind those remembered, ``(M, B, width)``."""
    return x if memory is None else torch.cat([memory.transpose(0, 1).to(x.dtype), x], 1)


def remember(x: Tensor, memory: Tensor | None, size: int | None, lengths: Tensor | None = None) -> Tensor:
    """The memory for the next segment: of what was remembered and ``x (B, S, width)`` the last ``size``,
    all if that is None. It carries no gradient (section 3.2, "SG"). Of each row the first ``lengths``
    tokens are real, if given; then there must be ``size`` of them with those remembered.

    Example:
        >>> remember(torch.tensor([[[3.0], [4.0]]]), torch.tensor([[[1.0]], [[2.0]]]), 3).flatten()
        tensor([2., 3., 4.])
    """
    all_ = with_memory(x.detach(), None if memory is None else memory.detach())
    ends = None if lengths is None else all_.shape[1] - x.shape[1] + lengths
    return last(all_, size, ends).transpose(0, 1)


def last(x: Tensor, size: int | None, ends: Tensor | None = None) -> Tensor:
    """``x (B, n, ...)`` -> its last ``size`` of n, or those before ``ends (B,)``."""
    if size is None or (ends is None and x.shape[1] <= size):
        return x
    if ends is None:
        return x[:, x.shape[1] - size :]
    places = ends[:, None] - size + torch.arange(size, device=x.device)
    return x.gather(1, places.reshape(*places.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))


def check_memories(mems: object, layers: int, layout: Whole, width: int) -> Memories | None:
    """``mems`` of a call: None, or one ``(M, B, width)`` for each layer, all of the same M."""
    if mems is None:
        return None
    given = tuple(mems) if isinstance(mems, (list, tuple)) else mems
    want = f"{layers} tensors (M, {layout.shape[0]}, {width})"
    if not isinstance(given, tuple) or len(given) != layers or not all(isinstance(x, Tensor) for x in given):
        found = f"{len(given)} values" if isinstance(given, tuple) else type(mems).__name__
        raise ValueError(f"mems: {want}, one for each layer, are allowed, got {found}")
    for x in given:
        if x.shape != (given[0].shape[0], layout.shape[0], width):
            raise ValueError(f"mems: {want} are allowed, got {tuple(x.shape)}")
    return given


class Sliding:
    """A cache (:mod:`cache`) of the last ``size`` keys and values in their order, as a bias by distance
    needs them; of all if ``size`` is None. New tokens see what was kept and one another.

    Example:
        >>> cache = Sliding(2)
        >>> for i in range(4):
        ...     keys, _ = cache.append(torch.full((1, 1, 1, 1), i), torch.zeros(1, 1, 1, 1))
        >>> keys.flatten().tolist()
        [1, 2, 3]
    """

    lengths: Tensor | None = None

    def __init__(self, size: int | None) -> None:
        self.size = size
        self.kept: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return 0 if self.kept is None else self.kept[0].shape[2]

    def append(self, k: Tensor, v: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen = self.beside(k, v)
        ends = None if lengths is None else len(self) + lengths
        k, v = (last(x.transpose(1, 2), self.size, ends).transpose(1, 2) for x in seen)
        self.kept = k, v
        return seen

    def beside(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept with ``k`` and ``v`` behind, which are not to be kept."""
        return (k, v) if self.kept is None else (torch.cat([self.kept[0], k], 2), torch.cat([self.kept[1], v], 2))

    def reorder(self, rows: Tensor) -> None:
        self.kept = None if self.kept is None else (self.kept[0][rows], self.kept[1][rows])
