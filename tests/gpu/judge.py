"""Calls of the ``cuda`` backend on the emulator, judged as those of every backend.

A test module that imports this is skipped where there is nothing to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="cuobjdump, which reads the PTX, comes with Triton")

from pkernels import Relative, cuda
from tests import test_attention as shared
from tests.budget import assert_within_budget, run
from tests.cases import Case, solved

if cuda.why_missing() is not None:
    pytest.skip(str(cuda.why_missing()), allow_module_level=True)

from .nvcc import emulated, kernels
from .ptx import Report

ONE: dict[str, Any] = {"batch": 1, "heads": 1, "dtype": torch.bfloat16}
TWO: dict[str, Any] = {**ONE, "heads": 2, "kv_heads": 1}
HALF: dict[str, Any] = {**ONE, "dtype": torch.float16}
EXACT: dict[str, Any] = {**ONE, "dtype": torch.float32}

_TYPES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}


def instance(case: Case) -> str:
    """What the kernels of a call are named behind their pass: "bf16_64_none"."""
    call = case.call()
    rows = [call.q, call.v] + ([call.bias.query] if isinstance(call.bias, Relative) else [])
    width = next(n for n in (64, 128, 256) if n >= max(x.shape[-1] for x in rows))
    return f"{_TYPES[case.dtype]}_{width}_{'none' if case.bias is None else case.bias.split()[0]}"


def judged(case: Case, passes: Iterable[str], seed: int | None = None) -> list[Report]:
    """Forward and gradients are within budget, and what ran are the passes' kernels.

    Args:
        case: Is run in both directions.
        passes: The kernels' names without :func:`instance`, as they are launched.
        seed: Of the order of CTAs and warps; see :func:`tests.gpu.ptx.run`.
    """
    call, truth, plain = solved(case)
    with emulated(seed) as reports:
        got = run(call, "cuda")
    assert_within_budget(got, truth, plain, case.dtype)
    assert [report.kernel for report in reports] == [f"{name}_{instance(case)}" for name in passes]
    unambiguous(reports)
    return reports


def unambiguous(reports: list[Report]) -> None:
    """No result hung on an order that nothing gives, or that a compiler alone may mend, and no bank of shared
    memory was asked twice at once."""
    for report in reports:
        assert report.ambiguous == [] and report.late == [] and report.conflicts == {}, report.kernel


def not_executed(passes: Sequence[str], cases: Sequence[Case]) -> list[str]:
    """The kernels of these passes that none of the cases runs."""
    run_by = {f"{name}_{instance(case)}" for name in passes for case in cases}
    return [name for name in sorted(kernels()) if name.rsplit("_", 3)[0] in passes and name not in run_by]


def same_bits_again(case: Case, seed: int = 7) -> None:
    """In another order of CTAs and warps."""
    with emulated():
        first = run(case.call(), "cuda")
    with emulated(seed):
        shared.assert_same_bits(run(case.call(), "cuda"), first)


def nothing_leaks(case: Case) -> None:
    """Rows that are not seen have no influence, whatever they hold."""
    with emulated():
        shared.test_rows_that_meet_nothing_may_hold_anything(case, torch.nan, "cuda")
        shared.test_keys_reach_the_rows_that_see_them_alone(case, torch.nan, "cuda")
        shared.test_queries_reach_the_keys_they_see_alone(case, "cuda")
