"""The LSTM with a projected state: against its equations, one row and one step at a time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from pkernels import native, projected_lstm

from .budget import budget

NAMES = ("x", "recurrent", "projection", "h", "c")


@dataclass(frozen=True)
class Call:
    """Sizes and settings; a few of each edge."""

    batch: int
    steps: int
    cells: int
    width: int
    lengths: tuple[int, ...] | None = None
    cell_clip: float | None = None
    projection_clip: float | None = None
    reverse: bool = False

    @property
    def settings(self) -> dict:
        lengths = None if self.lengths is None else torch.tensor(self.lengths)
        return {
            "lengths": lengths, "cell_clip": self.cell_clip, "projection_clip": self.projection_clip,
            "reverse": self.reverse,
        }  # fmt: skip

    def tensors(self, dtype: torch.dtype) -> list[Tensor]:
        """``NAMES``, and the gradients of out, h and c."""
        draw = torch.Generator().manual_seed(7)
        b, c, p = self.batch, self.cells, self.width
        shapes = (
            (b, self.steps, 4 * c), (4 * c, p), (p, c), (b, p), (b, c), (b, self.steps, p), (b, p), (b, c)
        )  # fmt: skip
        found = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
        # So that states neither vanish nor grow, whatever the sizes.
        found[1], found[2] = found[1] * p**-0.5, found[2] * 2 * c**-0.5
        return [x.to(torch.float32).to(dtype) for x in found]


CALLS = {
    "one": Call(1, 1, 1, 1),
    "odd": Call(3, 5, 13, 5, (5, 0, 2), 0.5, 0.3),
    "back": Call(3, 5, 13, 5, (2, 5, 1), 0.5, 0.3, True),
    "lanes": Call(2, 4, 16, 16, None, 1.0, None),
    "a group and more": Call(9, 3, 84, 33, (3, 1, 2, 3, 0, 2, 3, 1, 1), None, 0.4, True),
    "two groups": Call(5, 3, 128, 17, None, 0.5, 0.5),
    "more rows than a worker's": Call(67, 2, 20, 16, tuple(n % 3 for n in range(67)), 0.7, 0.7),
    "no steps": Call(2, 0, 5, 3, (0, 0)),
    "no rows": Call(0, 3, 5, 3),
}


def equations(call: Call, given: list[Tensor], order: Tensor | None = None) -> list[Tensor]:
    """``(out, h, c)`` and the five gradients, in the tensors' dtype; sums in another ``order`` of cells."""
    leaves = [x.clone().requires_grad_() for x in given[:5]]
    x, recurrent, projection, h0, c0 = leaves
    cells = torch.arange(call.cells) if order is None else order
    projection = projection[:, cells]
    outs, hs, cs = [], [], []
    for row in range(call.batch):
        h, c = h0[row], c0[row][cells]
        found: dict[int, Tensor] = {}
        steps = range(call.steps if call.lengths is None else call.lengths[row])
        for t in reversed(steps) if call.reverse else steps:
            i, f, g, o = ((x[row, t] + recurrent @ h).unflatten(0, (4, -1))[:, cells]).unbind(0)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            if call.cell_clip is not None:
                c = c.clamp(-call.cell_clip, call.cell_clip)
            h = projection @ (torch.sigmoid(o) * torch.tanh(c))
            if call.projection_clip is not None:
                h = h.clamp(-call.projection_clip, call.projection_clip)
            found[t] = h
        nothing = h.new_zeros(call.width)
        outs += [found.get(t, nothing) for t in range(call.steps)]
        hs.append(h)
        cs.append(c[cells.argsort()])
    empty = torch.zeros(0, dtype=x.dtype)
    out = (torch.stack(outs) if outs else empty).reshape(call.batch, call.steps, call.width)
    ends = (
        torch.stack(hs) if hs else empty.reshape(0, call.width),
        torch.stack(cs) if cs else empty.reshape(0, call.cells),
    )
    return results((out, *ends), leaves, given[5:])


def results(outs: tuple[Tensor, ...], leaves: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    loss = sum((y * dy).sum() for y, dy in zip(outs, weights, strict=True)) + sum(x.sum() for x in leaves) * 0
    return [*(y.detach() for y in outs), *torch.autograd.grad(loss, leaves)]


def ours(call: Call, given: list[Tensor], backend: str) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in given[:5]]
    out, state = projected_lstm(*leaves[:3], (leaves[3], leaves[4]), **call.settings, backend=backend)
    return results((out, *state), leaves, given[5:])


def assert_right(call: Call, got: list[Tensor], dtype: torch.dtype) -> None:
    exact = equations(call, call.tensors(torch.float64))
    orders = [torch.randperm(call.cells, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    plain = [equations(call, call.tensors(dtype), order) for order in (None, *orders)]
    for name, mine, truth, others in zip(("out", "h", "c", *NAMES), got, exact, zip(*plain, strict=True), strict=True):
        assert mine.shape == truth.shape and mine.dtype == dtype
        allowed = budget("dq" if name in NAMES else "out", truth, list(others), dtype)
        error = float((mine.double() - truth).abs().max()) if truth.numel() else 0.0
        assert error <= allowed, f"{name}: error {error:.3g}, budget {allowed:.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_outputs_states_and_gradients_are_the_equations(name: str, dtype: torch.dtype, backend: str) -> None:
    if backend == "cpu" and dtype == torch.float64:
        with pytest.raises(NotImplementedError, match='float64 by "reference" alone'):
            ours(CALLS[name], CALLS[name].tensors(dtype), backend)
        return
    assert_right(CALLS[name], ours(CALLS[name], CALLS[name].tensors(dtype), backend), dtype)


def test_clips_of_these_tests_clip() -> None:
    out, _, c, *_ = ours(CALLS["odd"], CALLS["odd"].tensors(torch.float64), "reference")
    assert 0.05 < (out.abs() == 0.3).double().mean() < 0.9 and 0.05 < (c[[0, 2]].abs() == 0.5).double().mean() < 0.9


@pytest.fixture(params=["portable", "avx2", "avx512", "avx512bf16"])
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    if native.why_missing() is not None or request.param not in native.instruction_sets():
        pytest.skip(f"{request.param} is not there")
    with native.force_instruction_set(request.param):
        yield


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("name", ["odd", "a group and more", "two groups"])
def test_every_instruction_set_is_right(name: str) -> None:
    assert_right(CALLS[name], ours(CALLS[name], CALLS[name].tensors(torch.float32), "cpu"), torch.float32)


@pytest.mark.usefixtures("instructions")
def test_gates_are_right_far_from_0_and_near_it() -> None:
    """One cell whose gates are what they are given: sigmoid and tanh, to a few units in the last place."""
    z = torch.cat(
        [torch.linspace(-100, 100, 4001), torch.logspace(-30, 2, 999), torch.tensor([torch.inf, -torch.inf, 0])]
    )
    zero, ones = torch.zeros_like(z), torch.full_like(z, 40.0)
    one = torch.ones(1, 1)
    for name, gates in {"i": (z, zero, ones, ones), "g": (ones, zero, z, ones), "o": (ones, zero, ones, z)}.items():
        x = torch.stack(gates, -1)[:, None]
        out, _ = projected_lstm(x, torch.zeros(4, 1), one, backend="cpu")
        exact, _ = projected_lstm(x.double(), torch.zeros(4, 1).double(), one.double(), backend="reference")
        error = (out.double() - exact).abs() / exact.abs().clamp(min=1e-30)
        # Without fused multiply-adds the power knows its exponent less well the larger it is.
        assert (error.flatten() <= 1e-6 * (1 + z.abs().clamp(max=100) / 16)).all(), name


@pytest.mark.parametrize("reverse", [False, True])
def test_without_clips_it_is_torchs(reverse: bool, backend: str) -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(6, 20, proj_size=9, batch_first=True, bidirectional=True)
    x, end = torch.randn(3, 7, 6), "_reverse" if reverse else ""
    w = {
        name: getattr(lstm, f"{name}_l0{end}") for name in ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
    }
    gates = x @ w["weight_ih"].T + w["bias_ih"] + w["bias_hh"]
    out, _ = projected_lstm(gates, w["weight_hh"], w["weight_hr"], reverse=reverse, backend=backend)
    want = lstm(x)[0].chunk(2, -1)[int(reverse)]
    assert (out - want).abs().max() < 1e-6


def test_neither_threads_nor_another_run_change_a_bit() -> None:
    call, before = CALLS["more rows than a worker's"], torch.get_num_threads()
    given = call.tensors(torch.float32)
    first = ours(call, given, "cpu")
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            again = ours(call, given, "cpu")
            assert all(torch.equal(a, b) for a, b in zip(first[:3], again[:3], strict=True))
            assert torch.equal(first[3], again[3]) and torch.equal(first[6], again[6])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_are_computed_in_float32(dtype: torch.dtype, backend: str) -> None:
    call = CALLS["odd"]
    given = call.tensors(dtype)
    got = ours(call, given, backend)
    want = ours(call, [x.float() for x in given], backend)
    for mine, wide in zip(got[:3], want[:3], strict=True):
        assert mine.dtype == dtype and torch.equal(mine, wide.to(dtype))
    for mine, wide in zip(got[3:], want[3:], strict=True):
        assert mine.dtype == dtype and (mine.float() - wide).abs().max() <= 0.02 * wide.abs().max()


def test_autocast_reaches_no_product_within(backend: str) -> None:
    call = CALLS["odd"]
    given = call.tensors(torch.float32)
    want = ours(call, given, backend)
    with torch.autocast("cpu", torch.bfloat16):
        got = ours(call, given, backend)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_any_strides_will_do(backend: str) -> None:
    call = CALLS["odd"]
    given = call.tensors(torch.float32)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) if x.dim() > 1 else x for x in given]
    for a, b in zip(ours(call, given, backend), ours(call, strided, backend), strict=True):
        assert (a - b).abs().max() < 1e-5


def test_states_are_kept_for_a_derivative_alone(backend: str) -> None:
    x, recurrent, projection, h, c = CALLS["odd"].tensors(torch.float32)[:5]
    for keep in (False, True):
        *_, gates, cells = torch.ops.pkernels.projected_lstm_fwd(
            x, recurrent, projection, h, c, None, None, None, False, keep, backend
        )
        assert (gates.numel(), cells.numel()) == ((3 * 5 * 52, 3 * 5 * 13) if keep else (0, 0))
    out = torch.ops.pkernels.projected_lstm_fwd(
        x.requires_grad_(), recurrent, projection, h, c, None, None, None, False, False, backend
    )[0]
    with pytest.raises(RuntimeError, match="keep=True is needed"):
        out.sum().backward()


BAD = {
    "x: a tensor of shape": {"x": torch.zeros(3, 5)},
    "x: shape (B, S, 52)": {"x": torch.zeros(3, 5, 50)},
    "x: float32": {"x": torch.zeros(3, 5, 52, dtype=torch.int64)},
    "recurrent: shape (52, 5)": {"recurrent": torch.zeros(52, 4)},
    "recurrent: x's dtype": {"recurrent": torch.zeros(52, 5).double()},
    "state, h: shape (3, 5)": {"state": (torch.zeros(3, 4), torch.zeros(3, 13))},
    "state: a pair": {"state": torch.zeros(3, 5)},
    "lengths: a tensor of int64": {"lengths": [5, 5, 5]},
    "lengths: shape (3,)": {"lengths": torch.tensor([5])},
    "lengths: between 0 and 5": {"lengths": torch.tensor([6, 1, 1])},
    "cell_clip: more than 0": {"cell_clip": 0.0},
    "projection_clip: more than 0": {"projection_clip": -1.0},
    "backend: one of": {"backend": "tpu"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message: str) -> None:
    x, recurrent, projection, h, c = CALLS["odd"].tensors(torch.float32)[:5]
    given = {"x": x, "recurrent": recurrent, "projection": projection, "state": (h, c)} | BAD[message]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        projected_lstm(**given)


# Compiled -----------------------------------------------------------------------------------


@pytest.mark.compiles
@pytest.mark.parametrize("name", ["odd"])
def test_opcheck(name: str, backend: str) -> None:
    call = CALLS[name]
    tensors = call.tensors(torch.float32)
    settings = (call.settings["lengths"], call.cell_clip, call.projection_clip, call.reverse)
    leaves = [x.requires_grad_() for x in tensors[:5]]
    torch.library.opcheck(torch.ops.pkernels.projected_lstm_fwd.default, (*leaves, *settings, True, backend))
    x, recurrent, projection, h, c = (x.detach() for x in leaves)
    out, _, _, gates, cells = torch.ops.pkernels.projected_lstm_fwd(
        x, recurrent, projection, h, c, *settings, True, backend
    )
    dout, dh, dc = tensors[5:]
    kept = (recurrent, projection, h, c, settings[0], out, gates, cells)
    torch.library.opcheck(torch.ops.pkernels.projected_lstm_bwd.default, (dout, dh, dc, *kept, *settings[1:], backend))


@pytest.mark.compiles
def test_one_graph_serves_every_number_of_steps(backend: str) -> None:
    torch._dynamo.reset()

    def call(x: Tensor, recurrent: Tensor, projection: Tensor, lengths: Tensor) -> Tensor:
        out, (h, c) = projected_lstm(x, recurrent, projection, lengths=lengths, cell_clip=0.5, backend=backend)
        return out.square().sum() + h.sum() + c.sum()

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, backend=counter, dynamic=True)
    for steps, batch in itertools.product((4, 9), (3, 5)):
        x, recurrent, projection = Call(batch, steps, 6, 7).tensors(torch.float32)[:3]
        lengths = torch.arange(batch) % steps
        found = []
        for f in (compiled, call):
            leaves = [y.clone().requires_grad_() for y in (x, recurrent, projection)]
            value = f(*leaves, lengths)
            found.append([value.detach(), *torch.autograd.grad(value, leaves)])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert counter.frame_count == 1
