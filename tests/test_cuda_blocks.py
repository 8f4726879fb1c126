"""The CUDA kernels over Blocks, executed: their PTX runs on the emulator, and is judged as in ``test_cuda_band``."""

from __future__ import annotations

import pytest
import torch

from pkernels import Blocks
from tests.cases import Case
from tests.gpu.judge import EXACT, HALF, ONE, TWO, judged, not_executed, nothing_leaks, same_bits_again
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
    (None, Case("blocks of 40, dropout, fp32", Blocks.of([[0, 0, 1], [1]], 40), sq=50, sk=45, d=64, dropout=0.3,
                **EXACT)),
    (2, Case("blocks of 12, lengths, D 80, Dv 41, fp32", Blocks.of([[0, 1, 1], [0]], 12), sq=20, d=80, dv=41,
             lengths=([19], [16]), scale=-0.3, **EXACT)),
    (None, Case("blocks of 40, 2:1, D 256", listed(40, 70, 45, most=2, seed=1), sq=70, sk=45, d=256, **TWO)),
    (3, Case("blocks of 70, lengths, dropout, D 200, Dv 256", Blocks.of([[0, 0]], 70), sq=68, sk=20, d=200, dv=256,
             lengths=([66], [17]), dropout=0.3, scale=-0.3, **HALF)),
    # The gradients of biases: blocks wider than a tile and narrower, heads that differ, and what is summed.
    (None, Case("blocks of 16, distance, per head, 2:1, dropout, 40x50", listed(16, 40, 50, heads=2, most=2, seed=1),
                sq=40, sk=50, bias="distance", dropout=0.3, **TWO)),
    (1, Case("blocks of 70, distance of one head, lengths", listed(70, 75, 30, seed=1), sq=75, sk=30, d=26,
             bias="distance shared", lengths=([72], [29]), **{**TWO, "kv_heads": 2})),
    (None, Case("blocks of 5, distance, fp32", listed(5, 20, 16, most=3, seed=2), sq=20, sk=16, bias="distance",
                **EXACT)),
    (None, Case("blocks of 16, relative, per head, 2:1, dropout, 20x37", listed(16, 20, 37, heads=2, most=2, seed=1),
                sq=20, sk=37, d=64, bias="relative", dropout=0.3, **TWO)),
    (None, Case("blocks of 70, relative of one head, 2:1, lengths, fp16", Blocks.of([[1], [0, 1]], 70), sq=75, sk=80,
                d=26, bias="relative shared", lengths=([72], [79]), scale=-0.3, **{**TWO, "dtype": torch.float16})),
    (None, Case("blocks of 36, relative, D 80, Dr 26, dropout", Blocks.of([[1], [0, 1]], 36), sq=40, sk=40, d=80,
                bias="relative 26", dropout=0.3, **ONE)),
    (None, Case("blocks of 5, relative, fp32", listed(5, 9, 12, most=3, seed=4), sq=9, sk=12, bias="relative",
                **EXACT)),
    (None, Case("blocks of 20, distance, D 80, Dv 41, dropout, fp32", Blocks.of([[1, 0, 1], [1]], 20), sq=33, sk=37,
                d=80, dv=41, bias="distance", dropout=0.3, **EXACT)),
    (None, Case("blocks of 12, dense hidden, lengths, D 128, fp32", Blocks.of([[0, 1, 1], [0]], 12), sq=20, d=128,
                bias="dense hidden", lengths=([19], [16]), scale=-0.3, **EXACT)),
    (None, Case("blocks of 20, distance, dropout, D 256", Blocks.of([[1, 0, 1], [1]], 20), sq=33, sk=37, d=256,
                bias="distance", dropout=0.3, **ONE)),
    (None, Case("blocks of 20, dense hidden, lengths, D 256, fp16", Blocks.of([[1, 0, 1], [1]], 20), sq=33, sk=37,
                d=256, bias="dense hidden", lengths=([32], [35]), scale=-0.3, **HALF)),
    (None, Case("blocks of 20, dense hidden, lengths, 66x40", listed(20, 66, 40, most=2, seed=1), sq=66, sk=40,
                bias="dense hidden", lengths=([63], [38]), **ONE)),
    (1, Case("blocks of 24, dense of keys, per head, dropout", listed(24, 80, 40, heads=2, most=2), sq=80, sk=40,
             bias="dense 1x1x1x40", dropout=0.3, **{**TWO, "dtype": torch.float16})),
    (None, Case("blocks of 12, dense of queries, 2:1, fp32", listed(12, 20, 40, most=2), sq=20, sk=40,
                bias="dense 1x2x20x1", **{**TWO, "dtype": torch.float32})),
]  # fmt: skip
CASES += [
    (None, Case(f"blocks, {bias}, D {d}, {given['dtype']}", listed(8, 9, 12), sq=9, sk=12, d=d, bias=bias,
                **given))
    for bias, d, given in [
        *((bias, d, given) for bias in ("distance", "dense") for d, given in ((128, ONE), (64, HALF), (128, HALF))),
        ("distance", 256, HALF), ("dense", 256, ONE), ("relative", 128, HALF),
    ]
]  # fmt: skip
LAST = {None: [], "dense": ["blocks_ddense"], "distance": ["blocks_diagonals"], "relative": ["blocks_diagonals"]}


@pytest.mark.parametrize(("seed", "case"), CASES, ids=lambda x: getattr(x, "id", x))
def test_blocks(seed: int | None, case: Case) -> None:
    judged(case, [*PASSES, *LAST[case.bias and case.bias.split()[0]]], seed)


def test_every_kernel_is_executed() -> None:
    assert not_executed((*PASSES, "blocks_diagonals", "blocks_ddense"), [case for _, case in CASES]) == []


LEAKY = Case("blocks, leaks", Blocks.of([[0], [1, 0], [0, 0]], 8), sq=19, d=16, lse_grad=True, **ONE)


def test_results_are_the_same_bits_again() -> None:
    same_bits_again(LEAKY)


def test_nothing_leaks() -> None:
    nothing_leaks(LEAKY)
