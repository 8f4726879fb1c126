"""TMA: copies of boxes between tensors and shared memory by the copy engine (PTX ISA, section 9.7.9.27).

A load arrives when somebody waits for its mbarrier and not before. A store reads shared memory
until ``cp.async.bulk.wait_group``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .access import PARAM_STRIDE, PARAM_WINDOW
from .async_copy import OPEN
from .errors import MisalignedError, PtxError, UnsupportedError
from .instructions import Imm, Instruction, Kernel, Mem
from .machine import Cta
from .mbarrier import Barrier, barrier_at, wake
from .operands import address, source
from .program import Step, decodes
from .values import Array
from .wgmma import swizzle


@dataclass(frozen=True)
class TensorMap:
    """A tensor as TMA sees it, instead of the 128 bytes that the driver would encode.

    Attributes:
        tensor: Any strides, but 1 in the last dimension.
        box: Elements of a copy in each dimension, in the tensor's order.
        atom: Bytes of a row of the swizzle pattern: 128, 64, 32, or 16 for none.
    """

    tensor: torch.Tensor
    box: tuple[int, ...]
    atom: int = 16

    def element_addresses(self, start: int, corner: list[int]) -> tuple[Array, Array]:
        """Global addresses of the box at ``corner``, in the order of shared memory, and which exist."""
        size = self.tensor.element_size()
        axes = np.meshgrid(*(np.arange(n) + c for n, c in zip(self.box, corner, strict=True)), indexing="ij")
        inside = np.logical_and.reduce([(x >= 0) & (x < n) for x, n in zip(axes, self.tensor.shape, strict=True)])
        offsets = sum(x * int(s) * size for x, s in zip(axes, self.tensor.stride(), strict=True))
        return (start + np.asarray(offsets)).ravel(), inside.ravel()


@dataclass
class Store:
    """Cells of shared memory that a thread's bulk stores still read."""

    thread: int
    cells: Array
    group: int = OPEN


@decodes("cp.async.bulk")
def decode_bulk(i: Instruction, kernel: Kernel) -> Step:
    if i.has("commit_group"):
        return commit
    if i.has("wait_group"):
        count = i.operands[0].bits() if isinstance(i.operands[0], Imm) else 0
        return lambda cta: wait(cta, count)
    if not i.has("tensor") or i.has("im2col", "gather4", "scatter4") or "multicast" in i.opcode:
        raise UnsupportedError(f"instruction {i.opcode}")
    to_shared = i.has("complete_tx::bytes") or "mbarrier" in i.opcode
    box = i.operands[1 if to_shared else 0]
    assert isinstance(box, Mem)
    shared = address(i.operands[0 if to_shared else 1], kernel)
    pointer = address(Mem(box.base, box.offset), kernel)
    corner = [source(c, "s32", kernel) for c in box.coordinates][::-1]
    report = address(i.operands[2], kernel) if to_shared else None

    def step(cta: Cta) -> None:
        for t in np.nonzero(cta.mask)[0].tolist():
            which, start = tensor_map(cta, int(pointer(cta)[t]))
            cells = box_cells(cta, which, int(shared(cta)[t]), t)
            places, inside = which.element_addresses(start, [int(c(cta)[t]) for c in corner])
            if report is not None:
                load(cta, which, cells, places, inside, t, barrier_at(cta, int(report(cta)[t]), [t]))
            else:
                store(cta, which, cells, places, inside, t)

    return step


def tensor_map(cta: Cta, pointer: int) -> tuple[TensorMap, int]:
    """The map that lies there, and the address of its tensor."""
    number, offset = divmod(pointer - PARAM_WINDOW, PARAM_STRIDE)
    params = cta.program.kernel.params
    if not 0 <= number < len(params):
        raise PtxError(f"a TMA copy through {pointer:#x}, which is no tensor map among the arguments")
    name = params[number][0]
    if name in cta.program.maps:
        return cta.program.maps[name], cta.memory.address(cta.program.maps[name].tensor)
    if offset % 64:
        raise MisalignedError(f"a tensor map at byte {offset} of parameter {name}")
    return described(cta.program.params[name][offset : offset + 128])


def described(content: Array) -> tuple[TensorMap, int]:
    """A map within a struct, as ``csrc/cuda/boxes.h`` describes it to the driver: a box of rows of 16-bit numbers."""
    start, *sizes = content[:40].view(np.int64).tolist()
    strides = content[40:64].view(np.int64).tolist()
    columns, rows = content[64:72].view(np.int32).tolist()
    if any(size <= 0 for size in sizes) or any(step % 16 or step <= 0 for step in strides) or start % 16:
        raise PtxError(f"no driver encodes a tensor map of sizes {sizes}, strides {strides}, address {start:#x}")
    steps = [*(step // 2 for step in strides[::-1]), 1]
    tensor = torch.empty_strided(sizes[::-1], steps, dtype=torch.int16, device="meta")
    return TensorMap(tensor, (1, 1, rows, columns), 128), start


def box_cells(cta: Cta, which: TensorMap, start: int, thread: int) -> Array:
    """Cells ``(elements, cells of an element)`` of a box at a shared address."""
    size = which.tensor.element_size()
    if start % max(128, 8 * which.atom):
        raise MisalignedError(f"a TMA box with swizzle of {which.atom} bytes at shared byte {start}")
    if which.atom > 16 and which.box[-1] * size > which.atom:
        raise PtxError(f"a TMA box row of {which.box[-1] * size} bytes, wider than its swizzle of {which.atom}")
    addresses = swizzle(start + np.arange(np.prod(which.box)) * size, which.atom)
    return cta.shared.locate(addresses, size, np.full(len(addresses), thread), "TMA copy")


def load(cta: Cta, which: TensorMap, cells: Array, places: Array, inside: Array, thread: int, barrier: Barrier) -> None:
    threads = np.full(len(cells), thread)
    cta.shared.begin_copy(cells, threads, "TMA load")
    values = np.zeros((len(cells), which.tensor.element_size()), np.uint8)
    found = cta.memory.locate(places[inside], values.shape[1], threads[inside], "TMA load")
    values[inside] = cta.memory.read(found, "TMA load")

    def arrive(barrier: Barrier) -> None:
        engine = cta.clocks.threads
        cta.shared.end_copy(cells, np.full(cells.shape, engine), values, True)
        barrier.bytes -= values.size
        barrier.knowledge[engine] = cta.clocks.now
        if barrier.bytes < 0:
            raise PtxError("more bytes arrive at an mbarrier than it was told to expect")

    barrier.transfers.append(arrive)
    wake(cta)


def store(cta: Cta, which: TensorMap, cells: Array, places: Array, inside: Array, thread: int) -> None:
    cta.shared.check_fenced(cells.ravel(), np.array([thread]), "TMA store")
    cta.shared.pinned[cells] += 1
    cta.bulk_stores.append(Store(thread, cells.ravel()))
    values = cta.shared.data[cells].view(np.uint8)[inside]
    threads = np.full(int(inside.sum()), thread)
    cta.memory.write(cta.memory.locate(places[inside], values.shape[1], threads, "TMA store"), values)


def commit(cta: Cta) -> None:
    """Close the group of the stores each thread has issued since its last one."""
    for item in cta.bulk_stores:
        if item.group == OPEN and cta.mask[item.thread]:
            item.group = int(cta.bulk_groups[item.thread])
    cta.bulk_groups[cta.mask] += 1


def wait(cta: Cta, pending: int) -> None:
    """All but the latest ``pending`` groups of each thread have read their shared memory."""
    rest = []
    for item in cta.bulk_stores:
        done = item.group != OPEN and item.group < cta.bulk_groups[item.thread] - pending
        if not (done and cta.mask[item.thread]):
            rest.append(item)
            continue
        cta.shared.pinned[item.cells] -= 1
        slot = item.thread // 32 * cta.shared.cells + item.cells
        cta.shared.read_at[slot], cta.shared.reader[slot] = cta.clocks.now, item.thread
    cta.bulk_stores = rest
