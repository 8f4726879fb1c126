"""Peak memory of a call, kernels in C++ included.

On the CPU: how far the process's peak of resident memory (``VmHWM``, reset through
``/proc/self/clear_refs``) rises above what was resident before the call. Freed heap is
handed back to the system first, else it would hide what the call takes. Counted are pages,
so scratch of C++ kernels, thread-local buffers and oneDNN's packing are seen; scratch that
an earlier call kept is not, which is why the first call at full size is the one measured.
On CUDA: the peak of torch's allocator.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's mallopt
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(run: Callable[[], object], device: str) -> int | None:
    """Bytes that ``run()`` takes on top of what is there, results included; None where the
    system cannot tell (no Linux). The caller collects garbage beforehand, once for many."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _can_reset():
        run()
        return None
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")
    before = _status("VmRSS")
    run()
    return max(0, _status("VmHWM") - before)


def keep_freed() -> bool:
    """Memory that is freed stays with the process from now on, where its allocator is glibc's; whether it does.

    Otherwise the contender whose sample the end of the heap falls into pays for giving back what
    another one freed, and every large result is faulted in anew, which takes longer than writing
    it: 1 to 3 us for 4 KiB in a virtual machine. PyTorch's guide to CPU performance advises
    allocators that keep memory (jemalloc, tcmalloc) for the same reason.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*x) for x in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1)))


def available(device: str) -> int:
    """Bytes that are free."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    match = re.search(r"MemAvailable:\s+(\d+)", _read(Path("/proc/meminfo")))
    return int(match[1]) * 1024 if match else 4 * 2**30


def _status(field: str) -> int:
    match = re.search(field + r":\s+(\d+)", _STATUS.read_text())
    return int(match[1]) * 1024 if match else 0


def _can_reset() -> bool:
    return _CLEAR.exists() and hasattr(ctypes.CDLL(None), "malloc_trim") and _status("VmHWM") > 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
