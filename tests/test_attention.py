"""Output, log-sum-exp and every gradient against the float64 oracle, on every backend."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pkernels
from pkernels import Band, Buckets, native

from .budget import assert_within_budget, device_of, run
from .cases import Case, solved
from .conftest import poison
from .edges import CASES, CORE, EVERYTHING, PATTERNS, biases, blocks, buckets, dropout, patterns, ragged
from .oracle import TENSORS, Call, Result, kept_pairs

pytestmark = pytest.mark.on_gpu
INSTRUCTION_SETS = ("portable", "avx2", "avx512", "avx512bf16")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads would only wait for each other."""
    with threads(1):
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def named(case: Case) -> str:
    return case.id


def test_the_extension_was_built() -> None:
    assert native.why_missing() is None


@pytest.mark.parametrize("case", CASES, ids=named)
def test_within_budget(case: Case, backend: str) -> None:
    call, exact, plain = solved(case)
    got = run(call, backend)
    assert_within_budget(got, exact, plain, case.dtype)
    assert got.out.dtype == case.dtype and got.lse.dtype == torch.float32
    # Again, over memory that held something else: the same bits.
    with poison(3.0):
        assert_same_bits(run(call, backend), got)


def assert_same_bits(one: Result, other: Result) -> None:
    for name in TENSORS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None and b is None) or torch.equal(a, b), name


@pytest.mark.parametrize("case", CORE, ids=named)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_on_every_instruction_set(case: Case, name: str) -> None:
    if native.why_missing() or name not in native.instruction_sets():
        pytest.skip(native.why_missing() or f"this CPU or build has no {name}")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        typed = replace(case, dtype=dtype)
        call, exact, plain = solved(typed)
        with native.force_instruction_set(name):
            assert_within_budget(run(call, "cpu"), exact, plain, dtype)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("case", [*CORE, Case("S 300", Band(right=0), sq=300, heads=1, batch=1)], ids=named)
def test_with_more_threads(case: Case, count: int, backend: str) -> None:
    call, exact, plain = solved(case)
    with threads(count):
        got = run(call, backend)
        assert_within_budget(got, exact, plain, case.dtype)
        assert_same_bits(run(call, backend), got)


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x1_0000_0000])
def test_dropout_of_any_seed(seed: int, backend: str) -> None:
    case = Case("dropout of any seed", dropout=0.5, sq=19)
    call = case.call()
    call.seed = seed
    _assert_solved(call, backend)


def test_a_seed_may_be_a_tensor(backend: str) -> None:
    call = Case("seed tensor", dropout=0.5).call()
    wanted = run(call, backend)
    call.seed = torch.tensor([call.seed])
    assert_same_bits(run(call, backend), wanted)


def test_torchs_generator_governs_dropout(backend: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 20, 8, device=device_of(backend))
    torch.manual_seed(5)
    first, second = (pkernels.attention(q, k, v, dropout=0.5, backend=backend) for _ in range(2))
    torch.manual_seed(5)
    again = pkernels.attention(q, k, v, dropout=0.5, backend=backend)
    assert torch.equal(first, again) and not torch.equal(first, second)


def _assert_solved(call: Call, backend: str) -> None:
    from .budget import plain
    from .oracle import evaluate

    assert_within_budget(run(call, backend), evaluate(call), plain(call), call.q.dtype)


# Which gradients are asked for -----------------------------------------------------------


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 3), (1, 2)])
@pytest.mark.parametrize("bias", ["distance", "dense 2x1x1x37"])
def test_gradients_of_some_inputs_alone(wanted: tuple[int, ...], bias: str, backend: str) -> None:
    call = Case("gradients of some", Band(9, 3), bias=bias).call()
    every = run(call, backend)
    device = device_of(backend)
    leaves = [x.detach().to(device).requires_grad_(i in wanted) for i, x in enumerate(call.leaves())]
    out = pkernels.attention(*leaves[:3], call.pattern, type(call.bias)(leaves[3]), backend=backend)
    grads = torch.autograd.grad(out, [leaves[i] for i in wanted], call.dout.to(device))
    call.dlse = None
    every = run(call, backend)
    for i, grad in zip(wanted, grads, strict=True):
        assert torch.equal(grad.cpu(), getattr(every, TENSORS[2 + i]))


def test_gradients_through_the_lse_alone(backend: str) -> None:
    call = Case("lse alone", Band(9, 3), bias="distance").call()
    call.dout = None
    _assert_solved(call, backend)


def test_gradients_that_arrive_expanded(backend: str) -> None:
    call = Case("expanded gradients", Band(9, 3)).call()
    call.dout = torch.ones(()).expand(call.dout.shape)
    call.dlse = torch.ones(()).expand(call.dlse.shape)
    _assert_solved(call, backend)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (1, 0, 2, 3), (3, 2, 1, 0)])
def test_gradients_that_arrive_in_another_order(order: tuple[int, ...], backend: str) -> None:
    call = Case("gradients in another order", Band(9, 3)).call()
    call.dout = call.dout.permute(order).contiguous().permute(*torch.tensor(order).argsort().tolist())
    call.dlse = call.dlse.mT.contiguous().mT
    _assert_solved(call, backend)


def test_finite_differences() -> None:
    case = replace(EVERYTHING, sq=6, d=2, dv=1, lengths=[6, 4], layout="contiguous", dtype=torch.float64)
    call = case.call()

    def attend(q: Tensor, k: Tensor, v: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = pkernels.attention(
            q, k, v, call.pattern, pkernels.Distance(values), lengths=call.lengths, dropout=0.2, seed=1, return_lse=True
        )
        return out, lse.masked_fill(lse == -torch.inf, 0)

    leaves = [x.double().requires_grad_() for x in call.leaves()]
    assert torch.autograd.gradcheck(attend, leaves)


def test_without_gradients(backend: str) -> None:
    call = Case("no gradients", Band(9, 3)).call()
    wanted = run(call, backend).out
    with torch.inference_mode():
        q, k, v = (x.to(device_of(backend)) for x in (call.q, call.k, call.v))
        assert torch.equal(pkernels.attention(q, k, v, call.pattern, backend=backend).cpu(), wanted)


# What does not meet does not leak -------------------------------------------------------


def assert_unchanged(got: Tensor | None, clean: Tensor | None, backend: str, name: str) -> None:
    """The same bits, but on a GPU: what holds junk is worked again there in smaller tiles, which
    sum in another order."""
    if got is None or clean is None:
        assert got is clean, name
    elif backend != "triton":
        assert torch.equal(got, clean), name
    else:
        size = float(clean[clean.isfinite()].abs().max()) if clean.isfinite().any() else 1.0
        torch.testing.assert_close(got, clean, rtol=0, atol=1e-5 * max(1.0, size), msg=name)


def _given(case: Case) -> bool:
    """Whether rows have a score against themselves that no product gave."""
    return isinstance(case.pattern, Buckets) and case.pattern.own is not None


LEAKS = [
    case
    for case in (*patterns()[: len(PATTERNS)], *biases(), *ragged(), *dropout(), *CORE, *blocks(), *buckets())
    if case.sq > 1 and case.lengths not in ([0, 0], [0, 1]) and case.offsets != [0] and not _given(case)
]


@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
@pytest.mark.parametrize("case", LEAKS, ids=named)
def test_rows_that_meet_nothing_may_hold_anything(case: Case, junk: float, backend: str) -> None:
    call = case.call()
    clean = run(call, backend)
    kept = kept_pairs(call)
    lonely = ~kept.any(-1)
    alone = ~kept.unflatten(1, (call.k.shape[1], -1)).any(2).any(2)
    call.q, call.dout = (x.masked_fill(lonely[..., None], junk) for x in (call.q, call.dout))
    call.k, call.v = (x.masked_fill(alone[..., None], junk) for x in (call.k, call.v))
    if call.dlse is not None:
        call.dlse = call.dlse.masked_fill(lonely, junk)
    got = run(call, backend)
    for name in TENSORS:
        assert_unchanged(getattr(got, name), getattr(clean, name), backend, name)


@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
@pytest.mark.parametrize("case", LEAKS, ids=named)
def test_keys_reach_the_rows_that_see_them_alone(case: Case, junk: float, backend: str) -> None:
    call = case.call()
    clean = run(call, backend)
    kept = kept_pairs(call)
    key = int(kept.float().mean((0, 1, 2)).sub(0.5).abs().argmin())  # seen by about half of the rows
    sees = kept[..., key]
    call.k, call.v = call.k.clone(), call.v.clone()
    call.k[:, :, key] = junk
    call.v[:, :, key] = junk
    got = run(call, backend)
    for name in ("out", "lse", "dq"):
        assert_unchanged(getattr(got, name)[~sees], getattr(clean, name)[~sees], backend, name)
    if case.dropout == 0 and junk != torch.inf:
        assert got.out[sees].isnan().all()


@pytest.mark.parametrize("case", LEAKS, ids=named)
def test_queries_reach_the_keys_they_see_alone(case: Case, backend: str) -> None:
    call = case.call()
    clean = run(call, backend)
    kept = kept_pairs(call)
    query = int(kept.float().mean((0, 1, 3)).sub(0.5).abs().argmin())
    seen = kept[:, :, query].unflatten(1, (call.k.shape[1], -1)).any(2)
    call.q, call.dout = call.q.clone(), call.dout.clone()
    call.q[:, :, query] = torch.nan
    call.dout[:, :, query] = torch.nan
    got = run(call, backend)
    others = torch.arange(call.q.shape[2]) != query
    for name in ("out", "lse", "dq"):
        assert_unchanged(getattr(got, name)[:, :, others], getattr(clean, name)[:, :, others], backend, name)
    for name in ("dk", "dv"):
        assert_unchanged(getattr(got, name)[~seen], getattr(clean, name)[~seen], backend, name)


@pytest.mark.parametrize("case", [case for case in LEAKS if case in CORE and case.dtype == torch.float32], ids=named)
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_nothing_leaks_in_bfloat16(case: Case, name: str) -> None:
    if name not in native.instruction_sets():
        pytest.skip(f"this CPU or build has no {name}")
    typed = replace(case, dtype=torch.bfloat16)
    with native.force_instruction_set(name):
        test_rows_that_meet_nothing_may_hold_anything(typed, torch.nan, "cpu")
        test_keys_reach_the_rows_that_see_them_alone(typed, torch.nan, "cpu")
        test_queries_reach_the_keys_they_see_alone(typed, "cpu")


# What comes back ------------------------------------------------------------------------


def test_the_output_lies_as_q_does(backend: str) -> None:
    q, k, v = (torch.randn(2, 9, 4, 8, device=device_of(backend)).transpose(1, 2) for _ in range(3))
    out = pkernels.attention(q, k, v, backend=backend)
    assert out.transpose(1, 2).is_contiguous()
    assert pkernels.attention(*(x.contiguous() for x in (q, k, v)), backend=backend).is_contiguous()


def test_inputs_are_left_alone(backend: str) -> None:
    call = EVERYTHING.call()
    before = [x.clone() for x in (*call.leaves(), call.dout, call.dlse)]
    run(call, backend)
    assert all(map(torch.equal, before, (*call.leaves(), call.dout, call.dlse)))


def test_the_best_backend_is_the_default() -> None:
    call = EVERYTHING.call()
    assert_same_bits(run(call, None), run(call, "cpu"))  # type: ignore[arg-type]
    q = torch.randn(1, 1, 4, 8, dtype=torch.float64)
    assert pkernels.attention(q, q, q).dtype == torch.float64


NAMED = {
    "flash": (lambda q, k, v, **o: pkernels.flash_attention(q, k, v, **o), pkernels.dense),
    "flash, causal": (lambda q, k, v, **o: pkernels.flash_attention(q, k, v, causal=True, **o), pkernels.causal),
    "window": (lambda q, k, v, **o: pkernels.sliding_window_attention(q, k, v, 5, **o), Band(5, 5)),
    "window back": (lambda q, k, v, **o: pkernels.sliding_window_attention(q, k, v, 5, 0, **o), Band(5, 0)),
    "dilated": (
        lambda q, k, v, **o: pkernels.dilated_attention(q, k, v, 5, 2, dilation=3, **o),
        Band(5, 2, dilation=3),
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_named_forms(name: str, backend: str) -> None:
    attend, pattern = NAMED[name]
    q, k, v = torch.randn(3, 1, 2, 31, 8, device=device_of(backend))
    options = {"lengths": torch.tensor([29]), "scale": 0.3, "backend": backend, "return_lse": True}
    for a, b in zip(attend(q, k, v, **options), pkernels.attention(q, k, v, pattern, **options), strict=True):
        assert torch.equal(a, b)


def test_alibi() -> None:
    slopes = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]  # 6 heads: 4, then every other one of 8
    values = pkernels.alibi(6, 3, 5).values
    for h, slope in enumerate(slopes):
        for i in range(3):
            for j in range(5):
                assert values[h, j - i + 2] == pytest.approx(-slope * abs(j - (i + 2)))


# Memory that the C++ allocates ------------------------------------------------------------

PERTURBED = """
import hashlib, torch
from tests.budget import run
from tests.edges import CORE
digest = hashlib.sha256()
for case in CORE:
    result = run(case.call(), "cpu")
    for x in (result.out, result.lse, result.dq, result.dk, result.dv, result.dbias):
        digest.update(b"" if x is None else x.view(torch.uint8).numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="MALLOC_PERTURB_ is glibc's")
def test_fresh_memory_of_the_allocator_does_not_matter() -> None:
    def digest(value: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PERTURBED],
            cwd=Path(__file__).resolve().parent.parent,
            env={**os.environ, "MALLOC_PERTURB_": value, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return done.stdout

    assert digest("0") == digest("85")
