"""The contrastive loss against the matrix of all pairs, in one process and in two."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from pkernels.models.parts.objectives import contrastive_loss


def by_the_matrix(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Figure 3 of the paper."""
    logits = scale * images @ texts.T
    labels = torch.arange(len(images))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def vectors(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    both = F.normalize(torch.randn(2, n, 7, generator=draw, dtype=dtype), dim=-1)
    return both[0], both[1]


@pytest.mark.parametrize("scale", [0.5, 100.0])
@pytest.mark.parametrize(("n", "tile"), [(1, 4), (7, 3), (8, 4), (9, 1), (5, 64)])
def test_is_the_loss_of_the_matrix(n: int, tile: int, scale: float) -> None:
    found = []
    for loss in (by_the_matrix, lambda *given: contrastive_loss(*given, tile=tile)):
        given = [x.requires_grad_() for x in (*vectors(n), torch.tensor(scale, dtype=torch.float64))]
        value = loss(*given)
        (3 * value).backward()
        found.append([value.detach(), *(x.grad for x in given)])
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_half_precision_is_summed_in_float32() -> None:
    images, texts = (x.bfloat16().requires_grad_() for x in vectors(40))
    scale = torch.tensor(100.0, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(images, texts, scale, tile=16)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), by_the_matrix(images.double(), texts.double(), scale), rtol=1e-6, atol=0)
    loss.backward()
    assert images.grad.dtype == torch.bfloat16


def test_no_matrix_of_all_pairs_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither forward nor backward makes a tensor of more numbers than the vectors have, or a tile."""
    n, tile = 512, 16
    images, texts = (x.requires_grad_() for x in vectors(n))
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            nonlocal largest
            out = f(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        contrastive_loss(images, texts, torch.tensor(9.0, dtype=torch.float64), tile=tile).backward()
    assert largest == n * 7


@pytest.mark.parametrize(
    ("shapes", "tile", "message"),
    [
        (((3, 4), (4, 4), ()), 1, r"images, texts: the same shape \(n, d\), n at least 1, is allowed, got \(3, 4\)"),
        (((3,), (3,), ()), 1, "images, texts: the same shape"),
        (((0, 4), (0, 4), ()), 1, "images, texts: the same shape"),
        (((3, 4), (3, 4), (2,)), 1, r"scale: one number is allowed, got shape \(2,\)"),
        (((3, 4), (3, 4), ()), 0, "tile: at least 1 is allowed, got 0"),
    ],
)
def test_bad_input(shapes: tuple, tile: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(*map(torch.ones, shapes), tile=tile)


# Two processes ----------------------------------------------------------------------------


class Towers(nn.Module):
    """Two maps and a scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = (nn.Linear(7, 5).double() for _ in range(2))
        self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.normalize(self.image(images), dim=-1), F.normalize(self.text(texts), dim=-1), self.scale.exp()


def _rank(rank: int, ranks: int, n: int, folder: str) -> None:
    """One process and its rows; gradients are averaged as DistributedDataParallel does it (whose
    import takes longer than all of this). What it found goes into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    model = Towers()
    mine = [x[rank * n : (rank + 1) * n] for x in vectors(ranks * n)]
    loss = contrastive_loss(*model(*mine), group=dist.group.WORLD, tile=2)
    loss.backward()
    uneven = None
    try:
        contrastive_loss(*(x[rank:] for x in mine), torch.tensor(1.0), group=dist.group.WORLD)
    except ValueError as error:
        uneven = str(error)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for gradient in gradients.values():
        dist.all_reduce(gradient)
        gradient /= ranks
    torch.save((loss.detach(), gradients, uneven), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path) -> None:
    """Each sees half of the batch; the loss and, averaged, the
    gradients are those of the matrix of the whole batch in one process."""
    ranks, n = 2, 5
    torch.multiprocessing.spawn(_rank, (ranks, n, str(tmp_path)), nprocs=ranks)
    model = Towers()
    want = by_the_matrix(*(f for f in model(*vectors(ranks * n))[:2]), model.scale.exp())
    want.backward()
    for rank in range(ranks):
        loss, gradients, uneven = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(loss, want.detach(), rtol=1e-12, atol=0)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-12)
        assert uneven == "images, texts: as many rows in every process are allowed, got 4 to 5"
