"""Where the real tokens of a batch lie, and how to spend no work on the others.

Everything in a transformer but attention looks at one token at a time. So padding can be
dropped once, before the embeddings, and put back once, after the head: in between all
tokens lie in one row, ``(1, total, width)``, and attention knows the sequences by their
offsets. A layout is the object that knows how; layers ask it and never see a mask.
"""

from __future__ import annotations

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
        return attention(q, k, v, pattern, bias, scale=scale, dropout=dropout)  # type: ignore[return-value]

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


class Ragged(_Covered):
    """Row b's first ``lengths[b]`` tokens are real. Needs no look at values, so it traces."""

    def __init__(self, lengths: Tensor, size: int) -> None:
        super().__init__(torch.arange(size, device=lengths.device) < lengths[:, None])
        self.lengths = lengths

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Band | Blocks, bias: Bias, dropout: float,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        return attention(q, k, v, pattern, bias, scale=scale, lengths=self.lengths, dropout=dropout)  # type: ignore[return-value]

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

    def positions(self) -> Tensor:
        return (torch.arange(self.total, device=self.device) - self.offsets[self._sequences()])[None]

    def count(self, x: Tensor) -> Tensor:
        before = torch.nn.functional.pad(x[0].cumsum(0), (1, 0))
        return (before[1:] - before[self.offsets[self._sequences()]])[None]

    def firsts(self) -> Tensor:
        return self.offsets[:-1]

    def _sequences(self) -> Tensor:
        """The sequence of each row."""
        return torch.bucketize(torch.arange(self.total, device=self.device), self.offsets[1:], right=True)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, pattern: Band | Blocks, bias: Bias, dropout: float,
        scale: float | None = None,
    ) -> Tensor:  # fmt: skip
        return attention(q, k, v, pattern, bias, scale=scale, offsets=self.offsets, dropout=dropout)  # type: ignore[return-value]

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


def layout(
    batch: int,
    size: int,
    device: torch.device,
    attention_mask: Tensor | None = None,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    *,
    packs: bool = True,
) -> Whole:
    """The layout of a ``(batch, size)`` batch; at most one of the three is given.

    Args:
        attention_mask: ``(B, S)``, 1 for real tokens and 0 for padding. An eager call looks
            at its values (on a GPU that waits for the device) and drops padding on the
            right; a traced one keeps every token and masks keys.
        lengths: ``(B,)`` real tokens of each row. The same, but traces at no cost.
        offsets: ``(n + 1,)`` where ``batch == 1``: sequences that were packed before.
        packs: Whether padding may be dropped; not for patterns of the batch's rows (``Blocks``).

    Example:
        >>> packed = layout(2, 3, torch.device("cpu"), torch.tensor([[1, 1, 1], [1, 0, 0]]))
        >>> packed.pack(torch.tensor([[5, 6, 7], [8, 0, 0]]))
        tensor([[5, 6, 7, 8]])
        >>> packed.unpack(torch.tensor([[5, 6, 7, 8]]))
        tensor([[5, 6, 7],
                [8, 0, 0]])
    """
    given = {"attention_mask": attention_mask, "lengths": lengths, "offsets": offsets}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{', '.join(names)}: one of them is allowed, got {len(names)}")
    if offsets is not None:
        return Packed(_offsets(offsets, batch, size, device), size)
    if lengths is not None:
        lengths = _lengths(lengths, batch, size, device)
        if torch.compiler.is_compiling():
            return Ragged(lengths, size)
        return _by_value(torch.arange(size, device=device) < lengths[:, None], packs)
    if attention_mask is None:
        return Whole(batch, size, device)
    real = _real(attention_mask, batch, size, device)
    return Masked(real) if torch.compiler.is_compiling() else _by_value(real, packs)


def _by_value(real: Tensor, packs: bool) -> Whole:
    if bool(real.all()):
        return Whole(real.shape[0], real.shape[1], real.device)
    on_the_right = (real[:, 1:] <= real[:, :-1]).all()
    if not packs:
        return Ragged(real.sum(1), real.shape[1]) if bool(on_the_right) else Masked(real)
    return Unpadded(real) if bool(on_the_right & real[:, 0].all()) else Masked(real)


def _real(mask: Tensor, batch: int, size: int, device: torch.device) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != (batch, size):
        given = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask: a tensor of shape ({batch}, {size}) is allowed, got {given}")
    if not torch.compiler.is_compiling() and bool(((mask != 0) & (mask != 1)).any()):
        raise ValueError(f"attention_mask: 1 (real) and 0 (padding) are allowed, got {mask.unique().tolist()[:8]}")
    return mask.to(device=device, dtype=torch.bool)


def _lengths(lengths: Tensor, batch: int, size: int, device: torch.device) -> Tensor:
    lengths = _integers("lengths", lengths, device)
    if lengths.shape != (batch,):
        raise ValueError(f"lengths: shape ({batch},) is allowed, got {tuple(lengths.shape)}")
    if not torch.compiler.is_compiling() and bool(((lengths < 0) | (lengths > size)).any()):
        raise ValueError(f"lengths: between 0 and {size} is allowed, got {lengths.tolist()}")
    return lengths


def _offsets(offsets: Tensor, batch: int, size: int, device: torch.device) -> Tensor:
    offsets = _integers("offsets", offsets, device)
    if batch != 1:
        raise ValueError(f"offsets: packed input of shape (1, total) is allowed, got batch size {batch}")
    if offsets.dim() != 1 or offsets.shape[0] < 2:
        raise ValueError(f"offsets: shape (sequences + 1,) is allowed, got {tuple(offsets.shape)}")
    if torch.compiler.is_compiling():
        return offsets
    if int(offsets[0]) != 0 or int(offsets[-1]) != size or bool((offsets.diff() < 1).any()):
        raise ValueError(f"offsets: must rise from 0 to {size} (the tokens there are), got {offsets.tolist()}")
    return offsets


def _integers(name: str, value: Tensor, device: torch.device) -> Tensor:
    try:
        value = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: integers are allowed, got {value!r}") from error
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise ValueError(f"{name}: integers are allowed, got dtype {value.dtype}")
    return value.long()
