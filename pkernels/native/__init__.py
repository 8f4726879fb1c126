"""The C++ kernels (``csrc/``), if they were built."""

from __future__ import annotations

import functools


@functools.cache
def why_missing() -> str | None:
    """Why the extension cannot be used, or None if it is there."""
    try:
        from .. import _C  # noqa: F401
    except ImportError as error:
        return f"the C++ extension is missing ({error}); build it with 'pip install .'"
    return None
