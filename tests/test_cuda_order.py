"""The CUDA kernels of LSH hashing and sorting, executed: the order must be that of the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import cuda, lsh_order

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from tests.gpu.nvcc import emulated
from tests.gpu.ptx import Report

SIZES = {
    "one tile": {"rounds": 2, "buckets": 4, "chunk": 8},
    "factors": {"rounds": 1, "buckets": (4, 6), "chunk": 7},
    "a tile of columns and more": {"rounds": 1, "buckets": (2, 140), "chunk": 16},
    "three digits": {"rounds": 1, "buckets": (256, 256), "chunk": 4},
}


def ordered(x: torch.Tensor, **sizes: Any) -> list[Report]:
    """Compares the orders of x, and returns what the launches did."""
    with emulated(sizes.pop("order", None)) as reports:
        got = lsh_order(x, seed=2, backend="cuda", **sizes)
    assert torch.equal(got, lsh_order(x, seed=2, backend="cpu", **sizes))
    return reports


@pytest.mark.parametrize("name", SIZES)
def test_the_order_is_that_of_the_cpu(name: str) -> None:
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(1, 2, 70, 26, generator=draw).bfloat16()
    x[:, :, 20:50] = x[:, :, 19:20]  # rows of one hash stay as they stand
    mask = torch.rand(1, 70, generator=draw) < 0.7 if name == "factors" else None
    hashing, sorting = ordered(x, mask=mask, **SIZES[name])
    assert hashing.kernel == "hash_rows" and sorting.kernel == "sort_rows"
    assert hashing.ambiguous == [] and sorting.ambiguous == []


def test_of_strided_fp16_rows_in_any_order_of_the_ctas() -> None:
    x = torch.randn(1, 9, 2, 16, generator=torch.Generator().manual_seed(1)).half().transpose(1, 2)
    ordered(x, rounds=1, buckets=8, chunk=8, order=5)


def test_of_more_rows_than_the_sort_takes_at_once() -> None:
    x = torch.randn(1, 1, 1100, 2, generator=torch.Generator().manual_seed(1)).half()
    ordered(x, rounds=1, buckets=4, chunk=64)


@pytest.mark.parametrize("rows", [0, 1])
def test_of_few_rows(rows: int) -> None:
    ordered(torch.ones(1, 1, rows, 3).half(), rounds=1, buckets=2, chunk=4)
