"""Hashing and sorting, and LSH attention: against the definitions, and in its edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Buckets, attention, local_order, lsh_attention, lsh_order
from pkernels.lsh import unit_length

SHAPES = {
    "one round": {"rounds": 1, "buckets": 4, "chunk": 8},
    "many": {"rounds": 4, "buckets": 32, "chunk": 16},
    "factors": {"rounds": 3, "buckets": (4, 6), "chunk": 7},
    "three factors": {"rounds": 2, "buckets": (2, 64, 2), "chunk": 10},
    "more buckets than rows": {"rounds": 2, "buckets": (256, 256), "chunk": 4},
}


def hashes(x: Tensor, rounds: int, buckets: object, seed: int) -> Tensor:
    """The definition, one row and round at a time."""
    factors = [buckets] if isinstance(buckets, int) else list(buckets)
    r = torch.randn(x.shape[1], x.shape[3], rounds, sum(factors) // 2, generator=torch.Generator().manual_seed(seed))
    found = torch.zeros(*x.shape[:2], rounds, x.shape[2], dtype=torch.int64)
    for b, h, n, i in torch.cartesian_prod(*(torch.arange(k) for k in found.shape)).tolist():
        products, unit, first = x[b, h, i].double() @ r[h, :, n].double(), 1, 0
        for factor in factors:
            part = products[first : first + factor // 2]
            found[b, h, n, i] += unit * int(torch.cat([part, -part]).argmax())
            unit, first = unit * factor, first + factor // 2
    return found


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_order_against_the_definition(name: str, masked: bool, backend: str) -> None:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 53, 26, generator=draw)
    mask = torch.rand(2, 53, generator=draw) < 0.7 if masked else None
    sizes = SHAPES[name]
    got = lsh_order(x, **sizes, seed=5, mask=mask, backend=backend)
    found = hashes(x, sizes["rounds"], sizes["buckets"], 5)
    assert got.dtype == torch.int32 and got.shape == (2, 3, sizes["rounds"], -(-53 // sizes["chunk"]) * sizes["chunk"])
    for b, h, n in torch.cartesian_prod(*(torch.arange(k) for k in got.shape[:3])).tolist():
        real = range(53) if mask is None else mask[b].nonzero().flatten().tolist()
        wanted = sorted(real, key=lambda i, row=found[b, h, n]: (int(row[i]), i))
        assert got[b, h, n].tolist() == wanted + [-1] * (got.shape[3] - len(wanted))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_order_of_other_dtypes(dtype: torch.dtype) -> None:
    x = torch.randn(1, 2, 40, 16).to(dtype)
    wanted = lsh_order(x.double(), rounds=2, buckets=8, chunk=8, seed=3, backend="reference")
    assert torch.equal(lsh_order(x, rounds=2, buckets=8, chunk=8, seed=3), wanted)


def test_order_of_strided_rows(backend: str) -> None:
    x = torch.randn(2, 30, 3, 16).transpose(1, 2)
    one, other = (lsh_order(y, rounds=2, buckets=8, chunk=8, seed=3, backend=backend) for y in (x, x.contiguous()))
    assert torch.equal(one, other)


def test_torchs_generator_governs_the_rotations(backend: str) -> None:
    x = torch.randn(1, 2, 60, 16)
    torch.manual_seed(3)
    first, second = (lsh_order(x, rounds=2, buckets=8, chunk=8, backend=backend) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(lsh_order(x, rounds=2, buckets=8, chunk=8, backend=backend), first)
    assert not torch.equal(first, second)


def by_rounds(qk: Tensor, v: Tensor, order: Tensor, chunk: int, causal: bool) -> Tensor:
    """Kitaev et al.'s computation: each round by itself, then combined by log-sum-exps."""
    key = unit_length(qk)
    rounds, parts = order.shape[2], order.shape[2] * order.shape[3] // chunk
    rows = order.long().flatten(2)

    def take(x: Tensor) -> Tensor:
        return x.gather(2, rows[..., None].expand(-1, -1, -1, x.shape[-1])).unflatten(2, (parts, chunk))

    near = torch.cat([rows.unflatten(2, (parts, chunk)).roll(1, 2), rows.unflatten(2, (parts, chunk))], -1)
    k, values = (torch.cat([take(x).roll(1, 2), take(x)], 3) for x in (key, v))
    at = rows.unflatten(2, (parts, chunk))[..., None]
    dots = take(qk) @ k.mT
    dots = dots.masked_fill(at == near[..., None, :], -1e5)
    dots = dots.masked_fill(at < near[..., None, :], -1e9) if causal else dots
    lse = dots.logsumexp(-1)
    out = (dots - lse[..., None]).exp() @ values
    back = rows.unflatten(2, (rounds, -1)).argsort(-1)
    out = out.flatten(2, 3).unflatten(2, (rounds, -1)).gather(3, back[..., None].expand(*back.shape, v.shape[-1]))
    lse = lse.flatten(2).unflatten(2, (rounds, -1)).gather(3, back)
    return ((lse - lse.logsumexp(2, keepdim=True)).exp()[..., None] * out).sum(2)


@pytest.mark.parametrize("rounds", [1, 2, 5])
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_are_right_for_any_number_of_rounds(rounds: int, causal: bool, backend: str) -> None:
    qk, v, dout = (torch.randn(2, 2, 64, 16, dtype=torch.float64) for _ in range(3))
    order = lsh_order(qk, rounds=rounds, buckets=8, chunk=16, seed=2, backend="reference")
    leaves = [x.requires_grad_() for x in (qk, v)]
    exact = torch.autograd.grad(by_rounds(qk, v, order, 16, causal), leaves, dout)
    narrow = [x.detach().float().requires_grad_() for x in leaves]
    out = lsh_attention(*narrow, chunk=16, causal=causal, order=order, backend=backend)
    torch.testing.assert_close(out.double(), by_rounds(qk, v, order, 16, causal), rtol=0, atol=2e-6)
    for got, wanted in zip(torch.autograd.grad(out, narrow, dout.float()), exact, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-5)


def test_no_more_rows_than_a_chunk(backend: str) -> None:
    qk, v = torch.randn(2, 1, 2, 9, 16)
    scores = (qk @ unit_length(qk).mT).masked_fill(torch.eye(9, dtype=torch.bool), -1e5)
    out = lsh_attention(qk, v, rounds=4, buckets=8, chunk=16, backend=backend)
    torch.testing.assert_close(out, scores.softmax(-1) @ v, rtol=0, atol=2e-6)
    assert lsh_attention(qk[:, :, :0], v[:, :, :0], chunk=16, backend=backend).shape == (1, 2, 0, 16)


def test_rows_past_the_length_change_nothing(backend: str) -> None:
    qk, v = torch.randn(2, 2, 2, 50, 16)
    lengths, options = torch.tensor([50, 33]), {"rounds": 2, "buckets": 4, "chunk": 8, "seed": 1, "backend": backend}
    out = lsh_attention(qk, v, lengths=lengths, **options)
    for x in (qk, v):
        x[1, :, 33:] = torch.nan
    assert torch.equal(lsh_attention(qk, v, lengths=lengths, **options), out)
    assert not out[1, :, 33:].any()


def test_an_order_that_was_kept_is_used_again(backend: str) -> None:
    qk, v = torch.randn(2, 1, 2, 60, 16)
    order = lsh_order(qk, rounds=2, buckets=8, chunk=8, seed=4, backend=backend)
    fresh = lsh_attention(qk, v, rounds=2, buckets=8, chunk=8, seed=4, backend=backend)
    assert torch.equal(lsh_attention(qk, v, chunk=8, order=order, backend=backend), fresh)


def test_local_chunks(backend: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 29, 16)
    at = torch.arange(29)
    near = (at[:, None] // 8 - at // 8) % 4 <= 1  # the first chunk's neighbour is the last
    for causal in (False, True):
        keep = near & (at <= at[:, None]) if causal else near
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, keep)
        got = attention(q, k, v, Buckets(local_order(29, 8), 8, causal), backend=backend)
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6)


def test_memory_is_linear_in_the_length() -> None:
    """No tensor has an element per pair, or per row and round: 40 MB hold what 16 GB would not."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    qk, v = torch.randn(2, 1, 1, 65536, 16)
    lsh_attention(qk, v, rounds=4, buckets=(32, 32), chunk=64, causal=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


BAD = {
    "rounds": ({"rounds": 0}, "rounds: a positive int is allowed, got 0"),
    "chunk": ({"chunk": 0}, "chunk: a positive int is allowed, got 0"),
    "odd buckets": ({"buckets": 5}, "buckets: an even number"),
    "no buckets": ({"buckets": ()}, "buckets: an even number"),
    "mask": ({"mask": torch.ones(1, 3, dtype=torch.bool)}, r"mask: booleans of shape \(1, 20\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_of_orders(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        lsh_order(torch.randn(1, 1, 20, 8), **{"rounds": 1, "buckets": 4, "chunk": 8} | changes)


def test_bad_orders() -> None:
    q = torch.randn(1, 2, 8, 4)
    good = torch.arange(8, dtype=torch.int32).view(1, 1, 1, 8)
    with pytest.raises(ValueError, match="order: rows from 0 to 7, or -1, are allowed, got 0 to 8"):
        attention(q, q, q, Buckets(torch.where(good == 3, 8, good).int(), 4))
    with pytest.raises(ValueError, match="order: 1 or 1 batch rows and 2 or 1 heads"):
        attention(q, q, q, Buckets(good.expand(1, 3, 1, 8), 4))
    with pytest.raises(ValueError, match="order: a multiple of chunk = 3"):
        Buckets(good, 3)
    with pytest.raises(ValueError, match="as many queries as keys"):
        attention(q, q[:, :, :4], q[:, :, :4], Buckets(good, 4))
    with pytest.raises(ValueError, match="bias: none is allowed with Buckets"):
        attention(q, q, q, Buckets(good, 4), pkernels.Distance(torch.zeros(2, 15)))
    with pytest.raises(ValueError, match="offsets: packed sequences are allowed with a Band alone"):
        attention(q, q, q, Buckets(good, 4), offsets=[0, 8])


def test_opcheck(backend: str) -> None:
    x = torch.randn(2, 2, 24, 8)
    rotations = torch.randn(2, 8, 3, 5)
    torch.library.opcheck(torch.ops.pkernels.lsh_order.default, (x, rotations, None, [4, 6], 28, backend))
    q, k, v = torch.randn(3, 2, 2, 24, 8).requires_grad_().unbind()
    order = lsh_order(x, rounds=2, buckets=4, chunk=8, seed=1)
    pattern = (None, None, None, None, order, None, None, None, 8, True, 1, 0, -1e5)
    torch.library.opcheck(torch.ops.pkernels.buckets_fwd.default, (q, k, v, *pattern, 0, False, 1.0, 0.0, backend))


@pytest.mark.compiles
def test_compiles_in_one_graph() -> None:
    def layer(qk: Tensor, v: Tensor) -> Tensor:
        return lsh_attention(qk, v, rounds=2, buckets=4, chunk=8, causal=True, seed=1)

    qk, v = torch.randn(2, 1, 2, 40, 16)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(qk, v), layer(qk, v))
