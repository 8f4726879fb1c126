"""Linear maps by oneDNN are torch's, and everything that is not for it stays with torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import forward_ad

from pkernels import models
from pkernels.models.parts import linear as parts
from pkernels.models.parts.linear import Linear, linear

from ..budget import budget

NEEDED = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.backends.mkldnn.is_available(),
    reason="this torch has no oneDNN",
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes that oneDNN multiplies, of any size and on any processor."""
    seen, product = [], parts._product

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append((*x.shape, weight.shape[0]))
        return product(x, weight, bias)

    monkeypatch.setattr(parts, "_product", watched)
    monkeypatch.setattr(parts, "LEAST", 1)
    monkeypatch.setattr(parts, "onednn_is_faster", lambda: True)
    return seen


def tensors(*shape: int, bias: bool, dtype: torch.dtype = torch.float32) -> list[Tensor | None]:
    """x of a shape, a weight, a bias and the gradient of the result."""
    draw, (width, out) = torch.Generator().manual_seed(3), shape[-2:]
    sizes = ((*shape[:-2], width), (out, width), (out,) if bias else None, (*shape[:-2], out))
    return [None if s is None else torch.randn(s, generator=draw, dtype=torch.float64).float().to(dtype) for s in sizes]


def results(f, given: list[Tensor | None]) -> list[Tensor]:
    """The result and the gradients."""
    *leaves, dy = [None if x is None else x.clone().requires_grad_() for x in given]
    out = f(*leaves)
    return [out.detach(), *torch.autograd.grad(out, [x for x in leaves if x is not None], dy)]


def in_order(seed: int, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """torch's, all of whose sums are taken in another order."""
    draw, rows = torch.Generator().manual_seed(seed), x.flatten(0, -2)
    of_rows, of_out, of_width = (torch.randperm(n, generator=draw) for n in (len(rows), *weight.shape))
    shuffled = F.linear(rows[of_rows][:, of_width], weight[of_out][:, of_width], None if bias is None else bias[of_out])
    return shuffled[of_rows.argsort()][:, of_out.argsort()].view(*x.shape[:-1], len(weight))


@NEEDED
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7, 13), (2, 1, 33, 4), (97, 26, 31), (0, 5, 3)], ids=str)
def test_results_and_gradients_are_the_products(calls: list, shape: tuple[int, ...], bias: bool) -> None:
    got = results(linear, tensors(*shape, bias=bias))
    exact = results(F.linear, tensors(*shape, bias=bias, dtype=torch.float64))
    plain = [results(partial(in_order, seed), tensors(*shape, bias=bias)) for seed in range(4)]
    assert len(calls) == (3 if 0 not in shape else 0)
    for name, mine, truth, *others in zip(("out", "dq", "dk", "dv"), got, exact, *plain, strict=False):
        assert mine.shape == truth.shape
        allowed = budget(name, truth, others, torch.float32)
        assert not mine.numel() or float((mine.double() - truth).abs().max()) <= allowed


@NEEDED
def test_views_are_multiplied_as_they_lie(calls: list) -> None:
    wide, rows = torch.randn(5, 12), torch.randn(9, 4, 6)
    x, weight = rows.transpose(0, 1)[..., ::2], wide[:, 3:6]
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight))
    torch.testing.assert_close(linear(x.expand(4, 9, 3), wide.t()[:3].t()), F.linear(x, wide[:, :3]))
    assert len(calls) == 2


@NEEDED
def test_only_gradients_that_are_asked_for_are_computed(calls: list) -> None:
    x, weight, bias, dy = tensors(3, 5, 7, bias=True)
    assert not linear(x, weight, bias).requires_grad
    with torch.no_grad():
        assert not linear(x.requires_grad_(), weight, bias).requires_grad
    calls.clear()
    (dx,) = torch.autograd.grad(linear(x, weight, bias), x, dy)
    assert calls == [(3, 5, 7), (3, 7, 5)] and dx.shape == x.shape
    calls.clear()
    layer = Linear(5, 7)
    layer.weight.requires_grad_(False)
    layer(x.detach()).sum().backward()
    assert len(calls) == 1 and layer.weight.grad is None and torch.equal(layer.bias.grad, torch.full((7,), 3.0))


@NEEDED
def test_a_graph_that_changed_what_it_saved_is_refused(calls: list) -> None:
    x, weight, _, dy = tensors(3, 5, 7, bias=False)
    out = linear(x, weight.requires_grad_())
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward(dy)


@NEEDED
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_have_gradients(calls: list, bias: bool) -> None:
    def twice(f, dtype: torch.dtype) -> list[Tensor]:
        *leaves, dy = [x for x in tensors(3, 5, 7, bias=bias, dtype=dtype) if x is not None]
        leaves = [x.requires_grad_() for x in leaves]
        gradients = torch.autograd.grad((f(*leaves) * dy).pow(2).sum(), leaves, create_graph=True)
        penalty = torch.stack([x.pow(2).sum() for x in gradients]).sum()
        return [*gradients, *torch.autograd.grad(penalty, leaves)]

    got, want = twice(linear, torch.float32), twice(F.linear, torch.float64)
    assert len(calls) > 3
    for mine, exact in zip(got, want, strict=True):
        assert float((mine - exact).detach().abs().max()) < 1e-5 * float(exact.detach().abs().max())


@NEEDED
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7)], ids=str)
def test_results_may_be_changed_in_place(calls: list, shape: tuple[int, ...]) -> None:
    x, weight, bias, dy = tensors(4, *shape, bias=True)
    x.requires_grad_()
    (got,) = torch.autograd.grad(linear(x, weight, bias).relu_(), x, dy)
    (want,) = torch.autograd.grad(F.linear(x, weight, bias).relu_(), x, dy)
    assert calls
    torch.testing.assert_close(got, want)


class Quantized(Tensor):
    """Stands for weights that say themselves how they are multiplied."""


@pytest.mark.filterwarnings("ignore:TF32", "ignore:.*torch.jit")  # by what turns oneDNN off, and by dual_level
def test_everything_else_is_torchs(calls: list) -> None:
    x, weight, _, _ = tensors(3, 5, 7, bias=False)
    for dtype in (torch.float64, torch.bfloat16):
        assert linear(x.to(dtype), weight.to(dtype)).dtype == dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        linear(x, weight)
    assert linear(x.to("meta"), weight.to("meta")).device.type == "meta"
    assert linear(x[0], weight).shape == (7,)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        linear(x, weight[:, :4])
    assert type(linear(x, weight.as_subclass(Quantized))) is Quantized
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(linear(forward_ad.make_dual(x, torch.ones_like(x)), weight)).tangent
        torch.testing.assert_close(tangent, weight.sum(1).expand(3, 7))
    assert not calls


def test_biases_that_do_not_fit_are_torchs_errors(calls: list) -> None:
    x, weight, bias, _ = tensors(3, 5, 7, bias=True)
    for wrong in (bias.double(), bias.bfloat16(), bias[:3], bias.to("meta")):
        with pytest.raises(RuntimeError, match="dtype|size|device"):
            linear(x, weight, wrong)
    torch.testing.assert_close(linear(x, weight, bias[:1]), F.linear(x, weight, bias[:1]))
    assert not calls


@pytest.mark.filterwarnings("ignore:.*torch.jit", "ignore::torch.jit.TracerWarning")
def test_traced_graphs_are_torchs(calls: list) -> None:
    layer, x = Linear(5, 7), torch.randn(3, 5)
    traced = torch.jit.trace(layer, x, check_trace=False)
    torch.testing.assert_close(traced(x), layer(x))
    assert len(calls) == 1


def test_small_products_are_torchs(calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "LEAST", 4 * 5 * 7)
    x, weight, _, _ = tensors(4, 5, 7, bias=False)
    linear(x[:3], weight)
    assert not calls
    monkeypatch.setattr(parts, "onednn_is_faster", lambda: False)
    linear(x, weight)
    assert not calls


@pytest.mark.compiles
def test_compiled_graphs_choose_for_themselves(calls: list) -> None:
    layer, x = Linear(5, 7), torch.randn(3, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), F.linear(x, layer.weight, layer.bias))
    assert not calls


@pytest.mark.parametrize(
    ("text", "intel"),
    [
        ("processor : 0\nvendor_id : GenuineIntel\n", True),
        ("vendor_id\t: AuthenticAMD\n", False),
        ("processor : 0\nCPU implementer : 0x41\n", True),
        (None, True),
    ],
)
def test_who_made_the_processor(tmp_path: Path, text: str | None, intel: bool) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert parts._intel(tmp_path / "cpuinfo") is intel


FILES = [path for path in sorted(Path(models.__file__).parent.rglob("*.py")) if path.name != "linear.py"]


def test_no_model_leaves_its_products_to_torch() -> None:
    calls = {
        f"{path.name}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("nn.Linear", "torch.nn.Linear", "F.linear")
    }
    assert len(FILES) > 50 and not calls
