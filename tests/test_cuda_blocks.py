"""The CUDA kernels over Blocks, executed: their PTX runs on the emulator, and is judged as in ``test_cuda_band``."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import Blocks, cuda
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved
from tests.shapes import listed

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from tests.gpu.nvcc import emulated

ONE: dict[str, Any] = {"batch": 1, "heads": 1, "dtype": torch.bfloat16}
TWO: dict[str, Any] = {**ONE, "heads": 2, "kv_heads": 1}
HALF: dict[str, Any] = {**ONE, "dtype": torch.float16}
CASES = [
    (None, Case("blocks of 64, D 64", listed(64, 130, 150, most=2, seed=1), sq=130, sk=150, d=64, **ONE)),
    (1, Case("blocks of 16, per head, 2:1, dropout, fp16", listed(16, 70, 50, heads=2, most=2), sq=70, sk=50, d=64,
             dropout=0.3, **{**TWO, "dtype": torch.float16})),
    (None, Case("blocks of 20, dropout, D 80, Dv 41", listed(20, 47, 50, most=3), sq=47, sk=50, d=80, dv=41,
                dropout=0.3, scale=-0.3, **ONE)),
    (2, Case("blocks of 100, lengths, D 128", listed(100, 130, 130), sq=130, d=128, lengths=[120], **HALF)),
    (None, Case("blocks of 1, one list, 2:1", listed(1, 6, 9), sq=6, sk=9, d=26, **TWO)),
    (None, Case("blocks of nothing", Blocks.of([[], [0], []], 8), sq=19, d=16, **ONE)),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_blocks(seed: int | None, case: Case) -> None:
    call, exact, plain = solved(case)
    with emulated(seed) as reports:
        got = run(call, "cuda")
    assert_within_budget(got, exact, plain, case.dtype)
    assert ["_".join(report.kernel.split("_")[:2]) for report in reports] == [
        "blocks_forward", "blocks_dq", "blocks_dkv"
    ]  # fmt: skip
    for report in reports:
        assert report.ambiguous == [] and report.conflicts == {}, report.kernel
