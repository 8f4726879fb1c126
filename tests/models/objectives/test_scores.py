"""The tiled score loss against the one with an (S, S) tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pkernels.models.parts.objectives import score_loss

from ..pairs import assert_close

TILE = 8
SIZES = [1, TILE - 1, TILE, TILE + 1, 3 * TILE - 1]


def tensors(size: int, dtype: torch.dtype = torch.float64, *, batch: int = 2, heads: int = 3) -> list[Tensor]:
    """q, k of width 5 and the teacher's of width 7; strided as attention's are."""
    draw = torch.Generator().manual_seed(size)
    return [
        torch.randn(batch, size, heads, width, generator=draw).to(dtype).transpose(1, 2).requires_grad_()
        for width in (5, 5, 7, 7)
    ]


def plain(
    q: Tensor, k: Tensor, tq: Tensor, tk: Tensor, real: Tensor | None = None, scales=(5**-0.5, 7**-0.5)
) -> Tensor:
    difference = q @ k.mT * scales[0] - tq @ tk.mT * scales[1]
    if real is None:
        return difference.square().mean()
    pairs = (real[:, None, :, None] & real[:, None, None, :]).expand_as(difference)
    return difference[pairs].square().mean()


@pytest.mark.parametrize("size", SIZES)
def test_loss_and_both_gradients_agree(size: int) -> None:
    q, k, tq, tk = tensors(size)
    got, want = score_loss(q, k, tq, tk, tile=TILE), plain(q, k, tq, tk)
    assert_close(got, want, "loss")
    for name, mine, theirs in zip("qk", torch.autograd.grad(3 * got, (q, k)), torch.autograd.grad(3 * want, (q, k)),
                                  strict=True):  # fmt: skip
        assert_close(mine, theirs, f"gradient of {name}")
        assert mine.any()


@pytest.mark.parametrize("real", [[[1] * 9, [0] * 4 + [1] * 5], [[1, 0, 1] * 3, [1] * 2 + [0] * 7]])
def test_pairs_with_padding_do_not_count(real: list) -> None:
    q, k, tq, tk = tensors(9)
    mask = torch.tensor(real).bool()
    got, want = score_loss(q, k, tq, tk, real=mask, tile=TILE), plain(q, k, tq, tk, mask)
    assert_close(got, want, "loss")
    for mine, theirs in zip(torch.autograd.grad(got, (q, k)), torch.autograd.grad(want, (q, k)), strict=True):
        assert_close(mine, theirs, "gradient")
        assert not mine.transpose(1, 2)[~mask].any()
    poisoned = [x.detach().masked_fill(~mask[:, None, :, None], torch.nan) for x in (q, k, tq, tk)]
    assert_close(score_loss(*poisoned, real=mask, tile=TILE), want, "loss")


def test_scales_are_the_callers() -> None:
    q, k, tq, tk = tensors(11)
    got = score_loss(q, k, tq, tk, scale=0.3, teacher_scale=2.0, tile=TILE)
    assert_close(got, plain(q, k, tq, tk, scales=(0.3, 2.0)), "loss")


def test_gradcheck_and_the_teacher_gets_none() -> None:
    q, k, tq, tk = tensors(5, heads=1)
    assert torch.autograd.gradcheck(lambda q, k: score_loss(q, k, tq, tk, tile=2), (q, k))
    score_loss(q, k, tq, tk).backward()
    assert tq.grad is None and tk.grad is None
    assert q.grad is not None and k.grad is not None


def test_one_side_may_be_frozen() -> None:
    q, k, tq, tk = tensors(9)
    want = torch.autograd.grad(score_loss(q, k, tq, tk), k)[0]
    assert torch.equal(torch.autograd.grad(score_loss(q.detach(), k, tq, tk), k)[0], want)
    assert not score_loss(q.detach(), k.detach(), tq, tk).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_narrow_dtypes_are_no_worse_than_torch(dtype: torch.dtype) -> None:
    exact = [x.detach().to(dtype).double().requires_grad_() for x in tensors(50)]
    narrow = [x.detach().to(dtype).requires_grad_() for x in exact]
    want = plain(*exact)
    wants = [want, *torch.autograd.grad(want, exact[:2])]
    got, usual = score_loss(*narrow, tile=TILE), plain(*narrow)
    gots, usuals = ([loss, *torch.autograd.grad(loss, narrow[:2])] for loss in (got, usual))
    for mine, plainly, right in zip(gots, usuals, wants, strict=True):
        floor = 2 * (right.to(mine.dtype).double() - right).abs().max() + 1e-7 * right.abs().max()
        assert (mine.double() - right).abs().max() <= 2 * (plainly.double() - right).abs().max() + floor
    assert gots[1].dtype == dtype and gots[0].dtype == torch.float32


def test_autocast_does_not_round_the_scores() -> None:
    q, k, tq, tk = (x.float() for x in tensors(20))
    with torch.autocast("cpu", torch.bfloat16):
        inside = score_loss(q, k, tq, tk)
    assert torch.equal(inside, score_loss(q, k, tq, tk))


class Largest(TorchDispatchMode):
    """The most elements that any tensor had that an operator made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_memory_grows_with_the_length_alone() -> None:
    """No tensor of (S, S) is made, nor kept for the backward pass."""
    q, k, tq, tk = tensors(512, torch.float32, batch=1, heads=1)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        with Largest() as most:
            loss = score_loss(q, k, tq, tk, tile=16)
        with most:
            loss.backward()
    assert most.elements <= 512 * (5 + 7) < 512 * 512
    assert max(kept) <= 512 * 7
    with Largest() as usual:
        plain(q, k, tq, tk).backward()
    assert usual.elements >= 512 * 512  # the counter counts


def test_it_is_differentiable_once() -> None:
    q, k, tq, tk = tensors(3)
    loss = score_loss(q, k, tq, tk)
    with pytest.raises(RuntimeError, match="score_loss: create_graph=False is allowed"):
        torch.autograd.grad(loss, q, create_graph=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.zeros(2, 3, 4)}, r"q: floats of shape \(B, H, S, D\)"),
        ({"q": torch.zeros(2, 3, 9, 5, dtype=torch.int64)}, "q: floats"),
        ({"k": torch.zeros(2, 3, 8, 5)}, r"k: shape \(2, 3, 9, 5\) is allowed, got \(2, 3, 8, 5\)"),
        ({"teacher_q": torch.zeros(2, 12, 9, 7)}, r"teacher_q: shape \(2, 3, 9, .D'.\) is allowed, got"),
        ({"teacher_k": torch.zeros(2, 3, 9, 5)}, r"teacher_k: shape \(2, 3, 9, 7\)"),
        ({"real": torch.ones(2, 8, dtype=torch.bool)}, r"real: booleans of shape \(2, 9\)"),
        ({"real": torch.ones(2, 9)}, "real: booleans"),
        ({"tile": 0}, "tile: at least 1"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(changes: dict, message: str) -> None:
    given = dict(zip(("q", "k", "teacher_q", "teacher_k"), tensors(9), strict=True)) | changes
    with pytest.raises(ValueError, match=message):
        score_loss(**given)
