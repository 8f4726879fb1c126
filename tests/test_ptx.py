"""The real kernels' PTX, executed: what the GPU would run, down to layouts, barriers and addresses.

``pkernels.attention`` itself is called, forward and backward through autograd; every launch of a
Triton kernel compiles it for a GPU and runs that code on the emulator (``tests/gpu/ptx``), which
also refuses races and stray accesses. Results are judged like those of every backend.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from pkernels import Band, Blocks, Buckets, causal, lsh_order, window
from pkernels.ops import backends
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved
from tests.gpu.ptx.triton import emulated
from tests.shapes import LAST, listed, sorted_rows

NARROW: dict[str, Any] = {"d": 64, "heads": 1, "dtype": torch.bfloat16}
PRODUCT = {"sm_80": "mma.sync.aligned.m16n8k16", "sm_90": "wgmma.mma_async"}  # of tiles that are tall enough
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
    ("sm_90", None, Case("relative, S 40, sm_90", window(30, 3), sq=40, batch=1, bias="relative", **NARROW)),
    ("sm_90", 2, Case("causal, S 200, sm_90", causal, sq=200, batch=1, **NARROW)),
    ("sm_90", None, Case("window, dropout, lengths", window(50, 9), sq=150, lengths=[77, 150], dropout=0.3, **NARROW)),
]
# What the other rows of the table of tiles hold: wide heads, float32, the other shapes, and gradients of biases.
SHAPES = (
    Case("window, S 70", window(40, 3), sq=70, batch=1, heads=1),
    Case("blocks of 24, S 60", listed(24, 60, 50, most=2), sq=60, sk=50, batch=1, heads=1),
    Case("buckets of 24, S 40", Buckets(sorted_rows(40, 24), 24, True, own=LAST), sq=40, batch=1, heads=1),
)
BIASES = (
    Case("distance, S 40", window(30, 3), sq=40, batch=1, heads=1, bias="distance"),
    Case("dense hidden, S 40", sq=40, batch=1, heads=1, bias="dense hidden"),
)
CASES += [
    (chip, None, replace(case, id=f"{case.id}, {chip}, D {d}, {dtype}", d=d, dtype=dtype))
    for chip, d, dtype, cases in (
        ("sm_80", 64, torch.bfloat16, SHAPES + BIASES),
        ("sm_80", 128, torch.bfloat16, SHAPES + BIASES),
        ("sm_80", 64, torch.float32, SHAPES),
        ("sm_80", 128, torch.float32, SHAPES),
        ("sm_90", 64, torch.bfloat16, SHAPES + BIASES),
        ("sm_90", 128, torch.bfloat16, SHAPES),
        ("sm_90", 64, torch.float32, SHAPES),
    )
    for case in cases
]
CASES += [
    ("sm_80", None, replace(case, id=f"{case.id}, dropout", d=64, dtype=torch.bfloat16, dropout=0.3))
    for case in SHAPES + BIASES
]


@pytest.mark.parametrize(("target", "seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_attention(target: str, seed: int | None, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_why_not_triton", lambda q: None)  # the tensors are on the CPU
    call, exact, plain = solved(case)
    with emulated(target, seed) as reports:
        got = run(call, "triton")
    assert_within_budget(got, exact, plain, case.dtype)
    shape = {Band: "", Blocks: "blocks_", Buckets: "buckets_"}[type(case.pattern)]
    assert {f"{shape}{name}_kernel" for name in ("forward", "dq", "dkv")} <= {report.kernel for report in reports}
    for report in reports:
        assert report.ambiguous == [], report.kernel
        assert report.conflicts_in_loops == {}, report.kernel
    products = set(PRODUCT.values()) if case.dtype == torch.float32 else {PRODUCT[target]}
    assert any(opcode.startswith(tuple(products)) for report in reports for opcode in report.executed)


def test_the_order_of_buckets_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_why_not_triton", lambda q: None)
    x = torch.randn(1, 2, 70, 26, generator=torch.Generator().manual_seed(3)).bfloat16()
    with emulated("sm_80") as reports:
        got = lsh_order(x, seed=2, rounds=2, buckets=4, chunk=8, backend="triton")
    assert torch.equal(got, lsh_order(x, seed=2, rounds=2, buckets=4, chunk=8, backend="cpu"))
    assert [report.kernel for report in reports] == ["hash_kernel"] and reports[0].ambiguous == []
