"""Two processes, as torchrun starts them, come to what one process comes to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pkernels.models.pretrain import read_log

from .tiny import flat, folder, state, train
from .two import FAMILIES, SHORT

ROOT = Path(__file__).resolve().parents[3]
PROCESSES = 2


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trainings of two processes."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = {"WORLD_SIZE": str(PROCESSES), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.models.pretrain.two", str(folder()), str(out)]
    running = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **asked, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(PROCESSES)
    ]  # fmt: skip
    try:
        printed = [process.communicate(timeout=180)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert all(process.returncode == 0 for process in running), "\n".join(printed)
    return out


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_learn_what_one_learns(family: str, parallel: str, shared: Path, tmp_path: Path) -> None:
    train(family, tmp_path / "one", SHORT, tokenizer=folder() / f"{FAMILIES[family]}.json")
    want, got = flat(state(tmp_path / "one")), flat(state(shared / parallel / family))
    assert set(got) == set(want)
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=2e-6, msg=name)
    for one, two in zip(read_log(tmp_path / "one"), read_log(shared / parallel / family), strict=True):
        for name in set(one) - {"tokens_per_second"}:
            assert two[name] == pytest.approx(one[name], rel=1e-5), name


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_stopped(parallel: str, shared: Path, tmp_path: Path) -> None:
    there = shared / parallel / "distilbert"
    assert train("distilbert", there, SHORT, tokenizer=folder() / "bert.json").step == 3
    train("distilbert", tmp_path / "one", SHORT, tokenizer=folder() / "bert.json")
    for name, tensor in state(tmp_path / "one")["learner"].items():
        torch.testing.assert_close(state(there)["learner"][name], tensor, rtol=1e-4, atol=2e-6, msg=name)
