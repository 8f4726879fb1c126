"""The kernels of ``csrc/cuda`` on a GPU. A file of its own: if one goes astray, its process has no GPU any more."""

from __future__ import annotations

import pytest
import torch

from pkernels import cuda

from .budget import assert_within_budget, run
from .cases import Case, solved
from .conftest import poison
from .edges import CASES
from .oracle import TENSORS

pytestmark = [
    pytest.mark.on_gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.skipif(cuda.why_missing() is not None, reason=str(cuda.why_missing())),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_within_budget(case: Case) -> None:
    call, exact, plain = solved(case)
    got = run(call, "cuda")
    assert_within_budget(got, exact, plain, case.dtype)
    # Again, over memory that held something else: the same bits.
    with poison(3.0):
        again = run(call, "cuda")
    for name in TENSORS:
        a, b = getattr(got, name), getattr(again, name)
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), name
