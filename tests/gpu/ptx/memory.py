"""Global memory: the tensors of the arguments in one arena, with guarded gaps between them.

Bytes inside a tensor's storage that belong to no element of the argument are guarded too. CTAs run
one after another, so each cell remembers which CTA wrote and read it: if two CTAs touch a cell and
one of them writes it without an atomic, no order of the grid makes that safe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .errors import MisalignedError, OutOfBoundsError, RaceError
from .values import UNSIGNED, Array

BASE = 1 << 33
"""Address of the arena. Lower addresses are the generic windows of shared and local memory."""
GAP = 4096
NOBODY, EVERYBODY, ATOMIC = -1, -2, -3


class GlobalMemory:
    """Room for tensors (any layout, any storage offset; changes are copied back by :meth:`restore`)."""

    def __init__(self, tensors: list[torch.Tensor], constants: dict[str, bytes], granule: int) -> None:
        self.granule = granule
        self.stores: dict[int, tuple[Array, int]] = {}
        self.names: list[tuple[int, int, str]] = []
        top = GAP
        for x in tensors:
            if x.device.type != "cpu":
                raise ValueError(f"args: CPU tensors are allowed, got one on {x.device}")
            key = x.untyped_storage().data_ptr()
            if key not in self.stores:
                content = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage()).numpy()
                self.stores[key] = (content, top)
                top += -(-(content.size + GAP) // 256) * 256
        self.symbols: dict[str, int] = {}
        for name, value in constants.items():
            self.symbols[name], top = BASE + top, top + -(-(len(value) + GAP) // 256) * 256
        data = np.full(top, 0xFF, np.uint8)
        allowed = torch.zeros(top, dtype=torch.bool)
        for content, at in self.stores.values():
            data[at : at + content.size] = content
        for name, at in self.symbols.items():
            data[at - BASE : at - BASE + len(constants[name])] = np.frombuffer(constants[name], np.uint8)
            allowed[at - BASE : at - BASE + len(constants[name])] = True
        for number, x in enumerate(tensors):
            if x.numel():
                size = x.element_size()
                strides = [s * size for s in x.stride()] + [1]
                allowed.as_strided([*x.shape, size], strides, self.address(x) - BASE).fill_(True)
            span = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1 if x.numel() else 0
            self.names.append((self.address(x), span * x.element_size(), f"tensor {number} {tuple(x.shape)}"))
        self.data = data.view(UNSIGNED[granule])
        self.allowed: Array = np.min(allowed.numpy().reshape(-1, granule), axis=1)
        self.writer = np.full(self.data.size, NOBODY, np.int32)
        self.reader = np.full(self.data.size, NOBODY, np.int32)
        self.cta = 0

    def address(self, x: torch.Tensor) -> int:
        """Where an argument begins."""
        return BASE + self.stores[x.untyped_storage().data_ptr()][1] + int(x.storage_offset()) * x.element_size()

    def translate(self, content: torch.Tensor, tensors: Sequence[torch.Tensor]) -> Array:
        """The bytes of a struct, its addresses in host memory replaced by those in the arena."""
        words = content.numpy().view(np.uint64).copy()
        for x in tensors:
            storage = x.untyped_storage()
            first, last = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
            inside = (words >= np.uint64(first)) & (words < np.uint64(last))
            words[inside] = words[inside] - np.uint64(first) + np.uint64(BASE + self.stores[first][1])
        return words.view(np.uint8)

    def restore(self) -> None:
        """Copy the arena back into the tensors."""
        for content, at in self.stores.values():
            content[:] = self.data.view(np.uint8)[at : at + content.size]

    def locate(self, addresses: Array, width: int, threads: Array, what: str) -> Array:
        """Cells ``(L, width / granule)`` of L accesses."""
        offsets = addresses - BASE
        odd = offsets % width
        if odd.any():
            bad = int(np.argmax(odd != 0))
            raise MisalignedError(
                f"global {what} of {width} bytes by thread {threads[bad]} at {self.name(addresses[bad])}"
            )
        cells = (offsets // self.granule)[:, None] + np.arange(max(1, width // self.granule))
        inside: Array = (cells >= 0) & (cells < self.data.size)
        ok = inside & self.allowed[np.where(inside, cells, 0)]
        if not ok.all():
            lost = np.unique(np.argwhere(~ok)[:, 0])
            raise OutOfBoundsError(
                f"global {what} of {width} bytes outside the arguments by {len(lost)} threads, first thread "
                f"{threads[lost[0]]} at {self.name(addresses[lost[0]])}"
            )
        return cells

    def name(self, address: int | np.integer) -> str:
        """An address in words: the nearest tensor below it and the distance from its start."""
        below = [n for n in self.names if n[0] <= address]
        if not below:
            return f"address {int(address):#x}, below all tensors"
        start, size, name = max(below)
        return f"byte {int(address) - start} from the start of {name}, which spans {size} bytes"

    def read(self, cells: Array, what: str = "load") -> Array:
        """Bytes ``(L, width)``."""
        writer = self.writer[cells]
        self._refuse((writer != NOBODY) & (writer != self.cta), cells, writer, what)
        reader = self.reader[cells]
        self.reader[cells] = np.where((reader == NOBODY) | (reader == self.cta), self.cta, EVERYBODY)
        return self.data[cells].view(np.uint8)

    def write(self, cells: Array, values: Array) -> None:
        self._claim(cells, self.cta, "store")
        values = np.ascontiguousarray(values).view(self.data.dtype)
        self.data[cells] = values
        if (self.data[cells] != values).any():
            raise RaceError(f"lanes store different values at {self._first(cells[self.data[cells] != values])}")

    def claim_atomic(self, cells: Array) -> None:
        """An atomic operation on the cells."""
        self._claim(cells, ATOMIC, "atomic")

    def _claim(self, cells: Array, author: int, what: str) -> None:
        for other in (self.writer[cells], self.reader[cells]):
            self._refuse((other != NOBODY) & (other != self.cta) & (other != author), cells, other, what)
        self.writer[cells] = author

    def _refuse(self, bad: Array, cells: Array, other: Array, what: str) -> None:
        if bad.any():
            who = {EVERYBODY: "several CTAs", ATOMIC: "an atomic"}.get(int(other[bad][0]), f"CTA {int(other[bad][0])}")
            raise RaceError(
                f"global {what} of CTA {self.cta} races with an access of {who} at {self._first(cells[bad])}"
            )

    def _first(self, cells: Array) -> str:
        return self.name(int(cells.flat[0]) * self.granule + BASE)
