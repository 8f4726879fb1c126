"""One attention problem, described in numbers: its tensors, its useful pairs, its FLOPs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pkernels import INF, Band, dense

SMALL = 197
"""Rows of the instance whose results are checked: a prime, so that no tile divides it."""


@dataclass(frozen=True)
class Workload:
    """Attention of ``queries`` over ``keys`` rows.

    Attributes:
        pattern: Which pairs are kept.
        bias: None, "distance" (one value per head and distance), "relative" (one row per head and
            distance, which q meets) or "dense" (per head and pair).
        lengths: Real rows of each sequence of a ragged batch; ``batch`` is then their number.
        packed: Whether those sequences lie behind one another instead of being padded.
        positions: Scattered global positions.
        strided: Whether memory is ordered (B, S, H, D), as a model's projections leave it.
    """

    pattern: Band = dense
    batch: int = 1
    heads: int = 12
    kv_heads: int | None = None
    queries: int = 2048
    keys: int | None = None
    dim: int = 64
    value_dim: int | None = None
    dtype: torch.dtype = torch.float32
    bias: str | None = None
    dropout: float = 0.0
    lengths: tuple[int, ...] | None = None
    packed: bool = False
    positions: tuple[int, ...] = ()
    strided: bool = False

    @property
    def sk(self) -> int:
        """Rows of the keys."""
        return self.queries if self.keys is None else self.keys

    @property
    def dv(self) -> int:
        """Head dimension of the values."""
        return self.dim if self.value_dim is None else self.value_dim

    @property
    def hkv(self) -> int:
        """Heads of keys and values."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def dtype_name(self) -> str:
        """ "float32", "bfloat16", …"""
        return str(self.dtype).removeprefix("torch.")

    def sequences(self) -> list[tuple[int, int]]:
        """``(queries, keys)`` of each sequence."""
        if self.lengths is None:
            return [(self.queries, self.sk)] * self.batch
        return [(n, n) for n in self.lengths]

    def pairs(self) -> int:
        """Kept pairs of one head, over the whole batch: the useful work."""
        counts = {shape: self._kept(*shape) for shape in set(self.sequences())}
        return sum(counts[shape] for shape in self.sequences())

    def _kept(self, sq: int, sk: int) -> int:
        count = self.pattern.pairs(sq, sk)
        if not self.positions:
            return count
        # Global rows keep every key; other rows gain the global keys they do not see yet.
        g, every = torch.tensor(self.positions), torch.arange(sk)
        local = torch.ones(sq, dtype=torch.bool).index_fill(0, g, False)
        unseen = ~self.pattern.keep(every[local][:, None], g[None, :])
        return count - int(self.pattern.keep(g[:, None], every).sum()) + len(g) * sk + int(unseen.sum())

    def flops(self, direction: str) -> float:
        """Floating-point operations of the useful pairs: 2 (D + Dv) a pair and head forward,
        2.5 times that backward (five products instead of two)."""
        factor = {"forward": 1.0, "backward": 2.5, "both": 3.5}[direction]
        return factor * 2 * (self.dim + self.dv) * self.pairs() * self.heads

    def small(self) -> Workload:
        """The same problem with few rows, to be checked against the oracle."""
        shrink = replace(
            self,
            pattern=_shrink(self.pattern),
            batch=min(self.batch, 2),
            queries=min(self.queries, SMALL),
            keys=None if self.keys is None else min(self.keys, SMALL),
            positions=tuple(sorted({p % SMALL for p in self.positions})),
        )
        if self.lengths is None:
            return shrink
        lengths = (SMALL, 1, 64, 101)[: len(self.lengths)]
        rows = sum(lengths) if self.packed else max(lengths)
        return replace(shrink, lengths=lengths, batch=1 if self.packed else len(lengths), queries=rows)

    def tensors(self, device: str = "cpu", seed: int = 0) -> Inputs:
        """Fresh tensors of this problem; q, k, v and the bias want gradients."""
        generator = torch.Generator().manual_seed(seed)

        def draw(heads: int, rows: int, width: int) -> Tensor:
            shape = (self.batch, rows, heads, width) if self.strided else (self.batch, heads, rows, width)
            x = torch.randn(shape, generator=generator, dtype=torch.float32).to(device, self.dtype)
            return x.transpose(1, 2) if self.strided else x

        q, k = draw(self.heads, self.queries, self.dim), draw(self.hkv, self.sk, self.dim)
        v, dout = draw(self.hkv, self.sk, self.dv), draw(self.heads, self.queries, self.dv)
        lengths = offsets = None
        if self.lengths is not None:
            lengths = torch.tensor(self.lengths, dtype=torch.int32, device=device)
            if self.packed:
                offsets = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
            else:
                # Padded rows have no meaning: nothing flows back from them.
                real = torch.arange(self.queries, device=device) < lengths[:, None]
                dout = dout * real[:, None, :, None]
        positions = torch.tensor(self.positions, device=device) if self.positions else None
        bias = self._bias(generator)
        x = Inputs(q, k, v, None if bias is None else bias.to(device), dout, lengths, offsets, positions)
        for leaf in x.leaves():
            leaf.requires_grad_()
        return x

    def _bias(self, generator: torch.Generator) -> Tensor | None:
        if self.bias is None:
            return None
        if self.bias == "distance":
            return torch.randn(self.heads, self.queries + self.sk - 1, generator=generator)
        if self.bias == "relative":
            return torch.randn(self.heads, self.queries + self.sk - 1, self.dim, generator=generator).to(self.dtype)
        return torch.randn(1, self.heads, self.queries, self.sk, generator=generator).to(self.dtype)


@dataclass(eq=False)
class Inputs:
    """The tensors of a workload."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    dout: Tensor
    lengths: Tensor | None
    offsets: Tensor | None
    positions: Tensor | None

    def leaves(self) -> list[Tensor]:
        """What gradients are taken of."""
        return [x for x in (self.q, self.k, self.v, self.bias) if x is not None]

    def to(self, dtype: torch.dtype) -> Inputs:
        """Fresh leaves of another dtype, same values."""
        q, k, v = (x.detach().to(dtype).requires_grad_() for x in (self.q, self.k, self.v))
        bias = None if self.bias is None else self.bias.detach().to(dtype).requires_grad_()
        return replace(self, q=q, k=k, v=v, bias=bias, dout=self.dout.to(dtype))

    def real(self, out: Tensor) -> Tensor:
        """``out`` with padded rows set to 0 (baselines leave rubbish there)."""
        if self.lengths is None or self.offsets is not None:
            return out
        rows = torch.arange(out.shape[2], device=out.device) < self.lengths[:, None]
        return torch.where(rows[:, None, :, None], out, 0)


def _shrink(pattern: Band) -> Band:
    def side(reach: int) -> int:
        return reach if abs(reach) == INF else max(-17, min(reach, 17))

    columns = pattern.columns if isinstance(pattern.columns, Tensor) else min(pattern.columns, 5)
    return Band(side(pattern.left), side(pattern.right), columns, min(pattern.rows, 5), pattern.dilation)
