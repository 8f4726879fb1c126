"""The short way of plain calls on the CPU: the operator's results, and only where nobody looks on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils import _python_dispatch, deterministic

from pkernels import Band, attention, causal, dense, ops, window

PATTERNS = [dense, causal, window(7, 3), Band(4, 0, columns=5, rows=3), window(3, dilation=4)]


def tensors(dtype: torch.dtype = torch.float32, *, rows_first: bool = False, size: int = 41) -> tuple[Tensor, ...]:
    """q, k and v of 33 queries and 50 keys, grouped; the values are narrower than the keys."""
    shapes = (2, 4, 33, size), (2, 2, 50, size), (2, 2, 50, 26)
    if rows_first:
        return tuple(torch.randn(b, s, h, d).transpose(1, 2).to(dtype) for b, h, s, d in shapes)
    return tuple(torch.randn(x).to(dtype) for x in shapes)


@contextmanager
def unmade_is_nan() -> Iterator[None]:
    """Memory that C++ allocates is poisoned as well."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert deterministic.fill_uninitialized_memory and torch.ops.aten.empty([3]).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def through_the_operator(*arguments, **options):
    """A mode of torch's functions looks on, so that the call goes the long way."""
    with torch.device("cpu"):
        return attention(*arguments, **options, return_lse=True)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows_first", [False, True])
def test_same_as_the_operator(pattern: Band, dtype: torch.dtype, rows_first: bool) -> None:
    q, k, v = (x.requires_grad_() for x in tensors(dtype, rows_first=rows_first))
    weights = torch.randn(2, 4, 33, 26).to(dtype), torch.randn(2, 4, 33)
    with unmade_is_nan():
        done = ops.plain(q, k, v, pattern, 0.3, "cpu")
        assert done is not None
        gradients = [
            torch.autograd.grad(x, (q, k, v), w, retain_graph=True) for x, w in zip(done, weights, strict=True)
        ]
        both = torch.autograd.grad(done, (q, k, v), weights)
    long = through_the_operator(q, k, v, pattern, scale=0.3, backend="cpu")
    want = [torch.autograd.grad(x, (q, k, v), w, retain_graph=True) for x, w in zip(long, weights, strict=True)]
    want.append(torch.autograd.grad(long, (q, k, v), weights))
    for x, y in zip((*done, *sum([*gradients, both], ())), (*long, *sum(want, ())), strict=True):
        assert torch.equal(x, y) and x.dtype == y.dtype and x.stride() == y.stride()


def test_gradients_of_any_stride() -> None:
    q, k, v = (x.requires_grad_() for x in tensors())
    for weight in (torch.randn(2, 4, 26, 33).mT, torch.ones(()).expand(2, 4, 33, 26), torch.randn(2, 33, 4, 26).mT.mT):
        weight = weight if weight.shape[1] == 4 else weight.transpose(1, 2)
        short, long = attention(q, k, v), through_the_operator(q, k, v)[0]
        for x, y in zip(*(torch.autograd.grad(out, (q, k, v), weight) for out in (short, long)), strict=True):
            assert torch.equal(x, y)


def test_a_second_derivative_is_refused() -> None:
    q, k, v = (x.requires_grad_() for x in tensors())
    (dq,) = torch.autograd.grad(attention(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="a second derivative of attention: band_bwd has none"):
        dq.sum().backward()
    again = torch.autograd.grad(attention(q, k, v).sum(), q)[0]
    assert torch.equal(dq, again)


class Seen(_python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


class Named(Tensor):
    """A subclass, which may have a meaning of its own."""


def test_the_operator_where_somebody_looks_on() -> None:
    q, k, v = tensors()
    assert ops.plain(q, k, v, dense, None, None) is not None
    with Seen() as seen:
        assert ops.plain(q, k, v, dense, None, None) is None
        attention(q, k, v)
    assert "pkernels.band_fwd.default" in seen.names
    with torch.device("cpu"):  # a mode of torch's functions
        assert ops.plain(q, k, v, dense, None, None) is None
    assert ops.plain(q.as_subclass(Named), k, v, dense, None, None) is None
    assert ops.plain(*(x.to("meta") for x in (q, k, v)), dense, None, None) is None


def test_no_transform_is_passed_by() -> None:
    q, k, v = tensors()
    seen = []
    torch.vmap(lambda x: seen.append(ops.plain(x, k, v, dense, None, None)) or x)(q[None])
    with torch.autograd.forward_ad.dual_level():
        seen.append(ops.plain(q, k, v, dense, None, None))
    assert seen == [None, None]


def test_what_the_kernel_cannot_do_is_left_to_the_others() -> None:
    q, k, v = tensors()
    every_other = torch.randn(2, 4, 33, 82)[..., ::2]
    assert ops.plain(every_other, k, v, dense, None, None) is None
    torch.testing.assert_close(attention(every_other, k, v), attention(every_other.contiguous(), k, v))
    assert ops.plain(q, k, v, dense, None, "reference") is None
    assert ops.plain(q[:, :, :0], k, v, dense, None, None) is None
    assert ops.plain(q.double(), k.double(), v.double(), dense, None, None) is None
    assert ops.plain(q, k, v, Band(columns=torch.tensor([3, 1])), None, None) is None
    with pytest.raises(ValueError, match="k: q's head dimension is allowed"):
        attention(q, k[..., 1:], v)
    with pytest.raises(ValueError, match="scale: a finite number is allowed"):
        attention(q, k, v, scale=float("nan"))


def test_sizes_are_not_mixed_up() -> None:
    """What is kept of a call is of these shapes, this pattern and this scale alone."""
    for size in (41, 26, 41):
        q, k, v = tensors(size=size)
        for pattern in (dense, causal, dense):
            for scale in (None, 0.5, 2.0):
                want = attention(q, k, v, pattern, scale=scale, backend="reference")
                torch.testing.assert_close(attention(q, k, v, pattern, scale=scale), want, rtol=1e-5, atol=1e-5)
