"""Ragged batches: ``lengths`` and ``offsets`` become one thing, spans of rows.

A span tensor of shape ``(B, 2)``, int32, holds the first row and the number of rows of
each sequence. Padded batches start every sequence at row 0 of its own batch row; packed
ones hold all sequences in the rows of a single batch row.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor


class Spans(NamedTuple):
    """Where the sequences of queries and keys lie; None: every row is real."""

    q: Tensor | None
    k: Tensor | None
    packed: bool

    def batch(self, storage: int) -> int:
        """Number of sequences, given the batch size of the tensors."""
        return self.k.shape[0] if self.packed and self.k is not None else storage


def spans(q: Tensor, k: Tensor, lengths: object, offsets: object) -> Spans:
    """Spans of ``q`` and ``k`` (``(B, H, S, D)``) from the public arguments.

    Args:
        lengths: ``(B,)`` real keys per batch row; with Sq == Sk real queries too. Or a pair
            ``(query_lengths, key_lengths)``, either of which may be None.
        offsets: ``(B + 1,)`` first rows of the packed sequences and the end, or a pair for
            queries and keys.

    Raises:
        ValueError: Naming the argument, on wrong shapes, dtypes or values.
    """
    if lengths is None and offsets is None:
        return Spans(None, None, False)
    if lengths is not None and offsets is not None:
        raise ValueError("lengths, offsets: one of them is allowed, got both")
    if offsets is not None:
        return _packed(q, k, offsets)
    sq, sk = q.shape[2], k.shape[2]
    if _is_pair(lengths):
        query, key = cast(tuple[object, object], lengths)
        return Spans(
            None if query is None else _padded("lengths[0]", query, q, sq),
            None if key is None else _padded("lengths[1]", key, k, sk),
            False,
        )
    keys = _padded("lengths", lengths, k, sk)
    return Spans(keys if sq == sk else None, keys, False)


def _is_pair(value: object) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and not isinstance(value[0], int)


def _padded(name: str, lengths: object, x: Tensor, size: int) -> Tensor:
    lengths = _integers(name, lengths, x, x.shape[0], "(B,)")
    check_values(name, lengths, size, rising=False)
    return _pairs(torch.zeros_like(lengths), lengths)


def _packed(q: Tensor, k: Tensor, offsets: object) -> Spans:
    query, key = cast(tuple[object, object], offsets if _is_pair(offsets) else (offsets, offsets))
    for name, x in (("q", q), ("k", k)):
        if x.shape[0] != 1:
            raise ValueError(f"{name}: packed sequences (offsets) want shape (1, H, total, D), got {tuple(x.shape)}")
    query = _integers("offsets", query, q, None, "(B + 1,)")
    key = query if key is offsets else _integers("offsets", key, k, None, "(B + 1,)")
    if query.shape != key.shape:
        raise ValueError(
            "offsets: the pair must name as many sequences for queries as for keys, got "
            f"{query.shape[0] - 1} and {key.shape[0] - 1}"
        )
    check_values("offsets", query, q.shape[2], rising=True)
    check_values("offsets", key, k.shape[2], rising=True)
    q_spans, k_spans = (_pairs(o[:-1], o.diff()) for o in (query, key))
    return Spans(q_spans, k_spans, True)


def _pairs(first: Tensor, count: Tensor) -> Tensor:
    return torch.stack([first, count], dim=1).to(torch.int32)


def _integers(name: str, value: object, x: Tensor, size: int | None, shape: str) -> Tensor:
    if not isinstance(value, Tensor):
        try:
            value = torch.tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name}: integers of shape {shape} are allowed, got {value!r}") from error
    if value.is_floating_point() or value.dtype == torch.bool or value.is_complex():
        raise ValueError(f"{name}: an integer tensor is allowed, got dtype {value.dtype}")
    if value.dim() != 1 or (size is not None and value.shape[0] != size) or (size is None and value.shape[0] < 1):
        want = shape if size is None else f"({size},)"
        raise ValueError(f"{name}: shape {want} is allowed, got {tuple(value.shape)}")
    return value.to(device=x.device, dtype=torch.int64)  # narrowed once they are known to be small


def check_values(name: str, value: Tensor, limit: int, *, rising: bool) -> None:
    """Reject lengths outside ``[0, limit]``, or offsets that fall or leave ``[0, limit]``.

    Values live on the tensor's device, so eager calls look at them once per call on the
    CPU; while torch traces (compile, export) there are none to look at, and the kernels
    themselves check.
    """
    if torch.compiler.is_compiling() or value.numel() == 0:
        return
    if rising:
        if int(value[0]) != 0 or bool((value.diff() < 0).any()) or int(value[-1]) > limit:
            raise ValueError(
                f"{name}: must start at 0, never fall and end at most at {limit} (the rows there "
                f"are), got {value.tolist()}"
            )
    elif bool(((value < 0) | (value > limit)).any()):
        raise ValueError(f"{name}: between 0 and {limit} is allowed, got {value.tolist()}")
