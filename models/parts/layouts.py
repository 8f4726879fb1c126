"""Where the real tokens of a batch lie, and how to spend no work on the others.

Everything in a transformer but attention looks at one token at a time. So padding can be
dropped once, before the embeddings, and put back once, after the head: in between all
tokens lie in one row, ``(1, total, width)``, and attention knows the sequences by their
offsets. A layout is the object that knows how; layers ask it and never see a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...attention import attention
from ...bias import Dense, Distance, Relative
from ...blocks import Blocks
from ...globals import Globals, locate
from ...patterns import Band

Pair = tuple[Tensor, Tensor]
Bias = Distance | Dense | Relative | None
IGNORED = -100  # the label that carries no loss, as in torch and transformers


class Whole:
    """Every token of the ``(B, S)`` batch is real."""

    bias: Dense | None = None

    def __init__(self, batch: int, size: int, device: torch.device) -> None:
        self.shape = (batch, size)
        self.device = device
        self.longest = size

    def pack(self, x: Tensor) -> Tensor:
        """``(B, S, ...)`` as the caller gave it -> the tokens that the layers work on."""
        return x

    def unpack(self, x: Tensor, fill: float = 0.0) -> Tensor:
        """The layers' tokens -> ``(B, S, ...)``, with ``fill`` where there is padding."""
        return x

    def labels(self, labels: Tensor) -> Tensor:
        """``(B, S)`` labels -> one for each of the layers' tokens, padding ignored."""
        return labels

    def following(self, labels: Tensor) -> Tensor:
        """The layers' tokens' labels ``(1 or B, n)`` -> for each token that of the next one of its
        sequence, ignored where there is none."""
        return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)

    def first(self, x: Tensor) -> Tensor:
        """``(B, ...)``: the first token of each sequence ([CLS]) among the layers' tokens."""
        return x[:, 0]

    def last(self, x: Tensor) -> Tensor:
        """``(B, ...)``: the last real token of each sequence among the layers' tokens."""
        return x[:, -1]

    def mean(self, x: Tensor) -> Tensor:
        """``(B, width)``: the mean of each sequence's real tokens among the layers' tokens."""
        return x.mean(1)

    def at_first(self, x: Tensor, hits: Tensor) -> Tensor:
        """``(B, ...)``: of each sequence the token among ``x`` at which ``hits (B, n)``, booleans of
        the layers' tokens, is first true; the first token where it never is."""
        return x[torch.arange(len(x), device=x.device), hits.int().argmax(1)]

    def highest(self, x: Tensor) -> Tensor:
        """``(B, n)`` integers of the layers' tokens -> at each the largest of its sequence."""
        return x.amax(1, keepdim=True).expand_as(x)

    def positions(self) -> Tensor:
        """Place of each of the layers' tokens in its sequence, ``(1, n)``."""
        return torch.arange(self.shape[1], device=self.device)[None]

    def count(self, x: Tensor) -> Tensor:
        """Booleans of the layers' tokens ``(1 or B, n)`` -> how many of the sequence are true up to
        and with each token."""
        return x.cumsum(-1)

    def firsts(self) -> Tensor:
        """Positions of the first tokens in the batch as the caller gave it, as ``globals`` takes them."""
        return torch.zeros(1, dtype=torch.int64, device=self.device)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Band | Blocks, bias: Bias, dropout: float,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        """:func:`pkernels.attention` within the sequences."""
        k, v, real = self.seen(k, v)
        return attention(q, k, v, pattern, bias, scale=scale, dropout=dropout, **real)  # type: ignore[return-value]

    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """The keys and values that tokens with these ones look at, and how :func:`pkernels.attention` is told
        which of them are real."""
        return k, v, {}

    def globals(self, positions: Tensor) -> Globals:
        """The global ones among the layers' tokens; ``positions`` as :func:`pkernels.global_attention`
        takes them, in the batch as the caller gave it."""
        return Globals.find(positions, self.shape, self.device)

    def attend_locally(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Band, found: Globals, far: Pair, dropout: float
    ) -> Tensor:
        """Attention of all tokens over the pattern and the global tokens, whose k and v ``far`` are."""
        return found.attend_locally(q, k, v, pattern, far, self.bias, dropout=dropout)

    def attend_from(self, q: Tensor, k: Tensor, v: Tensor, found: Globals, dropout: float) -> Tensor:
        """Attention of the global tokens, whose q is given, over all tokens."""
        return found.attend_from(q, k, v, self.bias, dropout=dropout)


class _Covered(Whole):
    """Padding stays where it is; ``real (B, S)`` says which tokens are none."""

    def __init__(self, real: Tensor) -> None:
        super().__init__(real.shape[0], real.shape[1], real.device)
        self.real = real

    def unpack(self, x: Tensor, fill: float = 0.0) -> Tensor:
        return x.masked_fill(~self.real.reshape(*self.real.shape, *[1] * (x.dim() - 2)), fill)

    def labels(self, labels: Tensor) -> Tensor:
        return labels.masked_fill(~self.real, IGNORED)

    def following(self, labels: Tensor) -> Tensor:
        return super().following(labels).masked_fill(~self.real, IGNORED)

    def last(self, x: Tensor) -> Tensor:
        places = torch.arange(1, self.shape[1] + 1, device=self.device) * self.real
        return x[torch.arange(self.shape[0], device=self.device), places.argmax(1)]

    def mean(self, x: Tensor) -> Tensor:
        return self.unpack(x).sum(1) / self.real.sum(1, keepdim=True).clamp(min=1)

    def at_first(self, x: Tensor, hits: Tensor) -> Tensor:
        return super().at_first(x, hits & self.real)

    def highest(self, x: Tensor) -> Tensor:
        return super().highest(x.masked_fill(~self.real, torch.iinfo(x.dtype).min))


class Ragged(_Covered):
    """Row b's first ``lengths[b]`` tokens are real. Needs no look at values, so it traces."""

    def __init__(self, lengths: Tensor, size: int) -> None:
        super().__init__(torch.arange(size, device=lengths.device) < lengths[:, None])
        self.lengths = lengths

    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return k, v, {"lengths": self.lengths}

    def globals(self, positions: Tensor) -> Globals:
        return Globals.find(positions, self.shape, self.device, lengths=self.lengths)


class Masked(_Covered):
    """Real tokens anywhere (padding on the left, holes): a bias of -inf on the other keys."""

    def __init__(self, real: Tensor) -> None:
        super().__init__(real)
        keys = torch.zeros(real.shape, device=real.device).masked_fill(~real, float("-inf"))
        self.padding = self.bias = Dense(keys[:, None, None, :])

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Band | Blocks, bias: Bias, dropout: float,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        if isinstance(bias, (Distance, Relative)):
            hidden = with_hidden_keys(q, k, self.real, scale)
            return attention(*hidden[:2], v, pattern, bias, scale=hidden[2], dropout=dropout)  # type: ignore[return-value]
        both = self.padding if bias is None else Dense(bias.values + self.padding.values)
        return attention(q, k, v, pattern, both, scale=scale, dropout=dropout)  # type: ignore[return-value]


class Packed(Whole):
    """The caller packed the sequences himself: ``(1, total)``, first rows and end in ``offsets``."""

    def __init__(self, offsets: Tensor, total: int) -> None:
        super().__init__(1, total, offsets.device)
        self.offsets, self.total = offsets, total
        if not torch.compiler.is_compiling():
            self.longest = int(offsets.diff().max()) if len(offsets) > 1 else 0

    def following(self, labels: Tensor) -> Tensor:
        return super().following(labels).index_fill(1, self.offsets[1:] - 1, IGNORED)

    def first(self, x: Tensor) -> Tensor:
        return x[0, self.offsets[:-1]]

    def last(self, x: Tensor) -> Tensor:
        return x[0, self.offsets[1:] - 1]

    def mean(self, x: Tensor) -> Tensor:
        sums = x.new_zeros(len(self.offsets) - 1, x.shape[2]).index_add(0, self._sequences(), x[0])
        return sums / self.offsets.diff()[:, None].clamp(min=1)

    def positions(self) -> Tensor:
        return (torch.arange(self.total, device=self.device) - self.offsets[self._sequences()])[None]

    def count(self, x: Tensor) -> Tensor:
        before = torch.nn.functional.pad(x[0].cumsum(0), (1, 0))
        return (before[1:] - before[self.offsets[self._sequences()]])[None]

    def firsts(self) -> Tensor:
        return self.offsets[:-1]

    def at_first(self, x: Tensor, hits: Tensor) -> Tensor:
        rows = torch.arange(self.total, device=self.device).masked_fill(~hits[0], self.total)
        found = self._over_sequences(rows, self.total, "amin")
        return x[0, torch.where(found < self.total, found, self.offsets[:-1])]

    def highest(self, x: Tensor) -> Tensor:
        return self._over_sequences(x[0], torch.iinfo(x.dtype).min, "amax")[self._sequences()][None]

    def _over_sequences(self, x: Tensor, start: int, reduce: str) -> Tensor:
        """``amin`` or ``amax`` of each sequence's rows."""
        whole = x.new_full((len(self.offsets) - 1,), start)
        return whole.scatter_reduce(0, self._sequences(), x, reduce)

    def _sequences(self) -> Tensor:
        """The sequence of each row."""
        return torch.bucketize(torch.arange(self.total, device=self.device), self.offsets[1:], right=True)

    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return k, v, {"offsets": self.offsets}

    def globals(self, positions: Tensor) -> Globals:
        return Globals.find(positions, (1, self.total), self.device, offsets=self.offsets)


class Unpadded(Packed):
    """A batch padded on the right, packed here: ``real (B, S)``, no row empty."""

    def __init__(self, real: Tensor) -> None:
        self.rows = real.flatten().nonzero().squeeze(1)
        super().__init__(torch.nn.functional.pad(real.sum(1).cumsum(0), (1, 0)), len(self.rows))
        self.shape = (real.shape[0], real.shape[1])

    def pack(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)[self.rows][None]

    def unpack(self, x: Tensor, fill: float = 0.0) -> Tensor:
        full = x.new_full((self.shape[0] * self.shape[1], *x.shape[2:]), fill)
        return full.index_copy_(0, self.rows, x[0]).unflatten(0, self.shape)

    def labels(self, labels: Tensor) -> Tensor:
        return self.pack(labels)

    def firsts(self) -> Tensor:
        return Whole.firsts(self)

    def globals(self, positions: Tensor) -> Globals:
        return super().globals(self.pack(locate(positions, self.shape, self.device)[0]))


def with_hidden_keys(q: Tensor, k: Tensor, real: Tensor, scale: float | None) -> tuple[Tensor, Tensor, float]:
    """``(q, k, scale)`` with a feature by which keys that are not ``real`` score lowest, for beside a
    position bias the op takes no other: 1 in queries, so no matrix of pairs is needed."""
    if q.shape[-1] > 255:
        raise NotImplementedError(
            "attention_mask: beside a position bias, padding elsewhere than on the right is supported for heads "
            f"up to 255 wide, got {q.shape[-1]}"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    column = hiding(real, k.dtype, scale)[:, None].expand(-1, k.shape[1], -1, -1)
    return torch.cat([q, torch.ones_like(q[..., :1])], -1), torch.cat([k, column], -1), scale


def hiding(real: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """That feature of keys ``real (B, S)``: ``(B, S, 1)``, 0 or a number near the lowest."""
    lowest = torch.finfo(dtype).min / (2 * max(scale, 1.0))
    return torch.zeros(real.shape, dtype=dtype, device=real.device).masked_fill(~real, lowest)[..., None]
