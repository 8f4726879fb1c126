"""Scattered global positions against a float64 attention with their mask written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, causal, window

from .budget import assert_within_budget, evaluations
from .oracle import Result, mask_of, softmax_attention, survivors

SIZE = 29


def solve(attend: Callable, leaves: list[Tensor], mask: Tensor, lengths: list[int], pattern: Band) -> Tensor:
    """``leaves`` are q, k, v and perhaps q, k, v of the global rows."""
    (q, k, v), (gq, gk, gv) = leaves[:3], leaves[-3:]
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    one = torch.ones((1, 1, 1), dtype=q.dtype)
    scale = q.shape[3] ** -0.5
    of_kv = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    for b, n in enumerate(lengths):
        chosen = mask[b, :n]
        local = torch.from_numpy(mask_of(pattern, b, n, n)) | chosen[None, :]
        near, _ = attend(
            q[b, :, :n], k[b, of_kv, :n], v[b, of_kv, :n], scale, local.expand(q.shape[1], n, n), 0 * one, one
        )
        full = torch.ones(q.shape[1], n, n, dtype=torch.bool)
        rows, _ = attend(gq[b, :, :n], gk[b, of_kv, :n], gv[b, of_kv, :n], scale, full, 0 * one, one)
        out[b, :, :n] = torch.where(chosen[:, None], rows, near)
    return out


def check(
    positions: Tensor,
    mask: Tensor,
    backend: str,
    *,
    pattern: Band = window(3),
    lengths: list[int] | None = None,
    own: bool = False,
    dtype: torch.dtype = torch.float32,
    kv_heads: int = 2,
) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 2, SIZE, 16), (2, kv_heads, SIZE, 16), (2, kv_heads, SIZE, 8)] * (2 if own else 1)
    leaves = [torch.randn(*shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]
    dout = torch.randn(2, 2, SIZE, 8, generator=draw).to(dtype)
    got = pkernels.global_attention(
        *leaves[:3],
        positions,
        pattern,
        global_qkv=tuple(leaves[3:]) if own else None,
        lengths=None if lengths is None else torch.tensor(lengths),
        backend=backend,
    )
    results = []
    for kind, attend in [(torch.float64, softmax_attention), *evaluations(dtype)]:
        typed = [x.detach().to(kind).requires_grad_() for x in leaves]
        out = solve(attend, typed, mask, lengths or [SIZE, SIZE], pattern)
        results.append((out.detach(), torch.autograd.grad(out, typed, dout.to(kind))))
    results.append((got.detach(), torch.autograd.grad(got, leaves, dout)))
    for three in range(0, len(leaves), 3):
        truth, *plain, mine = (Result(out, torch.zeros(1), *grads[three : three + 3]) for out, grads in results)
        assert_within_budget(mine, truth, plain, dtype)


def mask_at(*rows: list[int]) -> Tensor:
    mask = torch.zeros(2, SIZE, dtype=torch.bool)
    for b, row in enumerate(rows):
        mask[b, row] = True
    return mask


POSITIONS = {
    "shared": (torch.tensor([0, 11, 28]), mask_at([0, 11, 28], [0, 11, 28])),
    "per row": (torch.tensor([[3, 9], [28, 0]]), mask_at([3, 9], [28, 0])),
    "filled up": (torch.tensor([[3, -1, 9], [-1, -1, 7]]), mask_at([3, 9], [7])),
    "none": (torch.tensor([], dtype=torch.int64), mask_at([], [])),
    "none in one row": (torch.tensor([[-1], [4]]), mask_at([], [4])),
    "twice": (torch.tensor([5, 5, 6, 5]), mask_at([5, 6], [5, 6])),
    "mask": (mask_at([1, 2, 20], [8]), mask_at([1, 2, 20], [8])),
    "everything": (torch.arange(SIZE), mask_at(list(range(SIZE)), list(range(SIZE)))),
}


@pytest.mark.parametrize("own", [False, True], ids=["same projections", "own projections"])
@pytest.mark.parametrize("name", POSITIONS)
def test_positions(name: str, own: bool, backend: str) -> None:
    check(*POSITIONS[name], backend, own=own)


@pytest.mark.parametrize("pattern", [causal, window(2, 0), window(2, dilation=3), Band(1, 1, columns=2)], ids=str)
def test_patterns(pattern: Band, backend: str) -> None:
    check(*POSITIONS["per row"], backend, pattern=pattern)


def test_lengths_leave_out_positions(backend: str) -> None:
    check(torch.tensor([2, 20, 27]), mask_at([2, 20], [2, 20, 27]), backend, lengths=[21, 29])
    check(torch.tensor([2, 20, 27]), mask_at([], [2]), backend, lengths=[0, 3])


def test_grouped_heads(backend: str) -> None:
    check(*POSITIONS["per row"], backend, kv_heads=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes(dtype: torch.dtype, backend: str) -> None:
    check(*POSITIONS["per row"], backend, own=True, dtype=dtype)


def test_leading_positions_are_a_band(backend: str) -> None:
    q, k, v = torch.randn(3, 2, 2, SIZE, 8, generator=torch.Generator().manual_seed(1))
    scattered = pkernels.global_attention(q, k, v, torch.arange(4), window(3), backend=backend)
    assert torch.allclose(scattered, pkernels.attention(q, k, v, window(3, globals=4), backend=backend), atol=1e-6)


def test_dropout_is_seeded_and_keeps_the_mean(backend: str) -> None:
    q, k = torch.randn(2, 1, 2, SIZE, 8, generator=torch.Generator().manual_seed(1))
    v = torch.ones(1, 2, SIZE, 1)

    def mean(seed: int) -> Tensor:
        return pkernels.global_attention(
            q, k, v, torch.tensor([0, 9]), window(9), dropout=0.5, seed=seed, backend=backend
        )

    assert torch.equal(mean(3), mean(3)) and not torch.equal(mean(3), mean(4))
    total = torch.stack([mean(seed) for seed in range(100)])
    spread = total.std() / len(total) ** 0.5
    assert (total.mean(0) - 1).abs().max() < 6 * spread


def test_global_rows_draw_bits_of_their_own(backend: str) -> None:
    """Local rows, far keys and global rows are seeded one after the other."""
    q, k, v = torch.randn(3, 1, 1, SIZE, 8, generator=torch.Generator().manual_seed(2))
    out = pkernels.global_attention(q, k, v, torch.tensor([4]), window(2), dropout=0.5, seed=10, backend=backend)
    kept = torch.from_numpy(survivors(12, 0, 1, 1, SIZE, 0.5))[0] / 0.5
    row = (torch.softmax(q[0, 0, 4:5] @ k[0, 0].T * 8**-0.5, -1) * kept) @ v[0, 0]
    assert torch.allclose(out[0, 0, 4:5], row, atol=1e-5)


Q = torch.zeros(2, 2, SIZE, 8)
WRONG = {
    "position past the end": ("positions", Q, torch.tensor([SIZE]), {}),
    "position below -1": ("positions", Q, torch.tensor([-2]), {}),
    "positions of floats": ("positions", Q, torch.tensor([1.0]), {}),
    "positions of another batch": ("positions", Q, torch.zeros(3, 1, dtype=torch.int64), {}),
    "a mask of another shape": ("positions", Q, torch.zeros(2, 3, dtype=torch.bool), {}),
    "positions in a list": ("positions", Q, [1, 2], {}),
    "other projections of other shapes": ("global_qkv", Q, torch.tensor([1]), {"global_qkv": (Q, Q, Q[..., :4])}),
    "q with three dimensions": ("q", Q[0], torch.tensor([1]), {}),
    "lengths past the end": ("lengths", Q, torch.tensor([1]), {"lengths": torch.tensor([1, SIZE + 1])}),
    "lengths of another batch": ("lengths", Q, torch.tensor([1]), {"lengths": torch.tensor([1, 2, 3])}),
    "dropout": ("dropout", Q, torch.tensor([1]), {"dropout": 1.5}),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input(name: str) -> None:
    argument, q, positions, options = WRONG[name]
    with pytest.raises(ValueError, match=f"^{argument}: .*(allowed|wanted).*"):
        pkernels.global_attention(q, q, q, positions, window(2), **options)


def test_fewer_keys_than_queries() -> None:
    with pytest.raises(ValueError, match="^k: "):
        pkernels.global_attention(Q, Q[:, :, :4], Q[:, :, :4], torch.tensor([1]), window(2))
