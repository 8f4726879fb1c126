"""The CUDA kernels over Buckets, executed: their PTX runs on the emulator, and is judged as in ``test_cuda_band``."""

from __future__ import annotations

import pytest
import torch

from pkernels import Buckets, attention
from tests.cases import Case
from tests.gpu.judge import EXACT, HALF, ONE, TWO, judged, not_executed, nothing_leaks, same_bits_again
from tests.gpu.nvcc import emulated
from tests.shapes import LAST, sorted_rows

PASSES = ("buckets_forward", "buckets_dq", "buckets_dkv")
CASES = [
    (None, Case("buckets of 64, causal, D 64", Buckets(sorted_rows(100, 64), 64, True, own=LAST), sq=100, d=64,
                **ONE)),
    (1, Case("buckets of 12, 2 rounds, 2:1, D 80, Dv 41", Buckets(sorted_rows(22, 12, 2, 2, missing=0.3), 12), sq=22,
             d=80, dv=41, scale=-0.3, **TWO)),
    (None, Case("buckets, dropout, both neighbours, fp16", Buckets(sorted_rows(30, 16), 16, before=1, after=1, own=0.5),
                sq=30, d=26, dropout=0.3, **HALF)),
    (None, Case("buckets of 70, lengths, D 128", Buckets(sorted_rows(70, 70), 70, before=0), sq=70, d=128,
                lengths=[65], **HALF)),
    (2, Case("buckets, last resort, causal, 3 rounds", Buckets(sorted_rows(9, 8, 3, seed=1), 8, True, own=LAST), sq=9,
             d=16, **ONE)),
    (None, Case("buckets of 24, 2 rounds, causal, dropout, fp32", Buckets(sorted_rows(40, 24, 2), 24, True, own=LAST),
                sq=40, d=64, dropout=0.3, **EXACT)),
    (1, Case("buckets of 12, lengths, D 80, Dv 41, fp32", Buckets(sorted_rows(22, 12), 12, own=0.5), sq=22, d=80, dv=41,
             lengths=[19], scale=-0.3, **EXACT)),
    (None, Case("buckets of 20, 2 rounds, causal, D 256", Buckets(sorted_rows(25, 20, 2), 20, True, own=LAST), sq=25,
                d=256, **ONE)),
    (3, Case("buckets of 40, lengths, dropout, 2:1, D 200, Dv 256",
             Buckets(sorted_rows(37, 40, 1, 2, missing=0.1), 40, before=0, own=0.5), sq=37, d=200, dv=256,
             dropout=0.3, lengths=[35], **{**TWO, "dtype": torch.float16})),
    (None, Case("buckets of nothing", Buckets(torch.full((1, 1, 1, 16), -1, dtype=torch.int32), 8), sq=16, **ONE)),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_buckets(seed: int | None, case: Case) -> None:
    rounds = case.pattern.order.shape[2]
    judged(case, [name for name in PASSES for _ in range(rounds)], seed)


def test_every_kernel_is_executed() -> None:
    assert not_executed(PASSES, [case for _, case in CASES]) == []


LEAKY = Case("buckets, leaks", Buckets(sorted_rows(14, 8), 8, True, before=0), sq=14, d=16, lse_grad=True, **ONE)


def test_results_are_the_same_bits_again() -> None:
    same_bits_again(LEAKY)


def test_nothing_leaks() -> None:
    nothing_leaks(LEAKY)


def test_an_order_that_names_no_row_stays_inside_the_tensors() -> None:
    """The emulator would see an access outside; values on a GPU are not looked at before the launch."""
    wild = Buckets(torch.tensor([[[[0, 99, -7, 2, 1 << 30, 1]]]], dtype=torch.int32), 3)
    tame = Buckets(torch.tensor([[[[0, -1, -1, 2, -1, 1]]]], dtype=torch.int32), 3)
    q, k, v = torch.randn(3, 1, 1, 4, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    with emulated():
        one, other = (attention(q, k, v, pattern, backend="cuda") for pattern in (wild, tame))
    assert torch.equal(one, other) and (one[:, :, 3] == 0).all()
