"""Two processes, as torchrun starts them, come to what one process comes to."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pkernels.models.pretrain import read_log

from .tiny import flat, folder, state, train
from .two import FAMILIES, SHORT

ROOT = Path(__file__).resolve().parents[3]
Alone = Callable[[str], Path]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings of two processes."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.models.pretrain.two", str(port), str(folder()), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The same of one process."""
    out = tmp_path_factory.mktemp("one")

    @functools.cache
    def of(family: str) -> Path:
        train(family, out / family, SHORT)
        return out / family

    return of


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "distilbert"])
def test_two_processes_learn_what_one_learns(family: str, parallel: str, shared: Path, alone: Alone) -> None:
    want, got = flat(state(alone(family))), flat(state(shared / parallel / family))
    assert set(got) == set(want)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=2e-6, msg=name)
    for one, two in zip(read_log(alone(family)), read_log(shared / parallel / family), strict=True):
        for name in set(one) - {"tokens_per_second"}:
            assert two[name] == pytest.approx(one[name], rel=1e-5), name


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_stopped(parallel: str, shared: Path, alone: Alone) -> None:
    there = shared / parallel / "distilbert"
    assert train("distilbert", there, SHORT).step == 2
    for name, tensor in state(alone("distilbert"))["learner"].items():
        torch.testing.assert_close(state(there)["learner"][name], tensor, rtol=1e-4, atol=2e-6, msg=name)
