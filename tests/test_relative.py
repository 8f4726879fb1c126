"""What is special about the bias by distance that depends on the query; its values and gradients are
held against the oracle in test_attention.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, Distance, Relative, causal, dense, native, prefix_lm, window

from .budget import run
from .cases import Case
from .edges import RELATIVE
from .oracle import TENSORS, Call, Result, kept_pairs, sequences
from .test_attention import assert_unchanged

CASES = [
    Case("relative leaks", dense, sq=67, bias="relative"),
    Case("relative leaks, causal, 70x100", causal, sq=70, sk=100, d=26, bias="relative"),
    Case("relative leaks, future", Band(left=-4, right=9), bias="relative"),
    Case("relative leaks, dilation", Band(2, 2, columns=9, rows=3, dilation=3), sq=67, bias="relative"),
    Case("relative leaks, prefix", prefix_lm(torch.tensor([0, 21])), lengths=[37, 30], bias="relative"),
    Case("relative leaks, packed", causal, batch=1, sq=60, offsets=[0, 23, 24, 57], bias="relative"),
    RELATIVE,
]


@pytest.fixture(params=native.instruction_sets() if native.why_missing() is None else ())
def instruction_set(request: pytest.FixtureRequest):
    with native.force_instruction_set(request.param):
        yield


def met(call: Call) -> Tensor:
    """``(B, H, Sq, W)``: whether a query meets a kept key at each distance."""
    kept, width = kept_pairs(call), call.bias.table.shape[1]
    zero = call.q.shape[2] - 1 if call.offsets is None else width // 2
    found = torch.zeros(*kept.shape[:3], width, dtype=torch.bool)
    for _, row, (first, n_q), (start, n_k) in sequences(call):
        for i in range(n_q):
            pairs = kept[row, :, first + i, start : start + n_k]
            found[row, :, first + i, zero - i : zero - i + n_k] |= pairs
    return found


def same(one: Result, other: Result, backend: str, names: tuple[str, ...], rows: Tensor | None = None) -> None:
    for name in names:
        a, b = getattr(one, name), getattr(other, name)
        assert_unchanged(a if rows is None else a[rows], b if rows is None else b[rows], backend, name)


def check_what_meets_nothing(case: Case, junk: float, backend: str) -> None:
    call = case.call()
    clean, pairs = run(call, backend), met(call)
    query = call.bias.query.masked_fill(~pairs.any(-1)[..., None], junk)
    table = call.bias.table.masked_fill(~pairs.any(2).any(0)[..., None], junk)
    call.bias = Relative(query, table)
    same(run(call, backend), clean, backend, TENSORS)


def check_a_row_of_the_table(case: Case, backend: str) -> None:
    call = case.call()
    clean, pairs = run(call, backend), met(call)
    row = int(pairs.float().mean((0, 1, 2)).sub(0.4).abs().argmin())
    table = call.bias.table.clone()
    table[:, row] = torch.nan
    call.bias = Relative(call.bias.query, table)
    got, meets = run(call, backend), pairs[..., row]
    same(got, clean, backend, ("out", "lse", "dq", "dbias"), ~meets)
    assert got.lse[meets].isnan().all()


def check_a_query(case: Case, backend: str) -> None:
    call = case.call()
    clean, pairs = run(call, backend), met(call)
    i = int(pairs.float().mean((0, 1, 3)).sub(0.4).abs().argmin())
    query = call.bias.query.clone()
    query[:, :, i] = torch.nan
    call.bias = Relative(query, call.bias.table)
    got = run(call, backend)
    others = (torch.arange(call.q.shape[2]) != i).expand(call.q.shape[:3])
    same(got, clean, backend, ("out", "lse", "dq", "dbias"), others)
    same(got, clean, backend, ("dtable",), ~pairs[:, :, i].any(0))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_what_meets_nothing_may_hold_anything(case: Case, junk: float) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check_what_meets_nothing(replace(case, dtype=dtype), junk, "cpu")


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_row_of_the_table_reaches_the_queries_that_meet_it_alone(case: Case) -> None:
    check_a_row_of_the_table(case, "cpu")


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_query_reaches_the_rows_of_the_table_it_meets_alone(case: Case) -> None:
    check_a_query(case, "cpu")


@pytest.mark.parametrize("pattern", [dense, causal, window(9, 2)], ids=["dense", "causal", "window"])
def test_a_query_of_ones_makes_a_bias_by_distance(pattern: Band) -> None:
    q, k, v, dout = torch.randn(4, 2, 3, 70, 16, generator=torch.Generator().manual_seed(0))
    values = torch.randn(3, 139, requires_grad=True)
    ones = torch.ones(2, 3, 70, 1)
    wanted = pkernels.attention(q, k, v, pattern, Distance(values), scale=0.25, backend="cpu")
    got = pkernels.attention(q, k, v, pattern, Relative(ones, 4 * values[..., None]), scale=0.25, backend="cpu")
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    grads = (torch.autograd.grad(y, values, dout)[0] for y in (got, wanted))
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_the_formula_of_transformer_xl() -> None:
    """Dai et al. 2019, section 3.3: q and k with both of their biases, over a memory."""
    draw = torch.Generator().manual_seed(0)
    heads, d, rows, memory = 2, 8, 5, 7
    w_q, w_kr, w_ke, w_v = (torch.randn(heads * d, heads * d, generator=draw) / 4 for _ in range(4))
    u, v = torch.randn(2, heads, d, generator=draw)
    x = torch.randn(1, memory + rows, heads * d, generator=draw)
    steps = torch.arange(memory + rows - 1, -rows, -1.0)  # i - j, from the furthest key behind to ahead
    angles = steps[:, None] * 10000 ** -torch.arange(0, 1, 2 / (heads * d))
    positions = torch.cat([angles.sin(), angles.cos()], -1)

    def split(y: Tensor) -> Tensor:
        return y.unflatten(-1, (heads, d)).transpose(-3, -2)

    q, k, values = split(x[:, memory:] @ w_q), split(x @ w_ke), split(x @ w_v)
    out = pkernels.attention(
        q + u[:, None], k, values, causal, Relative(q + v[:, None], split(positions @ w_kr)), backend="cpu"
    )
    for h in range(heads):
        for i in range(rows):
            scores = [
                (q[0, h, i] + u[h]) @ k[0, h, j]
                + (q[0, h, i] + v[h]) @ split(positions @ w_kr)[h, steps.tolist().index(memory + i - j)]
                for j in range(memory + i + 1)
            ]
            p = torch.softmax(torch.stack(scores) * d**-0.5, 0)
            torch.testing.assert_close(out[0, h, i], p @ values[0, h, : memory + i + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", [(0,), (3,), (4,), (1, 4)])
def test_gradients_of_some_inputs_alone(wanted: tuple[int, ...]) -> None:
    call = Case("gradients of some, relative", Band(9, 3), bias="relative").call()
    call.dlse = None
    every = run(call, "cpu")
    leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(call.leaves())]
    out = pkernels.attention(*leaves[:3], call.pattern, Relative(*leaves[3:]), backend="cpu")
    grads = torch.autograd.grad(out, [leaves[i] for i in wanted], call.dout)
    for i, grad in zip(wanted, grads, strict=True):
        assert torch.equal(grad, getattr(every, TENSORS[2 + i]))


def test_tensors_of_any_strides() -> None:
    call = Case("strides, relative", causal, d=26, bias="relative").call()
    wanted = run(call, "cpu")
    query, table = call.bias.query, call.bias.table
    for order in ((0, 2, 1), (1, 0, 2), (2, 1, 0)):
        back = torch.tensor(order).argsort().tolist()
        by_row = table.permute(order).contiguous().permute(back)
        for one in (query.transpose(1, 2).contiguous().transpose(1, 2), query.mT.contiguous().mT):
            call.bias = Relative(one, by_row)
            same(run(call, "cpu"), wanted, "cpu", TENSORS)


def test_finite_differences() -> None:
    case = replace(
        RELATIVE, sq=4, d=2, dv=1, heads=2, kv_heads=1, bias="relative 3", lengths=[4, 3], layout="contiguous"
    )
    call = replace(case, dtype=torch.float64).call()

    def attend(q: Tensor, k: Tensor, v: Tensor, *bias: Tensor) -> tuple[Tensor, Tensor]:
        options = {"lengths": call.lengths, "dropout": 0.2, "seed": 1, "return_lse": True}
        out, lse = pkernels.attention(q, k, v, call.pattern, Relative(*bias), **options)
        return out, lse.masked_fill(lse == -torch.inf, 0)

    assert torch.autograd.gradcheck(attend, [x.requires_grad_() for x in call.leaves()])


def test_a_backend_without_it_says_so() -> None:
    q = torch.empty(1, 2, 4, 200, dtype=torch.bfloat16, device="meta")
    bias = Relative(q, torch.empty(2, 7, 200, dtype=torch.bfloat16, device="meta"))
    refusal = "Relative of head dimension 200: the kernels go up to 128, in float32 up to 64: "
    assert str(pkernels.why_not("cuda", q, q, q, window(3, dilation=2), bias)).startswith(refusal)
    wide = torch.zeros(1, 2, 4, 300)
    q, bias = torch.zeros(1, 2, 4, 8), Relative(wide, torch.zeros(2, 7, 300))
    with pytest.raises(NotImplementedError, match="head dimension 300 of the bias: 1 to 256 are supported"):
        pkernels.attention(q, q, q, bias=bias, backend="cpu")
