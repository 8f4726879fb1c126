"""Every test here runs with Triton's interpreter, under all of its checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gpu.launcher import INTERPRETED, pytest_pycollect_makemodule

__all__ = ["pytest_pycollect_makemodule"]


@pytest.fixture(autouse=INTERPRETED)
def run() -> Iterator[Any]:
    """The watch over the test's launches (``tests.gpu.interpreter.Run``)."""
    from tests.gpu.interpreter import checked

    with checked() as watch:
        yield watch
