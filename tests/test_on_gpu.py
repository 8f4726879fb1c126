"""What only a real GPU can show: memory of gigabytes, and sequences too long to interpret."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, causal, window

pytestmark = [pytest.mark.on_gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
FAR = 2**26 + 8  # elements between rows: 40 of them pass 2**31


def results(q: Tensor, k: Tensor, v: Tensor, dout: Tensor, pattern: Band) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out, lse = pkernels.attention(*leaves, pattern, return_lse=True, backend="triton")
    return [out, lse, *torch.autograd.grad(out, leaves, dout)]


def test_rows_beyond_31_bits() -> None:
    near = [torch.randn(1, 1, 40, 32, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    wanted = results(*near, causal)
    memory = torch.zeros(40 * FAR, device="cuda", dtype=torch.bfloat16)
    far = []
    for i, x in enumerate(near):
        rows = memory.as_strided(x.shape, (0, 0, FAR, 1), 64 * i)
        rows.copy_(x)
        far.append(rows)
    for a, b in zip(results(*far, causal), wanted, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sequences_of_65536_rows(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v, dout = (torch.randn(1, 2, 65_536, 64, device="cuda", dtype=dtype) for _ in range(4))
    out, lse, *grads = results(q, k, v, dout, window(100, 20))
    again = results(q, k, v, dout, window(100, 20))
    assert all(map(torch.equal, (out, lse, *grads), again))
    # Rows far from the ends depend on their neighbourhood alone.
    part = slice(50_000, 50_800)
    small = [x[:, :, part].double().cpu().requires_grad_() for x in (q, k, v)]
    wanted = pkernels.attention(*small, window(100, 20), backend="reference")
    exact = torch.autograd.grad(wanted, small, dout[:, :, part].double().cpu())
    inner, limit = slice(200, 600), 1e-5 if dtype == torch.float32 else 3e-2
    for got, want in zip((out, *grads), (wanted, *exact), strict=True):
        error = (got[:, :, part].double().cpu() - want)[:, :, inner].abs().max()
        assert error < limit, error


def test_more_sequences_and_heads_than_a_grid_has_rows() -> None:
    q = torch.randn(70_000, 1, 4, 16, device="cuda", dtype=torch.float16)
    out = pkernels.attention(q, q, q, causal, backend="triton")
    want = pkernels.attention(q[-9:].cpu(), q[-9:].cpu(), q[-9:].cpu(), causal)
    assert (out[-9:].cpu() - want).abs().max() < 3e-3


def test_runs_inside_a_cuda_graph() -> None:
    q, k, v = (torch.randn(2, 4, 300, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    wanted = pkernels.attention(q, k, v, window(30), backend="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = pkernels.attention(q, k, v, window(30), backend="triton")
    graph.replay()
    assert torch.equal(out, wanted)
