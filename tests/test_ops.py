"""The torch operators: schemas, shape inference, autograd, compiling and exporting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import pkernels
from pkernels import Band, Dense, Distance, Relative, causal, prefix_lm, window

pytestmark = pytest.mark.compiles

FEATURES = (
    "plain", "window", "prefix", "distance", "relative", "dense", "dense float32", "lengths", "offsets", "dropout",
    "bf16", "rows first",
)  # fmt: skip


def arguments(feature: str, backend: str) -> list:
    """Of ``band_fwd``, with gradients wanted where they can be."""
    dtype = torch.bfloat16 if feature in ("bf16", "dense float32") else torch.float32
    batch = 1 if feature == "offsets" else 2

    def leaf(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    q, k, v = leaf(batch, 4, 9, 8), leaf(batch, 2, 9, 8), leaf(batch, 2, 9, 6)
    if feature == "rows first":
        q, k, v = (x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (q, k, v))
    whole = torch.tensor([[0, 9], [0, 4]], dtype=torch.int32)
    packed = torch.tensor([[0, 5], [5, 0], [5, 3]], dtype=torch.int32)
    spans = whole if feature == "lengths" else packed if feature == "offsets" else None
    return [
        q,
        k,
        v,
        leaf(4, 17, dtype=torch.float32) if feature == "distance" else None,
        leaf(2, 1, 9, 9, dtype=torch.float32 if feature == "dense float32" else dtype) if "dense" in feature else None,
        leaf(batch, 4, 9, 5) if feature == "relative" else None,
        leaf(4, 17, 5) if feature == "relative" else None,
        torch.tensor([0, 5], dtype=torch.int32) if feature == "prefix" else None,
        spans,
        spans,
        torch.tensor([7]) if feature == "dropout" else None,
        *((3, 2, 1, 2, 2) if feature == "window" else (pkernels.INF, 0, 0, 0, 1)),
        8 if feature in ("distance", "relative") else 0,
        feature == "offsets",
        0.3 if feature == "window" else None,
        0.5 if feature == "dropout" else 0.0,
        backend,
    ]


@pytest.mark.parametrize("feature", FEATURES)
def test_opcheck_forward(feature: str, backend: str) -> None:
    torch.library.opcheck(torch.ops.pkernels.band_fwd.default, tuple(arguments(feature, backend)))


@pytest.mark.parametrize("feature", FEATURES)
def test_opcheck_backward(feature: str, backend: str) -> None:
    given = [x.detach() if isinstance(x, Tensor) else x for x in arguments(feature, backend)]
    out, lse = torch.ops.pkernels.band_fwd(*given)
    dlse = None if feature == "plain" else torch.randn_like(lse)
    grads = ("distance" in feature, "dense" in feature, *["relative" in feature] * 2)
    torch.library.opcheck(
        torch.ops.pkernels.band_bwd.default, (torch.randn_like(out), dlse, *given[:3], out, lse, *given[3:], *grads)
    )


# Compiled ---------------------------------------------------------------------------------


def loss(out: Tensor, lse: Tensor) -> Tensor:
    return out.float().square().sum() + lse.masked_fill(lse == -torch.inf, 0).square().sum()


def with_dropout(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, dropout=0.5, seed=3, backend=backend, return_lse=True))


def with_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, causal, lengths=lengths, backend=backend, return_lse=True))


def with_pair_of_lengths(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, lengths=(lengths, lengths), backend=backend, return_lse=True))


def with_offsets(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q[:1], k[:1], v[:1], causal, offsets=offsets, backend=backend, return_lse=True))


def with_prefix(q: Tensor, k: Tensor, v: Tensor, prefix: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, prefix_lm(prefix), backend=backend, return_lse=True))


def with_distance(q: Tensor, k: Tensor, v: Tensor, values: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, window(4), Distance(values), backend=backend, return_lse=True))


def with_relative(q: Tensor, k: Tensor, v: Tensor, query: Tensor, table: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, window(4), Relative(query, table), backend=backend, return_lse=True))


def with_dense(q: Tensor, k: Tensor, v: Tensor, values: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, window(4), Dense(values), backend=backend, return_lse=True))


def with_globals(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, backend: str) -> Tensor:
    return pkernels.global_attention(q, k, v, positions, window(3), backend=backend).square().sum()


def plain(q: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return loss(*pkernels.attention(q, k, v, backend=backend, return_lse=True))


CALLS: dict[str, tuple[Callable, Callable]] = {
    "plain": (plain, lambda s: ()),
    "dropout": (with_dropout, lambda s: ()),
    "lengths": (with_lengths, lambda s: (torch.tensor([s, s // 2]),)),
    "pair of lengths": (with_pair_of_lengths, lambda s: (torch.tensor([s, s // 2]),)),
    "offsets": (with_offsets, lambda s: (torch.tensor([0, s // 2, s // 2, s - 1]),)),
    "prefix": (with_prefix, lambda s: (torch.tensor([0, s // 2]),)),
    "distance": (with_distance, lambda s: (torch.randn(4, 2 * s - 1, requires_grad=True),)),
    "relative": (
        with_relative,
        lambda s: (torch.randn(2, 4, s, 5, requires_grad=True), torch.randn(4, 2 * s - 1, 5, requires_grad=True)),
    ),
    "dense": (with_dense, lambda s: (torch.randn(2, 1, 1, s, requires_grad=True),)),
    "globals": (with_globals, lambda s: (torch.tensor([0, s - 1]),)),
}


def leaves(size: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(size)
    shapes = [(2, 4, size, 8), (2, 2, size, 8), (2, 2, size, 8)]
    return [torch.randn(*shape, generator=draw).requires_grad_() for shape in shapes]


def results(call: Callable, inputs: list, backend: str) -> list[Tensor]:
    wanted = [x for x in inputs if x.requires_grad]
    value = call(*inputs, backend)
    return [value.detach(), *torch.autograd.grad(value, wanted)]


@pytest.mark.parametrize("name", CALLS)
def test_compiled_is_eager_and_one_graph_serves_every_length(name: str, backend: str) -> None:
    call, more = CALLS[name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter)
    for n, size in enumerate((12, 19, 31, 48)):
        inputs = [*leaves(size), *more(size)]
        for a, b in zip(results(compiled, inputs, backend), results(call, inputs, backend), strict=True):
            assert torch.equal(a, b)
        # The first length is taken for a constant, the second makes it a variable.
        assert counter.frame_count == min(n, 1) + 1


def windowed(
    q: Tensor, k: Tensor, v: Tensor, left: int, right: int, columns: int, dilation: int, backend: str
) -> Tensor:
    pattern = Band(left, right, columns=columns, dilation=dilation)
    return pkernels.attention(q, k, v, pattern, backend=backend).square().sum()


def test_one_graph_serves_every_width(backend: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(windowed, fullgraph=True, backend=counter)
    inputs = leaves(40)
    for n, (left, right, columns, dilation) in enumerate([(3, 4, 2, 2), (9, 5, 3, 3), (17, 6, 5, 4), (25, 8, 7, 6)]):
        compiled(*inputs, left, right, columns, dilation, backend).backward()
        assert counter.frame_count == min(n, 1) + 1
        got = compiled(*inputs, left, right, columns, dilation, backend)
        assert torch.equal(got, windowed(*inputs, left, right, columns, dilation, backend))


def test_dynamic_from_the_first_call(backend: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(windowed, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for size, left in ((12, 3), (19, 4), (31, 20)):
        inputs = leaves(size)
        got = results(lambda *x, left=left: compiled(*x[:3], left, left + 1, 2, 2, x[3]), inputs, backend)
        wanted = results(lambda *x, left=left: windowed(*x[:3], left, left + 1, 2, 2, x[3]), inputs, backend)
        assert all(map(torch.equal, got, wanted))
        counts.append(counter.frame_count)
    assert len(set(counts)) == 1


def test_compiled_by_inductor() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(with_lengths, fullgraph=True)
    inputs = [*leaves(24), torch.tensor([24, 7])]
    got, wanted = results(compiled, inputs, "cpu"), results(with_lengths, inputs, "cpu")
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(got, wanted, strict=True))


def test_the_default_backend_and_a_drawn_seed_compile() -> None:
    torch._dynamo.reset()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return pkernels.attention(q, k, v, dropout=0.5)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    inputs = leaves(20)
    first, second = compiled(*inputs), compiled(*inputs)
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    again = compiled(*inputs)
    torch.manual_seed(1)
    assert torch.equal(compiled(*inputs), again)
    again.sum().backward()


# Exported ---------------------------------------------------------------------------------


class Attention(torch.nn.Module):
    def __init__(self, call: Callable, backend: str) -> None:
        super().__init__()
        self.call, self.backend = call, backend

    def forward(self, q: Tensor, k: Tensor, v: Tensor, more: tuple[Tensor, ...]) -> Tensor:
        return self.call(q, k, v, *more, self.backend)


@pytest.mark.parametrize("name", ["plain", "lengths", "dropout"])
def test_export_with_any_length(name: str, backend: str) -> None:
    call, more = CALLS[name]
    size = torch.export.Dim("size", min=2, max=4096)
    rows = {2: size}
    extra = more(16)
    program = torch.export.export(
        Attention(call, backend),
        (*leaves(16), extra),
        dynamic_shapes={"q": rows, "k": rows, "v": rows, "more": tuple(None for _ in extra)},
    )
    for n in (16, 29, 64):
        inputs, extra = leaves(n), more(n)
        assert torch.equal(program.module()(*inputs, extra), call(*inputs, *extra, backend))


# What is not there says so ----------------------------------------------------------------


def test_double_backward_is_refused(backend: str) -> None:
    q, k, v = leaves(9)
    out = pkernels.attention(q, k, v, backend=backend)
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises((RuntimeError, NotImplementedError), match="(?i)band_bwd|second|double|twice"):
        torch.autograd.grad(dq.sum(), q)


def test_forward_mode_is_refused(backend: str) -> None:
    q, k, v = (x.detach() for x in leaves(9))
    with pytest.raises(NotImplementedError, match="forward-mode differentiation"):
        torch.func.jvp(lambda q: pkernels.attention(q, k, v, backend=backend), (q,), (q,))
    values = torch.zeros(4, 17)
    with pytest.raises(NotImplementedError, match="forward-mode differentiation"):
        torch.func.jvp(lambda x: pkernels.attention(q, k, v, bias=Distance(x), backend=backend), (values,), (values,))
    table = torch.zeros(4, 17, 8)
    with pytest.raises(NotImplementedError, match="forward-mode differentiation"):
        torch.func.jvp(lambda x: pkernels.attention(q, k, v, bias=Relative(q, x), backend=backend), (table,), (table,))


def test_transforms_of_functions_are_refused(backend: str) -> None:
    q, k, v = (x.detach() for x in leaves(9))
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(lambda q: pkernels.attention(q, k, v, backend=backend).sum())(q)


def test_vmap_is_a_loop(backend: str) -> None:
    q, k, v = (x.detach() for x in leaves(9))
    many = torch.stack([q, 2 * q, -q])
    out = torch.vmap(lambda q: pkernels.attention(q, k, v, causal, backend=backend))(many)
    for a, b in zip(many, out, strict=True):
        assert torch.equal(pkernels.attention(a, k, v, causal, backend=backend), b)


# What the dispatcher knows ----------------------------------------------------------------


def test_meta_tensors_have_shapes_alone() -> None:
    q, k, v = (torch.empty(2, h, 2**20, d, device="meta") for h, d in ((4, 8), (2, 8), (2, 6)))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        fakes = [torch.empty(x.shape) for x in (q, k, v)]
        out, lse = pkernels.attention(*fakes, window(9), return_lse=True, backend="cpu")
    assert out.shape == (2, 4, 2**20, 6) and lse.shape == (2, 4, 2**20) and lse.dtype == torch.float32


def test_checkpointing_recomputes_the_same(backend: str) -> None:
    inputs = leaves(20)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return pkernels.attention(q, k, v, dropout=0.5, backend=backend)

    def gradients(run: Callable) -> tuple[Tensor, ...]:
        torch.manual_seed(4)
        return torch.autograd.grad(run(*inputs).square().sum(), inputs)

    again = gradients(lambda *x: torch.utils.checkpoint.checkpoint(call, *x, use_reentrant=False))
    assert all(map(torch.equal, gradients(call), again))
