"""What the programs of one launch may touch, and what they have touched.

Every pointer remembers the tensor argument it came from (in the handle's dtype, which pointer
arithmetic hands on), so an access is held against that tensor alone, gaps between the rows of a
strided view included. Beside each storage lie shadow arrays with the last program that wrote,
read or atomically updated each cell.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import triton.language as tl

NOBODY, MANY = 0, -1


class KernelError(Exception):
    """A launch did something that a GPU would punish."""


class OutOfBoundsError(KernelError):
    """An access outside the tensor its pointer came from."""


class DuplicateStoreError(KernelError):
    """Two lanes of one store write the same address."""


class RaceError(KernelError):
    """Two programs touch an address and one of them writes."""


class NondeterminismError(KernelError):
    """The result depends on the order in which programs add."""


class UninitialisedError(KernelError):
    """Memory of ``torch.empty`` is read before it is written."""


class KernelAssertionError(KernelError):
    """An assertion of the kernel, or a limit of the launch, does not hold."""


class Traced(tl.pointer_type):
    """A pointer type that knows its tensor; equal to the plain type of its element."""

    def __init__(self, plain: tl.pointer_type, region: Region) -> None:
        super().__init__(plain.element_ty, plain.address_space, plain.const)
        self.region = region

    __hash__ = tl.pointer_type.__hash__


class Shadow:
    """Who last touched each cell of a storage; program p is held as p + 1."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.start, self.nbytes = storage.data_ptr(), storage.nbytes()
        self.cell = 8  # bytes; the smallest element of any tensor here

    def allocate(self) -> None:
        cells = self.nbytes // self.cell + 1
        # calloc'ed: pages never touched cost nothing
        self.writer, self.reader, self.adder, self.lane = (np.zeros(cells, np.int32) for _ in range(4))

    def cells(self, addresses: np.ndarray, nbytes: int) -> np.ndarray:
        """Indices of the cells at the given addresses, ``(lanes, cells per element)``."""
        first = (addresses - self.start) // self.cell
        return first[:, None] + np.arange(max(1, nbytes // self.cell))


@dataclass
class Region:
    """A tensor argument: its elements, and nothing between them."""

    name: str
    tensor: torch.Tensor
    shadow: Shadow
    start: int = field(init=False)
    length: int = field(init=False)
    itemsize: int = field(init=False)
    elements: np.ndarray | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        x = self.tensor
        self.start, self.itemsize = x.data_ptr(), x.element_size()
        # A broadcast dimension repeats its elements: look at one.
        sizes = [1 if stride == 0 and size else size for size, stride in zip(x.shape, x.stride(), strict=True)]
        steps = sum((size - 1) * stride for size, stride in zip(sizes, x.stride(), strict=True))
        self.length = steps + 1 if x.numel() else 0
        if self.length > np.prod(sizes, dtype=np.int64):
            self.elements = np.zeros(self.length, np.bool_)
            torch.from_numpy(self.elements).as_strided(sizes, x.stride()).fill_(True)

    def holds(self, addresses: np.ndarray, nbytes: int) -> np.ndarray:
        """For each address, whether an element (or part of the extent, if ``nbytes`` differs) is there."""
        offsets = addresses - self.start
        inside = (offsets >= 0) & (offsets + nbytes <= self.length * self.itemsize)
        if nbytes != self.itemsize:
            return inside
        inside &= offsets % self.itemsize == 0
        if self.elements is not None:
            inside[inside] = self.elements[offsets[inside] // self.itemsize]
        return inside

    def __str__(self) -> str:
        x = self.tensor
        return f"{self.name} ({str(x.dtype).removeprefix('torch.')}, shape {tuple(x.shape)}, strides {x.stride()})"


class Memory:
    """The tensor arguments of one launch."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.shadows: dict[int, Shadow] = {}

    def add(self, name: str, x: torch.Tensor) -> Region:
        storage = x.untyped_storage()
        shadow = self.shadows.setdefault(storage.data_ptr(), Shadow(storage))
        shadow.cell = min(shadow.cell, x.element_size())
        shadow.nbytes = max(shadow.nbytes, storage.nbytes())
        region = Region(name, x, shadow)
        self.regions.append(region)
        return region

    def allocate(self) -> None:
        for shadow in self.shadows.values():
            shadow.allocate()

    def locate(self, pointers: Any, addresses: np.ndarray, nbytes: int, verb: str) -> Region:
        """The tensor that the access stays within."""
        traced = getattr(pointers.dtype, "region", None)
        candidates = [traced] if traced is not None else self.regions
        misses = [(~region.holds(addresses, nbytes), region) for region in candidates]
        for missed, region in misses:
            if not missed.any():
                return region
        if not misses:
            raise OutOfBoundsError(f"{verb} through a pointer, but no argument is a tensor")
        missed, region = min(misses, key=lambda miss: int(miss[0].sum()))
        offset = (int(addresses[missed][0]) - region.start) / region.itemsize
        where = "in a gap between the rows of" if 0 <= offset < region.length else "outside"
        raise OutOfBoundsError(
            f"{verb} of {int(missed.sum())} of {missed.size} lanes {where} {region}: the first at element "
            f"{offset:g} of {region.length}, counted in memory from the tensor's start"
        )


def conflict(region: Region, cells: np.ndarray, holders: np.ndarray, me: int, mine: str, theirs: str) -> None:
    """Raise if a cell is held by another program."""
    clash = (holders != NOBODY) & (holders != me)
    if clash.any():
        other = int(holders[clash][0])
        who = "several programs" if other == MANY else f"program number {other - 1}"
        raise RaceError(
            f"{mine} of {region}, element {_element(region, cells[clash][0])}, which {who} of this launch {theirs}"
        )


def duplicates(region: Region, cells: np.ndarray) -> None:
    """Raise if two lanes of a store share a cell."""
    first = cells[:, 0]
    lanes = np.arange(first.size, dtype=np.int32)
    region.shadow.lane[first] = lanes
    lost = region.shadow.lane[first] != lanes
    if lost.any():
        raise DuplicateStoreError(
            f"{int(lost.sum()) + 1} of {first.size} lanes of one store to {region} share an address with another "
            f"lane, the first at element {_element(region, first[lost][0])}"
        )


def _element(region: Region, cell: np.integer) -> int:
    """Index of a cell's element from the start of its tensor."""
    address = region.shadow.start + int(cell) * region.shadow.cell
    return (address - region.start) // region.itemsize
