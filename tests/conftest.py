"""Fixtures: one backend after the other, and memory that is never zero by luck."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

import pkernels

from .budget import device_of

IN_PROCESS = ("reference", "cpu", *(["triton"] if torch.cuda.is_available() else []))
"""Backends that run in an ordinary process; Triton's interpreter wants one of its own."""


def pytest_collection_finish() -> None:
    """Emulators make objects by the million: with Python's own thresholds a third of their time went into looking for
    cycles among all that torch and the tests had imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(params=IN_PROCESS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that runs here; others are skipped with their own reason."""
    if request.param == "triton" and "on_gpu" not in request.keywords:
        pytest.skip("its tensors lie in main memory")
    x = torch.zeros(1, 1, 1, 1, device=device_of(request.param))
    reason = pkernels.why_not(request.param, x, x, x)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


@contextmanager
def poison(value: float) -> Iterator[None]:
    """Memory from ``torch.empty`` and its kin holds ``value`` instead of whatever was there."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (torch.Tensor, "new_empty"),
            (torch.Tensor, "new_empty_strided"),
        ):
            patch.setattr(owner, name, _filled(getattr(owner, name), value))
        yield


def _filled(allocate: Callable, value: float) -> Callable:
    @functools.wraps(allocate)
    def wrapper(*args, **kwargs):
        x = allocate(*args, **kwargs)
        return x.fill_(value) if x.is_floating_point() else x.fill_(1)

    return wrapper


@pytest.fixture(autouse=True)
def _poisoned(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test runs in poisoned memory, but for those marked ``compiles``, which trace."""
    if "compiles" in request.keywords:
        yield
        return
    with poison(torch.nan):
        yield


def pytest_configure(config: pytest.Config) -> None:
    """The marks of these tests."""
    config.addinivalue_line("markers", "on_gpu: its tensors follow the backend, to a GPU too")
    config.addinivalue_line("markers", "compiles: traces through torch.compile or torch.export")
