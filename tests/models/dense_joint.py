"""Text and picture in plain torch, row by row without any padding: the oracle of UNITER and UNIMO."""

from __future__ import annotations

import math
from itertools import permutations
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

WORDS, WIDTH, INNER, HEADS, LAYERS, PLACES = 61, 26, 37, 2, 2, 24
FEATURES, CLASSES = 19, 7
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": PLACES,
    "image_embedding_size": FEATURES,
    "image_class_size": CLASSES,
}
Shapes = dict[str, tuple[int, ...]]


def noise(shapes: Shapes, scales: str, seed: int = 0) -> dict[str, Tensor]:
    """Tensors of noise; those whose names end with ``scales`` are about 1."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw) * 0.3 + name.endswith(scales) for name, shape in shapes.items()}


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


class Rows:
    """A transformer on one row ``(n, width)``. A family says what its parameters are called:
    ``linear(name, x)`` and ``norm(name, x)`` look them up, ``names`` are those of a layer."""

    names: ClassVar[dict[str, str]]

    def __init__(self, p: dict[str, Tensor]) -> None:
        self.p = {name: x.detach().clone().requires_grad_() for name, x in p.items()}

    def linear(self, name: str, x: Tensor) -> Tensor:
        raise NotImplementedError

    def norm(self, name: str, x: Tensor) -> Tensor:
        raise NotImplementedError

    @staticmethod
    def centred(x: Tensor, eps: float) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    def encoder(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """``keep (n, n)``: pairs of a query and a key that it sees."""
        for i in range(LAYERS):
            n = {part: name.format(i) for part, name in self.names.items()}
            q, k, v = (self.linear(n[part], x).reshape(len(x), HEADS, -1).transpose(0, 1) for part in "qkv")
            scores = q @ k.transpose(1, 2) / math.sqrt(WIDTH // HEADS)
            if keep is not None:
                scores = scores.masked_fill(~keep, -1e9)
            mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), WIDTH)
            x = self.norm(n["norm"], x + self.linear(n["out"], mixed))
            inner = gelu(self.linear(n["up"], x))
            x = self.norm(n["last"], x + self.linear(n["down"], inner))
        return x


def padded(rows: list[Tensor], size: int) -> Tensor:
    """Rows ``(n, ...)`` as ``(B, size, ...)``, 0 behind them."""
    return torch.stack([F.pad(row, (0, 0) * (row.dim() - 1) + (0, size - len(row))) for row in rows])


def cheapest(costs: Tensor) -> float:
    """The cost of optimal transport between uniform distributions over rows and columns: a linear
    program, whose solution is a matching if each row and column is there often enough."""
    m, n = costs.shape
    both = math.lcm(m, n)
    square = costs.repeat_interleave(both // m, 0).repeat_interleave(both // n, 1).tolist()
    return min(sum(square[i][j] for i, j in enumerate(order)) for order in permutations(range(both))) / both


def transport(costs: Tensor, beta: float, steps: int) -> Tensor:
    """Xie et al. 2018, algorithm 1, of one problem in float64, as it is printed."""
    m, n = costs.shape
    kernel, plan = torch.exp(-costs.double() / beta), torch.ones(m, n, dtype=torch.float64)
    a = torch.full((m,), 1 / m, dtype=torch.float64)
    for _ in range(steps):
        q = kernel * plan
        b = (1 / n) / (q.T @ a)
        a = (1 / m) / (q @ b)
        plan = torch.diag(a) @ q @ torch.diag(b)
    return plan
