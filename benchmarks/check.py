"""Nothing is timed that is not right.

pkernels is held against fp64 on a small instance of each workload: the largest error of
output and gradients may be 2 and 3 times what plain torch reaches in the same dtype (by
autograd or by the equations of fused kernels, whichever errs more), plus the rounding floor
of that dtype. The others are then held against pkernels at full size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from pkernels.reference import philox

from .contenders import Contender
from .contenders.ours import SEED
from .contenders.plain import materialised
from .masks import scores_bias, visible
from .workload import Inputs, Workload

AGREE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative difference, in the Euclidean norm, of a baseline from pkernels."""

GRADIENTS, FLOOR = 1e-3, 1e-4
"""Largest relative difference of a parameter's gradient, in the Euclidean norm, where two float32
models should be the same; and the part of the largest gradient below which one is rounding (that
of a key's bias is 0). Equal models differ by 1e-4 at most, a window wider by one key by 3e-2."""


@dataclass(frozen=True)
class Verdict:
    """How a check came out: the largest error over its budget, and of which tensor."""

    passed: bool
    worst: float
    where: str

    def as_dict(self) -> dict:
        """For a row."""
        return asdict(self)


def check(workload: Workload, contender: Contender, device: str, gradients: bool) -> Verdict:
    """Compare a contender with fp64 on the small instance of a workload."""
    small = workload.small()
    x = small.tensors(device, seed=1)
    drop = _dropped(small, x)
    got = _results(contender.prepare(small, x, gradients), x, gradients)
    plain_x, wide_x = x.to(small.dtype), x.to(torch.float64)
    plain = _results(lambda: _written_out(small, plain_x, drop, materialised), plain_x, gradients)
    fused = _results(lambda: _written_out(small, plain_x, drop, TwoPass.attend), plain_x, gradients)
    wide_small = replace(small, dtype=torch.float64)
    wide = _results(lambda: _written_out(wide_small, wide_x, drop, materialised), wide_x, gradients)
    verdicts = []
    for name, factor, mine, one, other, right in zip(
        ("out", "dq", "dk", "dv", "dbias"), (2, 3, 3, 3, 3), got, plain, fused, wide, strict=False
    ):
        budget = factor * max(_error(one, right), _error(other, right)) + _floor(right, mine.dtype)
        error = _error(mine, right)
        verdicts.append(Verdict(error <= budget, error / budget if budget else error, name))
    return worst(verdicts)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """The one to report."""
    return max(verdicts, key=lambda verdict: (not verdict.passed, verdict.worst))


def agree(got: Sequence[Tensor], wanted: Sequence[Tensor]) -> str | None:
    """None if two lists of results are the same but for rounding, else how they differ."""
    for index, (a, b) in enumerate(zip(got, wanted, strict=True)):
        a, b = a.detach(), b.detach()
        difference = float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30))
        limit = max(AGREE.get(a.dtype, 1e-3), AGREE.get(wanted[0].dtype, 1e-3))
        if not difference <= limit:
            return f"result {index} differs from pkernels by {difference:.1e} in norm, {limit:.0e} is allowed"
    return None


def same_gradients(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Verdict:
    """Whether two models have the same parameters' gradients but for rounding."""
    lonely = got.keys() ^ wanted.keys()
    if lonely:
        return Verdict(False, torch.inf, f"gradient of {min(lonely)}, which one side lacks,")
    floor = FLOOR * max(float(y.norm()) for y in wanted.values())
    verdicts = []
    for name, want in wanted.items():
        error = float((got[name] - want).norm() / want.norm().clamp(min=floor) / GRADIENTS)
        error = error if error == error else torch.inf
        verdicts.append(Verdict(error <= 1, error, f"gradient of {name}"))
    return worst(verdicts)


def _results(forward: Callable[[], Tensor], x: Inputs, gradients: bool) -> list[Tensor]:
    with torch.set_grad_enabled(gradients):
        out = forward()
    grads = torch.autograd.grad(out, x.leaves(), x.dout) if gradients else ()
    return [x.real(out.detach()), *grads]


def _written_out(workload: Workload, x: Inputs, drop: Callable[[Tensor], Tensor], attend: Callable) -> Tensor:
    mask, group = visible(workload, x), workload.heads // workload.hkv
    k, v = (y.repeat_interleave(group, 1) for y in (x.k, x.v))
    return attend(x.q, k, v, None if mask is None else ~mask, scores_bias(workload, x), drop)


class TwoPass(torch.autograd.Function):
    """Attention with the backward of fused kernels, in plain torch (Dao et al. 2022,
    arXiv:2205.14135, appendix B.2): delta = rowsum(dO ∘ O) instead of the softmax's own, which
    leaves rounding noise where autograd cancels exactly."""

    @staticmethod
    def attend(*args: object) -> Tensor:
        return TwoPass.apply(*args)

    @staticmethod
    def forward(ctx, q, k, v, hidden, bias, drop):
        ctx.save_for_backward(q, k, v, hidden, bias)
        ctx.drop = drop
        return materialised(q, k, v, hidden, bias, drop)

    @staticmethod
    def backward(ctx, dout):
        q, k, v, hidden, bias = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        scores = q @ k.mT * scale
        scores = scores if bias is None else scores + bias
        scores = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
        lse = torch.logsumexp(scores, -1, keepdim=True)
        p = torch.where(lse == -torch.inf, 0, torch.exp(scores - lse))
        delta = (dout * (ctx.drop(p) @ v)).sum(-1, keepdim=True)
        ds = p * (ctx.drop(dout @ v.mT) - delta)
        dbias = None if bias is None else ds.sum_to_size(bias.shape)
        return scale * ds @ k, scale * ds.mT @ q, ctx.drop(p).mT @ dout, None, dbias, None


def _dropped(workload: Workload, x: Inputs) -> Callable[[Tensor], Tensor]:
    """Dropout with the very bits that pkernels draws for SEED."""
    if workload.dropout == 0:
        return lambda p: p
    batch = torch.arange(workload.batch, device=x.q.device)
    bits = philox.kept(SEED, batch, workload.heads, workload.queries, workload.sk, workload.dropout)
    return lambda p: p * bits / (1 - workload.dropout)


def _error(got: Tensor, right: Tensor) -> float:
    difference = (got.double() - right.double()).abs()
    # NaN anywhere is an infinite error, not one that max() may lose.
    return float(difference.nan_to_num(nan=torch.inf).max()) if difference.numel() else 0.0


def _floor(right: Tensor, dtype: torch.dtype) -> float:
    near = right.to(dtype)
    return 2 * float(((near + 0.3 - 0.3) - near).abs().max()) if near.numel() else 0.0
