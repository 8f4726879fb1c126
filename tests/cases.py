"""A call that backends are tested with, by what is special about it; :mod:`.edges` lists them."""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pkernels import Band, Blocks, Buckets, Dense, Distance, Relative

from .budget import plain
from .oracle import Call, Result, evaluate


@dataclass(frozen=True, eq=False)
class Case:
    """Shapes and features of a call; ``call()`` makes its tensors, the same ones every time."""

    id: str
    pattern: Band | Blocks | Buckets = field(default_factory=Band)
    sq: int = 37
    sk: int | None = None
    batch: int = 2
    heads: int = 2
    kv_heads: int | None = None
    d: int = 16
    dv: int | None = None
    dtype: torch.dtype = torch.float32
    bias: str | None = None
    lengths: object = None
    offsets: object = None
    dropout: float = 0.0
    scale: float | None = None
    layout: str = "contiguous"
    lse_grad: bool = True

    def call(self) -> Call:
        """The tensors of this case."""
        draw = torch.Generator().manual_seed(zlib.crc32(self.id.encode()))
        sk = self.sq if self.sk is None else self.sk
        kv_heads = self.heads if self.kv_heads is None else self.kv_heads
        dv = self.d if self.dv is None else self.dv

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(self.dtype)

        q = random(self.batch, self.heads, self.sq, self.d)
        k = random(self.batch, kv_heads, sk, self.d)
        v = random(self.batch, kv_heads, sk, dv)
        q, k, v = LAYOUTS[self.layout](q, k, v)
        return Call(
            q,
            k,
            v,
            self.pattern,
            None if self.bias is None else self._bias(random, sk),
            self.scale,
            _tensors(self.lengths),
            _tensors(self.offsets),
            self.dropout,
            0x1234_5678_9ABC_DEF0 if self.dropout else None,
            random(self.batch, self.heads, self.sq, dv),
            random(self.batch, self.heads, self.sq).to(torch.float32) if self.lse_grad else None,
        )

    def _bias(self, random, sk: int) -> Distance | Dense | Relative:
        """``distance``, ``distance shared`` by heads, ``dense 1x2x1x9``, ``relative``, ``relative 26``
        wide or ``relative shared``; ``dense hidden`` has pairs at -inf."""
        kind, _, shape = self.bias.partition(" ")
        width = 2 * max(self.sq, sk) - 1 if self.offsets is not None else max(self.sq + sk - 1, 0)
        if kind == "relative":
            dr = int(shape) if shape.isdigit() else self.d
            query = random(self.batch, self.heads, self.sq, dr)
            return Relative(query, random(1 if shape == "shared" else self.heads, width, dr))
        if kind == "distance":
            values = random(1 if shape else self.heads, width)
            return Distance(values.float())
        if shape == "hidden":
            values = random(self.batch, 1, self.sq, sk)
            return Dense(values.masked_fill(random(*values.shape) > 0.8, -torch.inf))
        sizes = [int(n) for n in shape.split("x")] if shape else [self.batch, self.heads, self.sq, sk]
        return Dense(random(*sizes))


def _tensors(value: object) -> object:
    if isinstance(value, list):
        return torch.tensor(value)
    return tuple(_tensors(x) for x in value) if isinstance(value, tuple) else value


@functools.lru_cache(maxsize=4096)
def solved(case: Case) -> tuple[Call, Result, list[Result]]:
    """The call, the truth, and what plain torch makes of it in the case's dtype."""
    call = case.call()
    return call, evaluate(call), plain(call)


# Where the tensors lie in memory --------------------------------------------------------


def _rows_first(x: Tensor) -> Tensor:
    """As a model's ``(B, S, H, D)`` projection, transposed."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _in_border(x: Tensor) -> Tensor:
    """Surrounded by NaN in every dimension."""
    b, h, s, d = x.shape
    room = torch.full((b + 2, h + 2, s + 2, d + 3), torch.nan, dtype=x.dtype)
    inner = room[1:-1, 1:-1, 1:-1, 1:-2]
    inner.copy_(x)
    return inner


def _one_tensor(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Slices of one ``(B, S, 3, H, D)`` projection."""
    return torch.stack([x.transpose(1, 2) for x in (q, k, v)], 2).permute(2, 0, 3, 1, 4).unbind()


LAYOUTS = {
    "contiguous": lambda *qkv: qkv,
    "rows before heads": lambda *qkv: tuple(map(_rows_first, qkv)),
    "one qkv": _one_tensor,
    "one key head, expanded": lambda q, k, v: (q, k[:, :1].expand(k.shape), v[:, :1].expand(v.shape)),
    "one batch row, expanded": lambda *qkv: tuple(x[:1].expand(x.shape) for x in qkv),
    "one row, expanded": lambda *qkv: tuple(x[:, :, :1].expand(x.shape) for x in qkv),
    "last dimension strided": lambda *qkv: tuple(x.mT.contiguous().mT for x in qkv),
    "NaN border": lambda *qkv: tuple(map(_in_border, qkv)),
    "different": lambda q, k, v: (_rows_first(q), k.mT.contiguous().mT, _in_border(v)),
}
