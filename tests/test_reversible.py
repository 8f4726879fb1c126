"""Reversible stacks against the same layers with their activations kept."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import pkernels
from pkernels import Reversible
from pkernels.reversible import kept

WIDTH = 16


class Attend(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.qkv, self.dropout = nn.Linear(WIDTH, 3 * WIDTH), dropout

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        return pkernels.attention(q, k, v, dropout=self.dropout).transpose(1, 2).flatten(2)


class Feed(nn.Sequential):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__(nn.Linear(WIDTH, 32), nn.GELU(), nn.Dropout(dropout), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor, *_: object, **__: object) -> Tensor:
        return super().forward(x)


def stack(depth: int = 3, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> Reversible:
    torch.manual_seed(depth)
    return Reversible([(Attend(dropout), Feed(dropout)) for _ in range(depth)]).to(dtype)


def plainly(model: Reversible, x1: Tensor, x2: Tensor, *context: object, **named: object) -> tuple[Tensor, Tensor]:
    for f, g in model.layers:
        x1 = x1 + f(x2, *context, **named)
        x2 = x2 + g(x1, *context, **named)
    return x1, x2


def inputs(dtype: torch.dtype = torch.float64, rows: int = 5) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    x1, x2 = (torch.randn(2, rows, WIDTH, generator=draw).to(dtype).requires_grad_() for _ in range(2))
    return x1, x2


def gradients(run: Callable, model: nn.Module, *given: object, seed: int = 7, extra: tuple = ()) -> list[Tensor]:
    torch.manual_seed(seed)
    y1, y2 = run(*given)
    leaves = [x for x in (*given[:2], *extra, *model.parameters()) if x.requires_grad]
    weights = torch.linspace(-1, 1, y1.numel(), dtype=y1.dtype).view_as(y1)
    return [y1.detach(), y2.detach(), *torch.autograd.grad((y1 * weights + y2.square()).sum(), leaves)]


def assert_same(got: list[Tensor], wanted: list[Tensor], limit: float) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert (a - b).abs().max() <= limit * max(1, b.abs().max()), (a - b).abs().max()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_gradients_are_those_of_the_plain_stack(dropout: float, dtype: torch.dtype, limit: float) -> None:
    model = stack(3, dropout, dtype)
    x = inputs(dtype)
    assert_same(gradients(model, model, *x), gradients(lambda *x: plainly(model, *x), model, *x), limit)


def test_one_tensor_may_be_both_halves() -> None:
    model, (x, _) = stack(), inputs()
    (got,) = torch.autograd.grad(sum(y.sum() for y in model(x, x)), x)
    (want,) = torch.autograd.grad(sum(y.sum() for y in plainly(model, x, x)), x)
    assert_same([got], [want], 1e-10)


def test_parameters_alone_want_gradients_and_some_are_frozen() -> None:
    model = stack()
    model.layers[1][0].requires_grad_(False)
    x = [x.detach() for x in inputs()]
    assert_same(gradients(model, model, *x), gradients(lambda *x: plainly(model, *x), model, *x), 1e-10)


def test_shared_parameters_and_two_uses_in_one_graph() -> None:
    one, two = Attend(), Feed()
    model = Reversible([(one, two), (one, two)]).double()
    x = inputs()
    twice = lambda run: lambda *x: run(*run(*x))  # noqa: E731
    got = gradients(twice(model), model, *x)
    assert_same(got, gradients(twice(lambda *x: plainly(model, *x)), model, *x), 1e-10)


def test_nested_stacks() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = stack(2, dropout=0.3)

        def forward(self, x: Tensor) -> Tensor:
            return self.stack(x, x.flip(1))[0]

    model = Reversible([(Inner(), Feed(0.2)), (Attend(), Inner())]).double()
    x = inputs()
    assert_same(gradients(model, model, *x), gradients(lambda *x: plainly(model, *x), model, *x), 1e-10)


def test_context_is_handed_on_and_gets_its_gradient() -> None:
    class Mix(nn.Module):
        def forward(self, x: Tensor, states: Tensor, *, scale: float, bias: Tensor) -> Tensor:
            return torch.tanh(x * states * scale + bias)

    model = Reversible([(Mix(), Mix()), (Mix(), Mix())])
    x = inputs()
    states, bias = (torch.randn(5, WIDTH, dtype=torch.float64).requires_grad_() for _ in range(2))
    results = [
        gradients(lambda x1, x2, run=run: run(x1, x2, states, scale=0.5, bias=bias), model, *x, extra=(states, bias))
        for run in (model, lambda *x, **named: plainly(model, *x, **named))
    ]
    assert_same(*results, 1e-10)


def test_the_callers_random_numbers_are_left_alone() -> None:
    model, x = stack(2, dropout=0.5), inputs()
    torch.manual_seed(3)
    y1, _ = model(*x)
    before = torch.get_rng_state()
    y1.sum().backward()
    assert torch.equal(torch.get_rng_state(), before)


def test_autocast_is_replayed() -> None:
    model, x = stack(2, dtype=torch.float32), inputs(torch.float32)

    def run(function: Callable) -> list[Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y1, y2 = function(*x)
        return list(torch.autograd.grad((y1.float() + y2.float()).sum(), [*x, *model.parameters()]))

    assert_same(run(model), run(lambda *x: plainly(model, *x)), 2e-2)


class Sorted(nn.Module):
    """Rows in an order that a rounding error in the rebuilt input would change."""

    orders: list[Tensor]

    def __init__(self, keep: bool) -> None:
        super().__init__()
        self.orders, self.keep = [], keep
        self.weight = nn.Parameter(torch.linspace(0, 1, 400))

    def forward(self, x: Tensor) -> Tensor:
        def order() -> Tensor:
            return (x * 1e6).round().remainder(7).argsort(stable=True)

        chosen = kept(order) if self.keep else order()
        self.orders.append(chosen)
        return x[chosen] * self.weight


@pytest.mark.parametrize("keep", [True, False])
def test_decisions_are_kept(keep: bool) -> None:
    model = Reversible([(Sorted(keep), Sorted(keep)) for _ in range(4)])
    x1, x2 = torch.randn(2, 400, generator=torch.Generator().manual_seed(0)).unbind()
    sum(y.sum() for y in model(x1.requires_grad_(), x2)).backward()
    same = [torch.equal(*half.orders) for pair in model.layers for half in pair]
    assert all(same) == keep, same


def test_hooks_run_once() -> None:
    model, x = stack(2), inputs()
    seen: list[str] = []
    for name, p in model.named_parameters():
        p.register_hook(lambda grad, name=name: seen.append(name))
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.append(name + " after"))
    sum(y.sum() for y in model(*x)).backward()
    names = [name for name, _ in model.named_parameters()]
    assert sorted(seen) == sorted([*names, *(name + " after" for name in names)])


def _wrapped(model: Reversible) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def _sharded(model: Reversible) -> nn.Module:
    return fully_shard(model, reshard_after_forward=True)


def _train(rank: int, path: str, spread: Callable[[Reversible], nn.Module]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    model = stack(2)
    parallel = spread(copy.deepcopy(model))
    halves = [tuple(x[rank : rank + 1].detach() for x in inputs()) for rank in range(2)]
    sum(y.square().sum() for y in parallel(*halves[rank])).backward()
    for half in halves:
        (sum(y.square().sum() for y in plainly(model, *half)) / 2).backward()
    for got, want in zip(parallel.parameters(), model.parameters(), strict=True):
        grad = got.grad.full_tensor() if isinstance(got.grad, DTensor) else got.grad
        assert (grad - want.grad).abs().max() < 1e-10
    fully_shard(model.layers[0][1])
    with pytest.raises(NotImplementedError, match="fully_shard: the Reversible or"):
        model(*halves[rank])
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("spread", [_wrapped, _sharded], ids=["ddp", "fsdp"])
def test_training_on_two_processes_sees_the_gradients(tmp_path: Path, spread: Callable) -> None:
    torch.multiprocessing.spawn(_train, args=(str(tmp_path / "meet"), spread), nprocs=2)


def test_no_grad_keeps_nothing() -> None:
    model, x = stack().eval(), inputs()
    with torch.no_grad():
        assert_same(list(model(*x)), [y.detach() for y in plainly(model, *x)], 1e-12)
        assert model(*x)[0].grad_fn is None


def test_rebuilt_activations_drift_little() -> None:
    model = stack(24, dtype=torch.float32)
    x = inputs(torch.float32)
    wide = copy.deepcopy(model).double()
    truth = gradients(lambda *x: plainly(wide, *x), wide, *(y.detach().double().requires_grad_() for y in x))

    def error(got: list[Tensor]) -> float:
        return max(float((a - b).norm() / b.norm()) for a, b in zip(got, truth, strict=True))

    assert error(gradients(model, model, *x)) < 5 * error(gradients(lambda *x: plainly(model, *x), model, *x))


PEAKS = """
import gc, torch
from torch import nn
from benchmarks import memory
from pkernels import Reversible
torch.set_num_threads(1)

def peak_of(depth):
    halves = [(nn.Sequential(nn.Linear(16, 16), nn.Tanh()), nn.Linear(16, 16)) for _ in range(depth)]
    model = Reversible(halves)
    x1, x2 = torch.randn(2, 560_000, 16).unbind()  # too large for the heap: freed memory goes back at once
    gc.collect()
    return memory.peak(lambda: sum(y.sum() for y in model(x1.requires_grad_(), x2)).backward(), "cpu")

print(peak_of(2) and peak_of(6), peak_of(24))
"""


def test_memory_does_not_grow_with_depth() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not tell peaks of memory")
    root = Path(__file__).resolve().parent.parent
    run = [sys.executable, "-c", PEAKS]
    done = subprocess.run(run, cwd=root, capture_output=True, text=True, timeout=300, check=True)
    few, many = map(int, done.stdout.split())
    assert many <= 1.1 * few, (few, many)


@pytest.mark.parametrize("layers", [[], [(nn.Identity(),)], [(nn.Identity(), 3)]], ids=str)
def test_bad_layers_are_refused(layers: list) -> None:
    with pytest.raises(ValueError, match="layers: one or more pairs"):
        Reversible(layers)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x2: x1's shape and device are allowed, got \(3,\)"):
        stack()(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"layers: a module that returns shape \(1, 16\)"):
        Reversible([(nn.Linear(16, 2), nn.Identity())])(*torch.zeros(2, 1, 16))


def test_differentiating_twice_is_refused() -> None:
    model, x = stack(1), inputs()
    y1, _ = model(*x)
    with pytest.raises(NotImplementedError, match="create_graph: a Reversible can be differentiated once"):
        torch.autograd.grad(y1.sum(), x[0], create_graph=True)


def test_the_graph_is_freed() -> None:
    y1, _ = stack(1)(*inputs())
    y1.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y1.sum().backward()


@pytest.mark.compiles
def test_compiling_it_whole_is_refused_and_its_halves_compile() -> None:
    model, x = stack(1), inputs()
    with pytest.raises(Exception, match="compile its f and g instead"):
        torch.compile(model, backend="aot_eager", fullgraph=True)(*x)
    halves = Reversible([(torch.compile(Feed().double(), backend="aot_eager"), Feed().double())])
    assert_same(gradients(halves, halves, *x), gradients(lambda *x: plainly(halves, *x), halves, *x), 1e-10)
