"""Few global rows go through the projections themselves; many have keys and values made for them."""

from __future__ import annotations

import pytest
import torch

from pkernels.models.parts.attention import split_heads
from pkernels.models.parts.global_rows import GlobalRows
from pkernels.models.parts.layouts import Masked, Packed, Ragged, Whole

WIDTH, HEADS, SIZE = 78, 3, 37
HOLES = torch.arange(SIZE).remainder(5).ne(1).expand(2, -1)
LAYOUTS = {
    "whole": Whole(2, SIZE, torch.device("cpu")),
    "lengths, a text without tokens": Ragged(torch.tensor([29, 0]), SIZE),
    "holes": Masked(HOLES),
}


def projected(module: GlobalRows, x: torch.Tensor, layout: Whole, found) -> torch.Tensor:
    (q,) = split_heads(module.q(found.pick(x, 1)), 1, HEADS)
    k, v = split_heads(module.kv(x), 2, HEADS)
    return layout.attend_from(q, k, v, found, 0.0)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("rows", [1, 25, 26])
def test_folding_changes_nothing(layout: Whole, rows: int) -> None:
    torch.manual_seed(0)
    module = GlobalRows(WIDTH, HEADS)
    x = torch.randn(2, SIZE, WIDTH, requires_grad=True)
    found = layout.globals(torch.arange(0, rows))
    leaves = [x, *module.parameters()]
    results = []
    for out in (module(x, layout, found), projected(module, x, layout, found)):
        out = out * found.filled[:, None, :, None]  # the other slots are nobody's
        results.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for got, want in zip(*results, strict=True):
        assert (got - want).abs().max() <= 2e-5 * want.abs().max().clamp(min=1)


@pytest.mark.parametrize("rows", [2, 26])
def test_dropout_is_of_weights_and_only_while_training(rows: int) -> None:
    torch.manual_seed(0)
    module, layout = GlobalRows(WIDTH, HEADS, dropout=0.5), LAYOUTS["whole"]
    x, found = torch.randn(2, SIZE, WIDTH), layout.globals(torch.arange(rows))
    with torch.no_grad():
        trained = torch.stack([module(x, layout, found) for _ in range(400)])
        assert (trained[0] - trained[1]).abs().max() > 0.01
        module.eval()
        wanted = module(x, layout, found)
    assert torch.equal(wanted, module(x, layout, found))
    assert ((trained.mean(0) - wanted) / trained.std(0)).abs().max() * 20 < 6  # standard errors of the mean


def test_packed_sequences_see_their_own() -> None:
    torch.manual_seed(0)
    module, layout = GlobalRows(WIDTH, HEADS), Packed(torch.tensor([0, 20, SIZE]), SIZE)
    x = torch.randn(1, SIZE, WIDTH)
    out = module(x, layout, layout.globals(torch.tensor([3, 20])))
    for piece, place, row in ((x[:, :20], 3, 0), (x[:, 20:], 0, 1)):
        alone = Whole(1, piece.shape[1], x.device)
        want = module(piece, alone, alone.globals(torch.tensor([place])))
        assert (out[:, :, row] - want[:, :, 0]).abs().max() < 1e-5
