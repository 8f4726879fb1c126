"""How far a result may be from the truth: no farther than plain torch gets.

    error <= factor * (error of plain torch in the same dtype) + rounding floor
    floor  = 2 * max |(exact + 0.3 - 0.3) - exact|, computed in that dtype

with factor 2 for the output and the log-sum-exp, 3 for gradients. Errors are the largest
over a tensor, against float64.

The error of one evaluation of a small tensor is a matter of luck: it depends on the order of
the sums. So plain torch is evaluated in a few orders, and once with the backward that every
fused kernel uses (Dao et al. 2022, arXiv:2205.14135, appendix B.2: a softmax row is
differentiated through ``delta = rowsum(dO * O)``, which leaves rounding noise in float32
where autograd gives an exact 0); its error is the largest of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import pkernels

from .oracle import TENSORS, Call, Result, evaluate, softmax_attention

FACTORS = {"out": 2, "lse": 2, "dq": 3, "dk": 3, "dv": 3, "dbias": 3, "dtable": 3}


def device_of(backend: str) -> str:
    """Where a backend's tensors lie: Triton's and CUDA's on a GPU if there is one."""
    return "cuda" if backend in ("triton", "cuda") and torch.cuda.is_available() else "cpu"


def moved(x: Tensor, device: str) -> Tensor:
    """x on a device, with the same strides over the same memory, gaps included."""
    if device == "cpu":
        return x
    size = x.untyped_storage().nbytes() // x.element_size()
    return x.as_strided((size,), (1,), 0).to(device).as_strided(x.size(), x.stride(), x.storage_offset())


def run(call: Call, backend: str) -> Result:
    """The call on a backend, with the gradients it asks for; the result lies in main memory."""
    device = device_of(backend)
    leaves = [moved(x.detach(), device).requires_grad_() for x in call.leaves()]
    bias = None if call.bias is None else type(call.bias)(*leaves[3:])
    reason = backend and pkernels.why_not(backend, *leaves[:3], call.pattern, bias)
    if reason:
        assert backend not in ("reference", "cpu"), reason  # these do whatever the cases ask for
        pytest.skip(f"{backend}: {reason}")
    out, lse = pkernels.attention(
        *leaves[:3],
        call.pattern,
        bias,
        scale=call.scale,
        lengths=call.lengths,
        offsets=call.offsets,
        dropout=call.dropout,
        seed=call.seed,
        return_lse=True,
        backend=backend,
    )
    pairs = [(y, moved(dy, device)) for y, dy in ((out, call.dout), (lse, call.dlse)) if dy is not None]
    grads = torch.autograd.grad([y for y, _ in pairs], leaves, [dy for _, dy in pairs]) if pairs else ()
    return Result(*(x.cpu() for x in (out.detach(), lse.detach(), *grads)))


def plain(call: Call) -> list[Result]:
    """The call in plain torch: several evaluations."""
    ways = evaluations(call.q.dtype)
    if isinstance(call.pattern, pkernels.Buckets) and call.pattern.own is not None:
        ways.pop()  # exp(score - lse) of scores near -1e5 is as rough as their rounding
    relative = isinstance(call.bias, pkernels.Relative)
    return [evaluate(call, dtype, attend) for dtype, attend in ways] + [_turned(call, n) for n in range(3 * relative)]


def _turned(call: Call, seed: int) -> Result:
    """A call with a Relative, its features in another order."""
    query, table = call.leaves()[3:]
    order = torch.randperm(table.shape[-1], generator=torch.Generator().manual_seed(seed))
    turned = replace(call, bias=pkernels.Relative(query[..., order], table[..., order]))
    got, back = evaluate(turned, call.q.dtype), order.argsort()
    grads = {name: getattr(got, name) for name in ("dbias", "dtable")}
    return replace(got, **{name: None if dx is None else dx[..., back] for name, dx in grads.items()})


def evaluations(dtype: torch.dtype) -> list[tuple[torch.dtype, Callable]]:
    """What plain torch is, for tensors of a dtype: ways to compute, as ``evaluate`` takes them."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    orders = [(dtype, _shuffled(n)) for n in range(3)]
    return [(dtype, softmax_attention), *orders, (wide, _TwoPass.attend)]


def assert_within_budget(got: Result, exact: Result, plain: list[Result], dtype: torch.dtype) -> None:
    """Compare every tensor of a result with the truth.

    Raises:
        AssertionError: With one line per tensor that is off: error, budget, where.
    """
    faults = [fault for name in TENSORS if (fault := _fault(name, got, exact, plain, dtype))]
    assert not faults, "\n" + "\n".join(faults)


def _shuffled(seed: int) -> Callable:
    """``softmax_attention`` with queries, keys and features in another order."""

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor, added: Tensor, weights: Tensor):
        draw = torch.Generator().manual_seed(seed)
        rows, keys, features = (torch.randperm(n, generator=draw) for n in (*mask.shape[1:], q.shape[2]))

        def pick(x: Tensor) -> Tensor:
            x = x if x.shape[1] == 1 else x[:, rows]
            return x if x.shape[2] == 1 else x[:, :, keys]

        q, k, v = q[:, rows][..., features], k[:, keys][..., features], v[:, keys]
        scale = pick(scale) if isinstance(scale, Tensor) else scale
        out, lse = softmax_attention(q, k, v, scale, mask[:, rows][..., keys], pick(added), pick(weights))
        back = rows.argsort()
        return out[:, back], lse[:, back]

    return attend


class _TwoPass(torch.autograd.Function):
    """``softmax_attention`` with the backward of fused kernels, in plain torch."""

    @staticmethod
    def attend(*args) -> tuple[Tensor, Tensor]:
        return _TwoPass.apply(*args)

    @staticmethod
    def forward(ctx, q, k, v, scale, mask, added, weights):
        out, lse = softmax_attention(q, k, v, scale, mask, added, weights)
        ctx.save_for_backward(q, k, v, mask, added, weights, out, lse)
        ctx.scale = scale
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        q, k, v, mask, added, weights, out, lse = ctx.saved_tensors
        scores = ctx.scale * (q @ k.mT) + torch.where(mask, added, 0)
        p = torch.where(mask, torch.exp(scores - lse[..., None]), 0)
        delta = (dout * out).sum(-1) - dlse
        ds = torch.where(mask, p * (dout @ v.mT * weights - delta[..., None]), 0)
        dadded = ds.sum_to_size(added.shape)
        return ctx.scale * ds @ k, ctx.scale * ds.mT @ q, (p * weights).mT @ dout, None, None, dadded, None


def _fault(name: str, got: Result, exact: Result, plain: list[Result], dtype: torch.dtype) -> str | None:
    mine, truth = getattr(got, name), getattr(exact, name)
    if (mine is None) != (truth is None):
        return f"{name}: {'missing' if mine is None else 'not expected'}"
    if truth is None:
        return None
    if mine.shape != truth.shape:
        return f"{name}: shape {tuple(mine.shape)} instead of {tuple(truth.shape)}"
    allowed = budget(name, truth, [getattr(result, name) for result in plain], dtype)
    # Infinities must be the same ones; NaN is never right.
    error = torch.where(mine.double() == truth, 0, (mine.double() - truth).abs()).nan_to_num(nan=torch.inf)
    if truth.numel() == 0 or float(error.max()) <= allowed:
        return None
    worst = int(error.argmax())
    where = tuple(int(x) for x in torch.unravel_index(torch.tensor(worst), truth.shape))
    return (
        f"{name}: error {float(error.max()):.3g}, budget {allowed:.3g}; worst at {where}: "
        f"{float(mine[where]):.7g} instead of {float(truth[where]):.7g}; "
        f"{int((error > allowed).sum())} of {truth.numel()} values are off"
    )


def budget(name: str, exact: Tensor, plain: list[Tensor], dtype: torch.dtype) -> float:
    """The largest error allowed."""
    finite = torch.isfinite(exact)
    if not finite.any():
        return 0.0
    exact = exact[finite]
    error = max(float((x[finite].double() - exact).abs().max()) for x in plain)
    rounded = exact.to(dtype)
    floor = float((rounded + 0.3 - 0.3 - rounded).abs().max())
    return FACTORS[name] * error + 2 * floor
