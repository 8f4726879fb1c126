"""Partial attentions, merged, are one attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, causal, dense, merge

from .budget import assert_within_budget, plain
from .oracle import Call, Result, evaluate


def split(call: Call, cuts: list[int], backend: str) -> Result:
    """The call, its keys in parts, each with the bits of the mask that belong to it."""
    leaves = [x.detach().requires_grad_() for x in (call.q, call.k, call.v)]
    q, k, v = leaves
    kept = torch.zeros(q.shape[2], k.shape[2]).masked_fill(~call.pattern.dense(q.shape[2], k.shape[2]), -torch.inf)
    ends = [*cuts, k.shape[2]]
    parts = [
        pkernels.attention(
            q,
            k[:, :, a:b],
            v[:, :, a:b],
            dense,
            pkernels.Dense(kept[:, a:b].to(q.dtype)),
            return_lse=True,
            backend=backend,
        )
        for a, b in zip([0, *cuts], ends, strict=True)
    ]
    out, lse = merge(*zip(*parts, strict=True))
    return Result(out.detach(), lse.detach(), *torch.autograd.grad((out, lse), leaves, (call.dout, call.dlse)))


def make(sq: int, sk: int, dtype: torch.dtype, pattern: Band) -> Call:
    draw = torch.Generator().manual_seed(sq * sk)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    q, k, v = random(2, 3, sq, 16), random(2, 3, sk, 16), random(2, 3, sk, 8)
    return Call(q, k, v, pattern, dout=random(2, 3, sq, 8), dlse=random(2, 3, sq).float())


@pytest.mark.parametrize("cuts", [[], [20], [1, 2, 36], [0, 37]])
@pytest.mark.parametrize("pattern", [dense, causal, Band(right=-1), Band(3, 3)], ids=str)
def test_parts_of_the_keys_make_the_whole(cuts: list[int], pattern: Band, backend: str) -> None:
    call = make(23, 37, torch.float32, pattern)
    assert_within_budget(split(call, cuts, backend), evaluate(call), plain(call), torch.float32)


def test_rows_empty_in_every_part(backend: str) -> None:
    call = make(9, 4, torch.float32, causal)  # five rows stand before the first key
    got = split(call, [1, 3], backend)
    assert (got.out[:, :, :5] == 0).all() and (got.lse[:, :, :5] == -torch.inf).all()
    assert (got.dq[:, :, :5] == 0).all()
    assert_within_budget(got, evaluate(call), plain(call), torch.float32)


def test_two_narrow_parts_keep_their_dtype(backend: str) -> None:
    call = make(23, 37, torch.bfloat16, dense)
    got = split(call, [20], backend)
    assert got.out.dtype == torch.bfloat16 and got.lse.dtype == torch.float32
    assert_within_budget(got, evaluate(call), plain(call), torch.bfloat16)


def test_one_part_is_itself() -> None:
    out, lse = torch.randn(2, 5, 4), torch.randn(2, 5)
    merged = merge([out], [lse])
    assert torch.equal(merged[0], out) and torch.allclose(merged[1], lse)


def test_far_apart_parts_neither_overflow_nor_vanish() -> None:
    outs, lses = torch.randn(2, 3, 4), torch.tensor([[1e30, -1e30, 300.0], [-1e30, 1e30, 300.0]])
    out, lse = merge(list(outs), list(lses))
    assert torch.equal(out[0], outs[0, 0]) and torch.equal(out[1], outs[1, 1])
    assert torch.allclose(out[2], outs[:, 2].mean(0)) and torch.isfinite(lse).all()


def test_finite_differences() -> None:
    outs = [torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    lses = [torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda *x: merge(x[:3], x[3:]), [*outs, *lses])


def test_gradients_beside_an_empty_part_are_finite() -> None:
    outs = [torch.randn(3, 2, requires_grad=True) for _ in range(2)]
    lses = [torch.tensor([0.0, -torch.inf, -torch.inf], requires_grad=True), torch.tensor([1.0, 2.0, -torch.inf])]
    out, _lse = merge(outs, lses)
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (*outs, lses[0]))


WRONG = {
    "nothing": ([], []),
    "more outs than lses": ([torch.zeros(3, 2)] * 2, [torch.zeros(3)]),
    "other rows": ([torch.zeros(3, 2)], [torch.zeros(4)]),
    "other shapes": ([torch.zeros(3, 2), torch.zeros(3, 1)], [torch.zeros(3)] * 2),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_parts(name: str) -> None:
    with pytest.raises(ValueError, match="^outs, lses: .*allowed, got"):
        merge(*WRONG[name])
