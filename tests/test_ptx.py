"""The real kernels' PTX, executed: what the GPU would run, down to layouts, barriers and addresses.

``pkernels.attention`` itself is called, forward and backward through autograd; every launch of a
Triton kernel compiles it for a GPU and runs that code on the emulator (``tests/gpu/ptx``), which
also refuses races and stray accesses. Results are judged like those of every backend.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from pkernels import causal, window
from pkernels.ops import backends
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved
from tests.gpu.ptx.triton import emulated

NARROW: dict[str, Any] = {"d": 64, "heads": 1, "dtype": torch.bfloat16}
PRODUCT = {"sm_80": "mma.sync.aligned.m16n8k16", "sm_90": "wgmma.mma_async"}
CASES = [
    ("sm_80", None, Case("causal, S 200", causal, sq=200, batch=1, **NARROW)),
    ("sm_80", 1, Case("window, lengths", window(50, 9), sq=150, lengths=[150, 77], **NARROW)),
    ("sm_80", None, Case("causal, dropout, S 130", causal, sq=130, batch=1, dropout=0.3, **NARROW)),
    (
        "sm_80",
        3,
        Case(
            "relative, dilation, globals",
            window(9, 4, dilation=2, globals=3),
            sq=70,
            sk=90,
            batch=1,
            dropout=0.3,
            bias="relative",
            **NARROW,
        ),
    ),
    ("sm_90", 2, Case("causal, S 200, sm_90", causal, sq=200, batch=1, **NARROW)),
    ("sm_90", None, Case("window, dropout, lengths", window(50, 9), sq=150, lengths=[77, 150], dropout=0.3, **NARROW)),
]


@pytest.mark.parametrize(("target", "seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_band(target: str, seed: int | None, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_why_not_triton", lambda q: None)  # the tensors are on the CPU
    call, exact, plain = solved(case)
    with emulated(target, seed) as reports:
        got = run(call, "triton")
    assert_within_budget(got, exact, plain, case.dtype)
    assert {"forward_kernel", "dq_kernel", "dkv_kernel"} <= {report.kernel for report in reports}
    for report in reports:
        assert report.ambiguous == [], report.kernel
        if target == "sm_80" and not case.dropout:
            assert report.conflicts == {}, f"{report.kernel}: banks of shared memory"
    products = sum(
        n for report in reports for opcode, n in report.executed.items() if opcode.startswith(PRODUCT[target])
    )
    assert products > 0
