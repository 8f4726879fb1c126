"""The C++ kernels in a program of their own, under AddressSanitizer and UBSan."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to build the C++ tests with")
@pytest.mark.skipif("avx2" not in Path("/proc/cpuinfo").read_text(), reason="built for AVX2, which is missing here")
def test_the_shapes_of_avx512_touch_nothing_beyond_their_tensors() -> None:
    run = subprocess.run([ROOT / ".ci/sanitize", "wide"], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count(" ok") >= 10
    assert "FAILED" not in run.stdout


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to build the C++ tests with")
def test_numbered_tiles_meet_every_pair_once(tmp_path: Path) -> None:
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = ["g++", "-std=c++20", "-O1", *checks, "-I", ROOT / "csrc", ROOT / "tests/cpp/tiles.cpp"]
    subprocess.run([*command, "-o", tmp_path / "tiles"], check=True, timeout=500)
    run = subprocess.run([tmp_path / "tiles"], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.endswith("checked, 0 failed\n")
