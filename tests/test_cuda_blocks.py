"""The CUDA kernels over Blocks, executed: their PTX runs on the emulator, and is judged as in ``test_cuda_band``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import Blocks, attention, cuda
from tests import test_attention as shared
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved
from tests.oracle import Call, Result
from tests.shapes import listed

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from tests.gpu.nvcc import emulated

ONE: dict[str, Any] = {"batch": 1, "heads": 1, "dtype": torch.bfloat16}
TWO: dict[str, Any] = {**ONE, "heads": 2, "kv_heads": 1}
HALF: dict[str, Any] = {**ONE, "dtype": torch.float16}
CASES = [
    (None, Case("blocks of 64, D 64", listed(64, 70, 150, most=2, seed=1), sq=70, sk=150, d=64, **ONE)),
    (1, Case("blocks of 16, per head, 2:1, dropout, fp16", listed(16, 20, 37, heads=2, most=2, seed=3), sq=20, sk=37,
             d=64, dropout=0.3, **{**TWO, "dtype": torch.float16})),
    (None, Case("blocks of 20, dropout, D 80, Dv 41", listed(20, 33, 30, most=3), sq=33, sk=30, d=80, dv=41,
                dropout=0.3, scale=-0.3, **ONE)),
    (None, Case("blocks of 100, lengths, D 128", listed(100, 130, 130), sq=130, d=128, lengths=[118], **HALF)),
    (None, Case("blocks of 3, one list, 2:1, lengths", listed(3, 7, 11, seed=2), sq=7, sk=11, d=26,
                lengths=([6], [8]), **TWO)),
    (None, Case("blocks of nothing", Blocks.of([[], [0], []], 8), sq=19, d=16, **ONE)),
    (None, Case("blocks, distance, 20x30", listed(16, 20, 30, most=2, seed=1), sq=20, sk=30, bias="distance", **ONE)),
    (None, Case("blocks, dense hidden, lengths", listed(16, 20, 20, most=2, seed=1), sq=20, bias="dense hidden",
                lengths=[18], **ONE)),
]  # fmt: skip


def of_biased(call: Call) -> Result:
    """Without the gradient of the bias."""
    assert call.bias is not None and call.dout is not None and call.dlse is not None
    leaves = [x.detach().requires_grad_() for x in (call.q, call.k, call.v)]
    out, lse = attention(*leaves, call.pattern, call.bias, lengths=call.lengths, return_lse=True, backend="cuda")
    grads = torch.autograd.grad([out, lse], leaves, [call.dout, call.dlse])
    return Result(out.detach(), lse.detach(), *grads)


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_blocks(seed: int | None, case: Case) -> None:
    call, exact, plain = solved(case)
    with emulated(seed) as reports:
        if case.bias is None:
            got = run(call, "cuda")
        else:  # whose gradient is not there yet
            got, exact = of_biased(call), replace(exact, dbias=None)
    assert_within_budget(got, exact, plain, case.dtype)
    assert ["_".join(report.kernel.split("_")[:2]) for report in reports] == [
        "blocks_forward", "blocks_dq", "blocks_dkv"
    ]  # fmt: skip
    for report in reports:
        assert report.ambiguous == [] and report.conflicts == {}, report.kernel


LEAKY = Case("blocks, leaks", Blocks.of([[0], [1, 0], [0, 0]], 8), sq=19, d=16, lse_grad=True, **ONE)


def test_results_are_the_same_bits_again() -> None:
    with emulated():
        first = run(LEAKY.call(), "cuda")
    with emulated(7):
        shared.assert_same_bits(run(LEAKY.call(), "cuda"), first)


def test_nothing_leaks() -> None:
    with emulated():
        shared.test_rows_that_meet_nothing_may_hold_anything(LEAKY, torch.nan, "cuda")
        shared.test_keys_reach_the_rows_that_see_them_alone(LEAKY, torch.nan, "cuda")
        shared.test_queries_reach_the_keys_they_see_alone(LEAKY, "cuda")
