"""Scattered global positions against a float64 attention with their mask written out."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, Dense, Distance, causal, window
from pkernels.globals import Globals

from .budget import assert_within_budget, evaluations
from .oracle import Result, mask_of, softmax_attention, survivors

SIZE = 29


def solve(
    attend: Callable, leaves: list[Tensor], mask: Tensor, parts: list[tuple[int, slice]], pattern: Band, own: bool
) -> Tensor:
    """``leaves``: q, k, v, perhaps q, k, v of the global rows, perhaps a bias. ``parts``: batch row
    and rows of each sequence."""
    (q, k, v), (gq, gk, gv) = leaves[:3], leaves[3:6] if own else leaves[:3]
    bias = leaves[-1] if len(leaves) % 3 else torch.zeros(1, 1, 1, 1, dtype=q.dtype)
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    one = torch.ones((1, 1, 1), dtype=q.dtype)
    scale = q.shape[3] ** -0.5
    of_kv = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    for number, (b, rows) in enumerate(parts):
        n = rows.stop - rows.start
        chosen = mask[b, rows]
        added = bias[b if len(bias) > 1 else 0, :, :n, :n]
        local = (torch.from_numpy(mask_of(pattern, number, n, n)) | chosen[None, :]).expand(q.shape[1], n, n)
        near, far = (
            attend(x[b, :, rows], y[b, of_kv, rows], z[b, of_kv, rows], scale, kept & (added != -torch.inf), added, one)
            for x, y, z, kept in ((q, k, v, local), (gq, gk, gv, torch.ones_like(local)))
        )
        out[b, :, rows] = torch.where(chosen[:, None], far[0], near[0])
    return out


def check(
    positions: Tensor,
    mask: Tensor,
    backend: str,
    *,
    pattern: Band = window(3),
    lengths: list[int] | None = None,
    offsets: list[int] | None = None,
    bias: Tensor | None = None,
    own: bool = False,
    dtype: torch.dtype = torch.float32,
    kv_heads: int = 2,
) -> None:
    draw = torch.Generator().manual_seed(0)
    batch = len(mask)
    shapes = [(batch, 2, SIZE, 16), (batch, kv_heads, SIZE, 16), (batch, kv_heads, SIZE, 8)] * (2 if own else 1)
    leaves = [torch.randn(*shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]
    leaves += [] if bias is None else [bias.detach().to(dtype).requires_grad_()]
    dout = torch.randn(batch, 2, SIZE, 8, generator=draw).to(dtype)
    got = pkernels.global_attention(
        *leaves[:3],
        positions,
        pattern,
        global_qkv=tuple(leaves[3:6]) if own else None,
        bias=None if bias is None else Dense(leaves[-1]),
        lengths=None if lengths is None else torch.tensor(lengths),
        offsets=None if offsets is None else torch.tensor(offsets),
        backend=backend,
    )
    parts = [(b, slice(0, n)) for b, n in enumerate(lengths or [SIZE] * batch)]
    if offsets is not None:
        parts = [(0, slice(*ends)) for ends in itertools.pairwise(offsets)]
    results = []
    for kind, attend in [(torch.float64, softmax_attention), *evaluations(dtype)]:
        typed = [x.detach().to(kind).requires_grad_() for x in leaves]
        out = solve(attend, typed, mask, parts, pattern, own)
        results.append((out.detach(), torch.autograd.grad(out, typed, dout.to(kind))))
    results.append((got.detach(), torch.autograd.grad(got, leaves, dout)))
    for three in range(0, len(leaves) - len(leaves) % 3, 3):
        of_bias = slice(len(leaves) - len(leaves) % 3, None)
        truth, *plain, mine = (
            Result(out, torch.zeros(1), *grads[three : three + 3], *grads[of_bias]) for out, grads in results
        )
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
    "leading": (torch.tensor([[2, 0, 1], [0, -1, -1]]), mask_at([0, 1, 2], [0])),
    "leading in one row": (mask_at([0, 1], [0, 2]), mask_at([0, 1], [0, 2])),
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


@pytest.mark.parametrize("own", [False, True], ids=["same projections", "own projections"])
@pytest.mark.parametrize("rows", [[0, 7, 28], [], [9, 10, 20, 21]], ids=["scattered", "none", "leading"])
def test_packed_sequences(rows: list[int], own: bool, backend: str) -> None:
    """Sequences of 9, 0, 11 and 8 rows; the last row belongs to none."""
    kept = [row for row in rows if row < 28]
    mask = mask_at(kept)[:1]
    for positions in (torch.tensor(rows, dtype=torch.int64), mask_at(rows)[:1]):
        check(positions, mask, backend, offsets=[0, 9, 9, 20, 28], own=own)
    check(mask, mask, backend, offsets=[0, 9, 9, 20, 28], pattern=window(2, dilation=2))


def test_columns_of_the_pattern_too(backend: str) -> None:
    for columns in (torch.tensor([5, 0]), 2):
        check(*POSITIONS["leading"], backend, pattern=Band(1, 1, columns=columns))
        check(*POSITIONS["per row"], backend, pattern=Band(1, 1, columns=columns))


@pytest.mark.parametrize("name", ["leading", "per row", "none in one row"])
@pytest.mark.parametrize("shape", [(2, 1, 1, SIZE), (1, 2, SIZE, 1), (2, 2, SIZE, SIZE)], ids=str)
def test_bias(shape: tuple[int, ...], name: str, backend: str) -> None:
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    if shape[3] > 1:
        bias[..., 9] = -torch.inf  # a key that nobody sees, global in one row of "per row"
    check(*POSITIONS[name], backend, bias=bias, lengths=[SIZE, 20], own=True)


def test_leading_positions_take_one_pass() -> None:
    shape, device = (2, SIZE), torch.device("cpu")
    assert Globals.find(POSITIONS["leading"][0], shape, device).leading
    assert not Globals.find(POSITIONS["leading in one row"][0], shape, device).leading
    assert Globals.find(torch.tensor([[0, 1], [0, 9]]), shape, device, lengths=[SIZE, 5]).leading
    packed = {"offsets": torch.tensor([0, 9, 9, SIZE])}
    assert Globals.find(torch.tensor([9, 0]), (1, SIZE), device, **packed).leading
    assert not Globals.find(torch.tensor([8, 0]), (1, SIZE), device, **packed).leading


def test_memory_is_linear(backend: str) -> None:
    """A value for every pair of 2**16 rows would take 16 GiB."""
    if backend == "reference":
        pytest.skip("it is the definition: its memory is that of the mask")
    size = 1 << 16
    q = torch.randn(1, 1, size, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    out = pkernels.global_attention(q, q, q, torch.tensor([5, size // 2, size - 1]), window(8), backend=backend)
    out.sum().backward()
    assert torch.isfinite(q.grad).all()


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
    "a bias by distance": ("bias", Q, torch.tensor([1]), {"bias": Distance(torch.zeros(2, 2 * SIZE - 1))}),
    "a bias of another length": ("bias", Q, torch.tensor([1]), {"bias": Dense(Q[..., :3])}),
    "a bias of packed rows": ("bias", Q[:1], torch.tensor([1]), {"bias": Dense(Q[:1, :, :, :1]), "offsets": [0, SIZE]}),
    "two kinds of ragged rows": ("lengths, offsets", Q, torch.tensor([1]), {"lengths": [1, 2], "offsets": [0, 1]}),
    "offsets of a batch": ("q", Q, torch.tensor([1]), {"offsets": torch.tensor([0, SIZE])}),
    "a pair of offsets": ("offsets", Q[:1], torch.tensor([1]), {"offsets": (torch.tensor([0, 3]),) * 2}),
    "a pair of lengths": ("lengths", Q, torch.tensor([1]), {"lengths": (torch.tensor([1, 2]),) * 2}),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input(name: str) -> None:
    argument, q, positions, options = WRONG[name]
    with pytest.raises(ValueError, match=f"^{argument}: .*(allowed|want).*"):
        pkernels.global_attention(q, q, q, positions, window(2), **options)


def test_fewer_keys_than_queries() -> None:
    with pytest.raises(ValueError, match="^k: "):
        pkernels.global_attention(Q, Q[:, :, :4], Q[:, :, :4], torch.tensor([1]), window(2))
