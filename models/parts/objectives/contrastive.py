"""Pairs that belong together among all pairs of a batch: the symmetric loss of CLIP (Radford et al.
2021, arXiv:2103.00020, section 2.3 and figure 3), without the matrix of all pairs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor, *, group: dist.ProcessGroup | None = None, tile: int = 1024
) -> Tensor:
    """Mean over the batch of both cross-entropies: which text belongs to an image, and which image
    to a text.

    Args:
        images, texts: ``(n, d)`` unit vectors, row i of one belonging to row i of the other.
        scale: Factor of the cosines, a tensor of one number (the inverse of the temperature).
        group: Processes that share the batch, each with n of its rows; None for this one alone.
            ``torch.distributed.group.WORLD`` is all of them.
        tile: Rows and columns of the logits that are there at a time.

    Returns:
        The loss of the whole batch, the same in all processes, float32 (float64 of such vectors).
        Gradients are those whose *mean* over the processes is the gradient of the loss, as
        DistributedDataParallel takes it.

    Raises:
        ValueError: For other shapes, or where processes hold different numbers of rows.

    Memory is O(N d + tile²) for N rows in all processes: forward and backward walk over tiles of
    the n x N logits. A process gathers all texts; of the others' images it learns the sums alone.

    Example:
        >>> x = torch.eye(3)
        >>> round(float(contrastive_loss(x, x, torch.tensor(100.0))), 4)
        0.0
        >>> round(float(contrastive_loss(x, x, torch.tensor(0.0))), 4)  # a guess: ln 3
        1.0986
    """
    _check(images, texts, scale, tile)
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    with torch.autocast(images.device.type, enabled=False):
        return _Contrastive.apply(images.to(wide), texts.to(wide), scale.to(wide).reshape(()), group, tile)


def _check(images: Tensor, texts: Tensor, scale: Tensor, tile: int) -> None:
    if images.dim() != 2 or images.shape != texts.shape or not len(images):
        raise ValueError(
            f"images, texts: the same shape (n, d), n at least 1, is allowed, got {tuple(images.shape)} "
            f"and {tuple(texts.shape)}"
        )
    if scale.numel() != 1:
        raise ValueError(f"scale: one number is allowed, got shape {tuple(scale.shape)}")
    if tile < 1:
        raise ValueError(f"tile: at least 1 is allowed, got {tile}")


class _Contrastive(torch.autograd.Function):
    """Rows of the logits L = scale images textsᵀ are this process's images, columns all texts."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, group: Any, tile: int) -> Tensor:
        n, ranks = len(images), _ranks(group)
        every = _gathered(texts, group)
        own = (dist.get_rank(group) if ranks > 1 else 0) * n
        by_row, by_column = _log_sums(images, every, scale, tile)
        by_column = _log_sum_over(by_column, group)
        right = scale * (images * texts).sum(1)
        loss = (by_row + by_column[own : own + n]).sum() / 2 - right.sum()
        if ranks > 1:
            dist.all_reduce(loss, group=group)
        ctx.save_for_backward(images, every, scale, by_row, by_column)
        ctx.group, ctx.tile, ctx.own = group, tile, own
        return loss / (n * ranks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, every, scale, by_row, by_column = ctx.saved_tensors
        n = len(images)
        d_images, d_every = torch.zeros_like(images), torch.zeros_like(every)
        d_scale = torch.zeros_like(scale)
        for rows, columns in _tiles(n, len(every), ctx.tile):
            x, y = images[rows], every[columns]
            cosines = x @ y.T
            logits = scale * cosines
            # dL of the sum: half of each softmax, less the right pairs.
            d = (logits - by_row[rows, None]).exp().add_((logits - by_column[columns]).exp()).mul_(0.5)
            _on_diagonal(d, rows, columns, ctx.own).sub_(1)
            d_scale += (d * cosines).sum()
            d_images[rows].addmm_(d, y)
            d_every[columns].addmm_(d.T, x)
        d_texts = _summed_share(d_every, ctx.own, n, ctx.group)
        # Of the mean over N rows, times the processes, of whose gradients the mean is taken: 1 / n.
        share = gradients[0] / n
        return d_images * (share * scale), d_texts * (share * scale), d_scale * share, None, None


def _tiles(rows: int, columns: int, tile: int) -> list[tuple[slice, slice]]:
    starts = [(i, j) for i in range(0, rows, tile) for j in range(0, columns, tile)]
    return [(slice(i, min(i + tile, rows)), slice(j, min(j + tile, columns))) for i, j in starts]


def _log_sums(images: Tensor, every: Tensor, scale: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the logits by row and by column, of this process's rows."""
    by_row = images.new_full((len(images),), -torch.inf)
    by_column = images.new_full((len(every),), -torch.inf)
    for rows, columns in _tiles(len(images), len(every), tile):
        logits = scale * (images[rows] @ every[columns].T)
        by_row[rows] = torch.logaddexp(by_row[rows], logits.logsumexp(1))
        by_column[columns] = torch.logaddexp(by_column[columns], logits.logsumexp(0))
    return by_row, by_column


def _on_diagonal(d: Tensor, rows: slice, columns: slice, own: int) -> Tensor:
    """A view of the right pairs in a tile: row i belongs to column ``own + i``."""
    shift = own + rows.start - columns.start
    return d.diagonal(shift) if -d.shape[0] < shift < d.shape[1] else d.new_empty(0)


# Between processes ----------------------------------------------------------------------


def _ranks(group: Any) -> int:
    return 1 if group is None else dist.get_world_size(group)


def _gathered(x: Tensor, group: Any) -> Tensor:
    """The rows of all processes, in their order."""
    if _ranks(group) == 1:
        return x
    # The largest n and the largest -n: equal but for the sign where all are the same.
    sizes = torch.tensor([len(x), -len(x)], device=x.device)
    dist.all_reduce(sizes, op=dist.ReduceOp.MAX, group=group)
    most, least = int(sizes[0]), -int(sizes[1])
    if most != least:
        raise ValueError(f"images, texts: as many rows in every process are allowed, got {least} to {most}")
    every = x.new_empty(_ranks(group) * len(x), x.shape[1])
    dist.all_gather_into_tensor(every, x.contiguous(), group=group)
    return every


def _log_sum_over(x: Tensor, group: Any) -> Tensor:
    """Log-sum-exp over the processes."""
    if _ranks(group) == 1:
        return x
    top = x.clone()
    dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
    total = (x - top).exp()
    dist.all_reduce(total, group=group)
    return top + total.log()


def _summed_share(x: Tensor, own: int, n: int, group: Any) -> Tensor:
    """This process's rows of the sum over the processes."""
    if _ranks(group) == 1:
        return x
    share = x.new_empty(n, x.shape[1])
    dist.reduce_scatter_tensor(share, x, group=group)
    return share
