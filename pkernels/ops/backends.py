"""Which backend runs a call, and why another one cannot.

A backend is a module with two functions per pattern shape, ``forward`` and ``backward``
(see ``pkernels/reference/band.py``), imported when it is first needed.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from ..bias import Bias, Relative, tensors_of
from ..problem import Pattern

BACKENDS = ("reference", "cpu", "triton", "cuda")
_PACKAGE = __name__.rpartition(".ops.")[0]
_MODULES = {
    "reference": f"{_PACKAGE}.reference",
    "cpu": f"{_PACKAGE}.native",
    "triton": f"{_PACKAGE}.triton",
    "cuda": f"{_PACKAGE}.cuda",
}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def backend(name: str, shape: str) -> ModuleType:
    """The module that holds ``forward`` and ``backward`` of a pattern shape ("band")."""
    return importlib.import_module(f"{_MODULES[name]}.{shape}")


def why_not(
    backend: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | None = None,
    bias: Bias | None = None,
) -> str | None:
    """Why ``backend`` cannot compute this attention, or None if it can.

    Args:
        backend: "reference", "cpu", "triton" or "cuda".
        q, k, v, pattern, bias: As for :func:`pkernels.attention`; only the tensors' device,
            dtype and shape are looked at.

    Example:
        >>> q = torch.zeros(1, 1, 4, 8, dtype=torch.float64)
        >>> why_not("cpu", q, q, q)
        'dtype float64: float32, bfloat16 and float16 are supported, float64 by "reference" alone'
    """
    shape = "band" if pattern is None else type(pattern).__name__.lower()
    return _why_not_written(backend, shape, q) or _why_not_for(backend, q, v, bias) or _why_not_here(backend, q)


def why_not_kernels(backend: str, shape: str, x: Tensor) -> str | None:
    """Why ``backend`` cannot run the operators of a ``shape`` on tensors like x, whatever their sizes."""
    return _why_not_written(backend, shape, x) or _why_not_here(backend, x)


def _why_not_written(backend: str, shape: str, x: Tensor) -> str | None:
    if backend not in BACKENDS:
        raise ValueError(f"backend: one of {', '.join(BACKENDS)} is allowed, got {backend!r}")
    if backend == "reference":
        return None
    if x.dtype not in _DTYPES:
        name = str(x.dtype).removeprefix("torch.")
        return f'dtype {name}: float32, bfloat16 and float16 are supported, float64 by "reference" alone'
    if backend == "cuda" and shape == "lstm":
        return f"{shape}: the kernels are not there yet"
    return None


def _why_not_for(backend: str, q: Tensor, v: Tensor, bias: Bias | None) -> str | None:
    """Of attention: what kernels cannot do, and how wide they are."""
    if backend == "reference":
        return None
    relative = bias if isinstance(bias, Relative) else None
    for name, x in (("q", q), ("v", v), ("the bias", v if relative is None else relative.query)):
        if x.shape[-1] > 256:
            return f'head dimension {x.shape[-1]} of {name}: 1 to 256 are supported, more by "reference" alone'
    return _why_not_cuda(q, v, bias) if backend == "cuda" else None


def _why_not_here(backend: str, x: Tensor) -> str | None:
    if backend == "reference":
        return None
    return {"cpu": _why_not_cpu, "triton": _why_not_triton, "cuda": _why_not_nvidia}[backend](x)


def _why_not_cpu(q: Tensor) -> str | None:
    if q.device.type != "cpu":
        return f"tensors on {q.device}: the CPU kernels take tensors in main memory"
    from .. import native

    return native.why_missing()


def _why_not_triton(q: Tensor) -> str | None:
    if not has_triton():
        return "triton is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if q.device.type not in ("cuda", "cpu") or (q.device.type == "cpu" and not interpreted):
        return f"tensors on {q.device}: a GPU is needed, or TRITON_INTERPRET=1 to interpret the kernels"
    return None


def _why_not_cuda(q: Tensor, v: Tensor, bias: Bias | None) -> str | None:
    relative = tensors_of(bias) if isinstance(bias, Relative) else ()
    width = max(x.shape[-1] for x in (q, v, *relative))
    exact = q.dtype == torch.float32
    if exact and width > 128:
        return f'head dimension {width} in float32: the kernels go up to 128, those of "triton" up to 256'
    if relative and width > (64 if exact else 128):
        most = "the kernels go up to 128, in float32 up to 64: beside it shared memory has no room for wider rows"
        return f"Relative of head dimension {width}: {most}"
    return None


def _why_not_nvidia(q: Tensor) -> str | None:
    if q.device.type != "cuda" or torch.version.hip is not None:
        return f"tensors on {q.device}: an NVIDIA GPU is needed"
    from .. import cuda

    return cuda.why_missing()


def why_not_built(backend: str) -> str | None:
    """Why this installation lacks the CUDA kernels, which are optional; None for other backends."""
    return importlib.import_module(_MODULES[backend]).why_missing() if backend == "cuda" else None


@functools.cache
def has_triton() -> bool:
    """Whether triton can be imported, without importing it."""
    return importlib.util.find_spec("triton") is not None


def choose(
    name: str | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern | None = None,
    bias: Bias | None = None,
) -> str:
    """The backend to run on. A named one never falls back.

    Raises:
        NotImplementedError: With the reason, if the named backend cannot do it.
    """
    return settle(name, q, lambda one: why_not(one, q, k, v, pattern, bias))


def settle(name: str | None, x: Tensor, why: Callable[[str], str | None]) -> str:
    """The backend that was named, or the best one for tensors like x; ``why`` tells why not."""
    if name is not None:
        reason = why(name)
        if reason is not None:
            raise NotImplementedError(f"backend {name!r}: {reason}")
        return name
    best = "cpu" if x.device.type == "cpu" else "triton"
    reason = why(best)
    if reason is None:
        return best
    if x.dtype != torch.float64:
        _warn_once(f'pkernels runs on "reference", which is slow: backend "{best}": {reason}')
    return "reference"


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=5)
