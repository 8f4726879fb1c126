"""The CUDA kernels over Buckets, executed: their PTX runs on the emulator, and is judged as in ``test_cuda_band``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import Buckets, cuda
from tests import test_attention as shared
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved
from tests.shapes import LAST, sorted_rows

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from tests.gpu.nvcc import emulated

ONE: dict[str, Any] = {"batch": 1, "heads": 1, "dtype": torch.bfloat16}
TWO: dict[str, Any] = {**ONE, "heads": 2, "kv_heads": 1}
HALF: dict[str, Any] = {**ONE, "dtype": torch.float16}
CASES = [
    (None, Case("buckets of 64, causal, D 64", Buckets(sorted_rows(100, 64), 64, True, own=LAST), sq=100, d=64,
                **ONE)),
    (1, Case("buckets of 20, 2 rounds, 2:1, D 80, Dv 41", Buckets(sorted_rows(50, 20, 2, 2, missing=0.3), 20), sq=50,
             d=80, dv=41, scale=-0.3, **TWO)),
    (None, Case("buckets, dropout, both neighbours, fp16", Buckets(sorted_rows(30, 8), 8, before=1, after=1, own=0.5),
                sq=30, d=26, dropout=0.3, **HALF)),
    (2, Case("buckets of 70, lengths, D 128", Buckets(sorted_rows(70, 70), 70, before=0), sq=70, d=128, lengths=[65],
             **HALF)),
    (None, Case("buckets of nothing", Buckets(torch.full((1, 1, 1, 16), -1, dtype=torch.int32), 8), sq=16, **ONE)),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_buckets(seed: int | None, case: Case) -> None:
    call, exact, plain = solved(case)
    with emulated(seed) as reports:
        got = run(call, "cuda")
    assert_within_budget(got, exact, plain, case.dtype)
    rounds = case.pattern.order.shape[2]
    assert ["_".join(report.kernel.split("_")[:2]) for report in reports] == [
        name for name in ("buckets_forward", "buckets_dq", "buckets_dkv") for _ in range(rounds)
    ]
    for report in reports:
        assert report.ambiguous == [] and report.conflicts == {}, report.kernel
