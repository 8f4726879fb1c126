"""The ``cuda`` backend: kernels in CUDA C++ (``csrc/cuda``), compiled when the package is built.

Nothing is compiled when they run, and importing them takes no GPU and no driver.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import names


def why_missing() -> str | None:
    """Why the extension cannot be used, or None if it is there."""
    return _MISSING


def operators() -> Any:
    """``torch.ops.pkernels_cuda``.

    Raises:
        RuntimeError: If the extension is missing.
    """
    reason = why_missing()
    if reason is not None:
        raise RuntimeError(reason)
    return getattr(torch.ops, names.CUDA)


def archs() -> tuple[str, ...]:
    """The compute capabilities that the kernels were compiled for, such as ``("80", "90")``.

    Raises:
        RuntimeError: If the extension is missing.
    """
    return tuple(operators().archs().split())


def _load() -> str | None:
    try:
        names.load("_C_cuda", names.CUDA, "archs")
    except ImportError as error:
        return f"the CUDA extension is missing ({error}); build it with nvcc and 'PKERNELS_CUDA=1 pip install .'"
    return None


_MISSING = _load()  # known once this module is there: torch.compile reads it, and traces no import
