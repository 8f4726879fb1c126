"""Shared memory of one CTA, with the state of every cell: written by whom and when, read by whom and when.

A cell is the narrowest width that the kernel accesses. Order is judged by :class:`.clocks.Clocks`
only, so a race is found whatever order the threads really ran in. Of several readers of a cell in
one warp, the latest time is kept.
"""

from __future__ import annotations

import numpy as np

from .clocks import FOREVER, Clocks
from .errors import InFlightError, MisalignedError, OutOfBoundsError, RaceError, UninitialisedError
from .values import UNSIGNED, Array

NEVER = -1
ARRIVING = FOREVER
SEVERAL = -2


class Shared:
    """``size`` bytes for ``threads`` threads."""

    def __init__(self, size: int, granule: int, clocks: Clocks) -> None:
        self.size, self.granule, self.clocks = size, granule, clocks
        self.cells = -(-size // granule)
        warps = clocks.threads // 32
        self.data = np.full(self.cells, -1, f"i{granule}").view(UNSIGNED[granule])
        self.written = np.full(self.cells, NEVER, np.int32)
        self.writer = np.zeros(self.cells, np.int16)
        self.atomic = np.zeros(self.cells, np.bool_)
        """Whether the last write was an atomic's."""
        self.read_at = np.full(warps * self.cells, NEVER, np.int32)
        self.reader = np.zeros(warps * self.cells, np.int16)
        self.pinned = np.zeros(self.cells, np.int16)
        """How many asynchronous reads of a cell are under way."""
        self.unfenced = np.zeros(self.cells, np.bool_)
        """Written by ordinary instructions, with no proxy fence since."""

    def locate(self, addresses: Array, width: int, threads: Array, what: str, align: int = 0) -> Array:
        """Cells ``(L, width / granule)`` of L accesses."""
        low, high = int(addresses.min()), int(addresses.max())
        if low < 0 or high + width > self.size:
            bad = int(np.argmax((addresses < 0) | (addresses + width > self.size)))
            raise OutOfBoundsError(
                f"shared {what} of {width} bytes by thread {threads[bad]} at byte {addresses[bad]} of {self.size}"
            )
        odd = addresses % (align or width)
        if odd.any():
            bad = int(np.argmax(odd != 0))
            raise MisalignedError(f"shared {what} of {width} bytes by thread {threads[bad]} at byte {addresses[bad]}")
        return (addresses // self.granule)[:, None] + np.arange(width // self.granule)

    def read(self, cells: Array, threads: Array, what: str = "read") -> Array:
        """Bytes ``(L, width)``."""
        self.check_arrived(cells, threads, what)
        warp_cells = (threads // 32 * self.cells)[:, None] + cells
        thread = np.broadcast_to(threads[:, None], cells.shape)
        fresh = self.read_at[warp_cells] > self.clocks.floor
        several = fresh & (self.reader[warp_cells] != thread)
        self.reader[warp_cells] = thread
        several |= self.reader[warp_cells] != thread
        self.reader[warp_cells[several]] = SEVERAL
        self.read_at[warp_cells] = self.clocks.now
        return self.data[cells].view(np.uint8)

    def check_arrived(self, cells: Array, threads: Array, what: str) -> None:
        """Every cell has been written, and its write is ordered before these threads' access."""
        written = self.written[cells]
        if not (written.view(np.uint32) > self.clocks.floor).any():
            return
        thread = np.broadcast_to(threads[:, None], cells.shape)
        self._refuse(written == NEVER, cells, thread, UninitialisedError, f"{what} of shared memory nobody has written")
        self._refuse(written == ARRIVING, cells, thread, InFlightError, f"shared {what} of data still being copied")
        unseen = ~self.clocks.ordered(thread, self.writer[cells], written)
        self._refuse(unseen, cells, thread, RaceError, f"shared {what} races with a write")

    def write(self, cells: Array, threads: Array, values: Array, what: str = "write") -> bool:
        """Store bytes ``(L, width)``. Several threads may store equal values in a cell.

        Returns:
            Whether lanes of one warp stored different values in one cell: a GPU keeps one of them.
        """
        values = np.ascontiguousarray(values).view(self.data.dtype)
        self.check_free(cells, threads, what, values)
        thread = np.broadcast_to(threads[:, None], cells.shape)
        self.data[cells] = values
        self.stamp(cells, thread)
        self.unfenced[cells] = True
        lost = self.data[cells] != values
        other = lost & (self.writer[cells] // 32 != thread // 32)
        self._refuse(other, cells, thread, RaceError, f"shared {what} races with another value for the cell")
        return bool(lost.any())

    def stamp(self, cells: Array, threads: Array, atomic: bool = False) -> None:
        self.written[cells] = self.clocks.now
        self.writer[cells] = threads
        self.atomic[cells] = atomic

    def check_free(self, cells: Array, threads: Array, what: str, values: Array | None = None) -> None:
        """These threads may overwrite the cells: earlier writes and reads are ordered before."""
        thread = np.broadcast_to(threads[:, None], cells.shape)
        written = self.written[cells]
        if (written > self.clocks.floor).any():
            self._refuse(
                written == ARRIVING, cells, thread, InFlightError, f"shared {what} over data still being copied"
            )
            unseen = ~self.clocks.ordered(thread, self.writer[cells], written)
            if values is not None:
                unseen &= self.data[cells] != values
            self._refuse(unseen, cells, thread, RaceError, f"shared {what} races with a write")
        if self.pinned[cells].any():
            busy = self.pinned[cells] > 0
            self._refuse(busy, cells, thread, InFlightError, f"shared {what} over operands that are still being read")
        recent = self.read_at.reshape(-1, self.cells)[:, cells]
        if (recent > self.clocks.floor).any():
            self._check_readers(cells, thread, recent, what)

    def _check_readers(self, cells: Array, thread: Array, recent: Array, what: str) -> None:
        whole = self.clocks.seen_of_warps()
        for warp, times in enumerate(recent):
            reader = self.reader.reshape(-1, self.cells)[warp][cells]
            seen = np.where(reader == SEVERAL, whole[thread, warp], self.clocks.seen[thread, np.maximum(reader, 0)])
            self._refuse(times > seen, cells, thread, RaceError, f"shared {what} races with a read", reader)

    def check_fenced(self, cells: Array, threads: Array, what: str) -> None:
        """The async proxy, acting for these threads together, may read the cells ``(C,)``."""
        for t in threads[::32]:
            self.check_arrived(cells[None], np.array([t]), what)
        bad = self.unfenced[cells]
        if bad.any():
            raise RaceError(
                f"{what} was written with no fence.proxy.async since: shared byte {cells[bad][0] * self.granule}"
            )

    def begin_copy(self, cells: Array, threads: Array, what: str) -> None:
        """An asynchronous copy into the cells starts: until :meth:`end_copy` nobody may touch them."""
        self.check_free(cells, threads, what)
        self.data[cells] = -1 & (1 << 8 * self.granule) - 1
        self.written[cells] = ARRIVING
        self.unfenced[cells] = False

    def end_copy(self, cells: Array, threads: Array, values: Array, fenced: bool) -> None:
        """The copy is complete, as if ``threads`` had written it now; ``fenced`` if the async proxy did."""
        self.data[cells] = np.ascontiguousarray(values).view(self.data.dtype)
        self.stamp(cells, threads)
        self.unfenced[cells] = not fenced

    def fence(self, members: Array) -> None:
        """``fence.proxy.async`` by some threads: writes they made or have seen become visible to the async proxy."""
        seen = self.clocks.seen[members].max(0)
        self.unfenced &= self.written > seen[self.writer]

    def _refuse(
        self, bad: Array, cells: Array, thread: Array, kind: type[Exception], text: str, other: Array | None = None
    ) -> None:
        if not bad.any():
            return
        at = tuple(np.argwhere(bad)[0])
        byte = int(cells[at]) * self.granule
        author = int((self.writer[cells] if other is None else other)[at])
        by = "" if kind is not RaceError else " by several threads" if author < 0 else f" by thread {author}"
        raise kind(f"{text}{by}: thread {int(thread[at])}, shared byte {byte}")
