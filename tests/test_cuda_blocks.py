"""The CUDA kernels over Blocks, executed: their PTX runs on the emulator, and is judged as in ``test_cuda_band``."""

from __future__ import annotations

import pytest
import torch

from pkernels import Blocks, attention
from tests.cases import Case
from tests.gpu.judge import HALF, ONE, TWO, judged, not_executed, nothing_leaks, same_bits_again
from tests.oracle import Call, Result
from tests.shapes import listed

PASSES = ("blocks_forward", "blocks_dq", "blocks_dkv")
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
CASES += [
    (None, Case(f"blocks, {bias}, D {d}, {given['dtype']}", listed(8, 9, 12), sq=9, sk=12, d=d, bias=bias, **given))
    for bias in ("distance", "dense") for d, given in ((128, ONE), (64, HALF), (128, HALF))
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
    if case.bias is None:
        judged(case, PASSES, seed)
    else:  # whose gradient is not there yet
        judged(case, PASSES, seed, of_biased, dbias=None)


def test_every_kernel_is_executed() -> None:
    assert not_executed(PASSES, [case for _, case in CASES]) == []


LEAKY = Case("blocks, leaks", Blocks.of([[0], [1, 0], [0, 0]], 8), sq=19, d=16, lse_grad=True, **ONE)


def test_results_are_the_same_bits_again() -> None:
    same_bits_again(LEAKY)


def test_nothing_leaks() -> None:
    nothing_leaks(LEAKY)
