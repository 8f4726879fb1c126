"""Loads, stores and atomics of an interpreted kernel, held against ``memory``.

Each function takes the run (its ``memory``, ``program`` and ``races``) and the interpreter's
own method, and returns the method that replaces it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from .memory import MANY, NOBODY, Memory, NondeterminismError, Region, Traced, UninitialisedError, conflict, duplicates
from .poison import pattern, telling

Handle = interpreter.TensorHandle


class Watch(Protocol):
    """The part of a run that accesses are judged by."""

    memory: Memory
    program: int
    races: bool


def load(run: Watch, method: Callable) -> Callable:
    def create_masked_load(self: Any, pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        region, cells = _touched(run, pointers, mask, "load")
        if region is not None and run.races:
            shadow, me = region.shadow, run.program + 1
            conflict(region, cells, shadow.writer[cells], me, "load", "writes")
            conflict(region, cells, shadow.adder[cells], me, "load", "updates atomically")
            _hold(shadow.reader, cells, me)
        poison = _poison(pointers)
        if other is None:  # undefined on a GPU
            dtype = pointers.get_element_ty()
            other = Handle(np.full(pointers.data.shape, poison).view(interpreter._get_np_dtype(dtype)), dtype)
        result = method(self, pointers, mask, other, *rest)
        if region is not None and telling(_kind(pointers), poison.itemsize):
            found = (np.atleast_1d(result.data).view(poison.dtype) == poison) & mask.data
            if found.any():
                raise UninitialisedError(f"load of {int(found.sum())} elements of {region} that nobody has written")
        return result

    return create_masked_load


def store(run: Watch, method: Callable) -> Callable:
    def create_masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        region, cells = _touched(run, pointers, mask, "store")
        if region is not None:
            duplicates(region, cells)
            if run.races:
                shadow, me = region.shadow, run.program + 1
                conflict(region, cells, shadow.writer[cells], me, "store", "writes too")
                conflict(region, cells, shadow.reader[cells], me, "store", "reads")
                conflict(region, cells, shadow.adder[cells], me, "store", "updates atomically")
                shadow.writer[cells] = me
        return method(self, pointers, value, mask, *rest)

    return create_masked_store


def update(run: Watch, method: Callable) -> Callable:
    def create_atomic_rmw(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        if pointers.get_element_ty() == tl.bfloat16:
            raise NotImplementedError("bfloat16 atomics: the interpreter would add the raw bits")
        region, cells = _touched(run, pointers, mask, "atomic")
        if region is not None and run.races:
            _atomic(run, region, cells)
            adders = region.shadow.adder[cells]
            if pointers.get_element_ty().is_floating() and str(op).endswith("FADD"):
                clash = (adders != NOBODY) & (adders != run.program + 1)
                if clash.any() or np.unique(cells).size != cells.size:
                    raise NondeterminismError(f"{int(clash.sum())} elements of {region} are added to in no set order")
            _hold(region.shadow.adder, cells, run.program + 1)
        return method(self, op, pointers, value, mask, *rest)

    return create_atomic_rmw


def swap(run: Watch, method: Callable) -> Callable:
    def create_atomic_cas(self: Any, pointers: Any, *rest: Any) -> Any:
        everywhere = Handle(np.ones_like(pointers.data, bool), tl.int1)
        region, cells = _touched(run, pointers, everywhere, "atomic")
        if region is not None and run.races:
            _atomic(run, region, cells)
            _hold(region.shadow.adder, cells, run.program + 1)
        return method(self, pointers, *rest)

    return create_atomic_cas


def select(run: Watch, method: Callable) -> Callable:
    """``tl.where`` of pointers into two tensors yields one that may be into either."""

    def create_select(self: Any, condition: Any, a: Any, b: Any) -> Any:
        result = method(self, condition, a, b)
        if isinstance(b.dtype, Traced) and getattr(a.dtype, "region", None) is not b.dtype.region:
            result.dtype = tl.pointer_type(b.dtype.element_ty, b.dtype.address_space, b.dtype.const)
        return result

    return create_select


def _touched(run: Watch, pointers: Any, mask: Any, verb: str) -> tuple[Region | None, np.ndarray]:
    """The tensor accessed and the cells of the active lanes; None if no lane is active."""
    addresses, active = np.broadcast_arrays(pointers.data, mask.data)
    chosen = addresses[active.astype(bool)].astype(np.int64).ravel()
    if not chosen.size:
        return None, chosen
    nbytes = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    region = run.memory.locate(pointers, chosen, nbytes, verb)
    return region, region.shadow.cells(chosen, nbytes)


def _atomic(run: Watch, region: Region, cells: np.ndarray) -> None:
    conflict(region, cells, region.shadow.writer[cells], run.program + 1, "atomic update", "writes plainly")
    conflict(region, cells, region.shadow.reader[cells], run.program + 1, "atomic update", "reads plainly")


def _hold(shadow: np.ndarray, cells: np.ndarray, me: int) -> None:
    holders = shadow[cells]
    shadow[cells] = np.where((holders == NOBODY) | (holders == me), me, MANY)


def _kind(pointers: Any) -> str:
    dtype = pointers.get_element_ty()
    if dtype == tl.bfloat16:
        return "b"
    return "f" if dtype.is_floating() and dtype.primitive_bitwidth >= 16 else "i"


def _poison(pointers: Any) -> np.ndarray:
    return pattern(_kind(pointers), max(1, pointers.get_element_ty().primitive_bitwidth // 8))
