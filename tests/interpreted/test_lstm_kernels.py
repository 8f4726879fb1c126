"""The Triton kernels of the LSTM in the watched interpreter, against the float64 equations."""

from __future__ import annotations

import pytest
import torch

from tests import test_lstm as shared
from tests.test_lstm import CALLS


@pytest.mark.parametrize("name", [name for name in CALLS if "worker" not in name])
def test_outputs_states_and_gradients_are_the_equations(name: str) -> None:
    call = CALLS[name]
    shared.assert_right(call, shared.ours(call, call.tensors(torch.float32), "triton"), torch.float32)


def test_more_columns_than_a_program_takes() -> None:
    call = shared.Call(2, 2, 300, 3, (2, 1), 0.5, None)
    shared.assert_right(call, shared.ours(call, call.tensors(torch.float32), "triton"), torch.float32)


@pytest.mark.parametrize("reverse", [False, True])
def test_without_clips_it_is_torchs(reverse: bool) -> None:
    shared.test_without_clips_it_is_torchs(reverse, "triton")


def test_states_are_kept_for_a_derivative_alone() -> None:
    shared.test_states_are_kept_for_a_derivative_alone("triton")
