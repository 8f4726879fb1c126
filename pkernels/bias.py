"""What is added to the scores before the softmax, after ``scale`` has been applied."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Distance:
    """A bias that depends on the head and on ``k - q`` alone: T5's buckets, ALiBi.

    Args:
        values: ``(H, Sq + Sk - 1)`` or ``(1, Sq + Sk - 1)``, floating. The score of query
            row ``i`` and key column ``j`` gains ``values[h, j - i + Sq - 1]``; rows and
            columns are raw indices. For packed sequences (``offsets``) the width is odd and
            its middle belongs to ``j == i``: ``values[h, j - i + width // 2]``.

    The gradient is summed along diagonals in a fixed order, in O(S) memory.

    Example:
        >>> Distance(torch.zeros(12, 2 * 128 - 1)).values.shape
        torch.Size([12, 255])
    """

    values: Tensor

    def __post_init__(self) -> None:
        _check_floating("Distance.values", self.values, dims=2)


@dataclass(frozen=True, eq=False)
class Dense:
    """Any bias, written out.

    Args:
        values: Broadcastable to ``(B, H, Sq, Sk)`` from the right, floating, in q's dtype or
            float32. ``-inf`` masks a pair out. With packed sequences, rows and columns count
            from the start of each sequence.

    Costs O(Sq Sk) memory unless dimensions are broadcast; the gradient has the shape of
    ``values`` and sums over broadcast dimensions in a fixed order.

    Example:
        >>> Dense(torch.zeros(8, 1, 1, 128)).values.shape
        torch.Size([8, 1, 1, 128])
    """

    values: Tensor

    def __post_init__(self) -> None:
        _check_floating("Dense.values", self.values, dims=None)
        if not 1 <= self.values.dim() <= 4:
            raise ValueError(f"Dense.values: 1 to 4 dimensions are allowed, got {self.values.dim()}")


@dataclass(frozen=True, eq=False)
class Relative:
    """A bias by distance that depends on the query too: Transformer-XL, XLNet (Dai et al. 2019,
    arXiv:1901.02860, section 3.3; Yang et al. 2019, arXiv:1906.08237, section 2.5).

    Args:
        query: ``(B, H, Sq, Dr)`` in q's dtype and, where sequences are packed, in q's rows:
            queries for positions, such as ``q + position_bias``. Dr may differ from D.
        table: ``(H, Sq + Sk - 1, Dr)`` or ``(1, Sq + Sk - 1, Dr)`` in q's dtype: one row for each
            distance, in the order of the columns of :class:`Distance`. The score of query row
            ``i`` and key column ``j`` gains ``scale * query[b, h, i] . table[h, j - i + Sq - 1]``;
            rows and columns are raw indices. For packed sequences (``offsets``) the number of
            rows is odd and the middle one belongs to ``j == i``.

    ``scale`` is that of the call: as in the papers, both products are divided by ``sqrt(D)``.
    Both gradients are summed in a fixed order, in O(S) memory.

    Example:
        >>> bias = Relative(torch.zeros(8, 12, 128, 64), torch.zeros(12, 2 * 128 - 1, 64))
        >>> bias.table.shape
        torch.Size([12, 255, 64])
    """

    query: Tensor
    table: Tensor

    def __post_init__(self) -> None:
        _check_floating("Relative.query", self.query, dims=4)
        _check_floating("Relative.table", self.table, dims=3)
        if self.query.shape[3] != self.table.shape[2] or self.query.shape[3] == 0:
            raise ValueError(
                "Relative.table: query's last dimension, at least 1, is allowed, got "
                f"{tuple(self.table.shape)} beside {tuple(self.query.shape)}"
            )


Bias = Distance | Dense | Relative


def tensors_of(bias: Bias) -> tuple[Tensor, ...]:
    """What a bias holds, in the order in which it takes them.

    Example:
        >>> len(tensors_of(Distance(torch.zeros(12, 255))))
        1
    """
    return (bias.query, bias.table) if isinstance(bias, Relative) else (bias.values,)


def _check_floating(name: str, values: Tensor, dims: int | None) -> None:
    if not isinstance(values, Tensor) or not values.is_floating_point():
        given = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{name}: a floating tensor is allowed, got {given}")
    if dims is not None and values.dim() != dims:
        raise ValueError(f"{name}: {dims} dimensions are allowed, got shape {tuple(values.shape)}")


def alibi(heads: int, sq: int, sk: int | None = None, *, device: torch.device | str | None = None) -> Distance:
    """Linear biases of ALiBi, symmetric in the distance (Press et al. 2021,
    arXiv:2108.12409, section 3): ``-slope_h * |position of q - k|``, aligned bottom-right.

    Args:
        heads: Number of query heads.
        sq, sk: Numbers of queries and keys (``sk`` defaults to ``sq``).

    Example:
        >>> alibi(2, 2).values
        tensor([[-0.0625, -0.0000, -0.0625],
                [-0.0039, -0.0000, -0.0039]])
    """
    sk = sq if sk is None else sk
    if heads < 1:
        raise ValueError(f"heads: must be at least 1, got {heads}")
    power = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    # Between powers of two, the paper's code interleaves the slopes of the next power.
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
    distance = torch.arange(sq + sk - 1, device=device) - (sk - 1)
    return Distance(-torch.tensor(slopes, device=device)[:, None] * distance.abs())
