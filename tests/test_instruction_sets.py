"""The choice of the CPU's instruction set at run time."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pkernels
from pkernels import native

pytestmark = pytest.mark.skipif(native.why_missing() is not None, reason=str(native.why_missing()))
NAMES = ("portable", "avx2", "avx512", "avx512bf16")


def start_with(name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from pkernels import native; print(native.instruction_set())"],
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, "PKERNELS_ISA": name},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_fastest_one_is_the_default() -> None:
    names = native.instruction_sets()
    assert names == NAMES[: len(names)]
    if "PKERNELS_ISA" in os.environ:
        return
    slow_pairs = names[-1] == "avx512bf16" and "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    assert native.instruction_set() == (names[-2] if slow_pairs else names[-1])


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags of /proc/cpuinfo are those of x86-64")
def test_it_agrees_with_the_operating_system() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    assert ("avx2" in native.instruction_sets()) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512" in native.instruction_sets()) == ({"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags)


def test_forcing_one_lasts_until_the_end_of_the_block() -> None:
    before = native.instruction_set()
    for name in native.instruction_sets():
        with native.force_instruction_set(name):
            assert native.instruction_set() == name
    with pytest.raises(ZeroDivisionError), native.force_instruction_set("portable"):
        raise ZeroDivisionError
    assert native.instruction_set() == before


def test_each_of_them_computes_the_same_attention() -> None:
    q, k, v = torch.randn(3, 1, 2, 70, 41, generator=torch.Generator().manual_seed(0))
    wanted = pkernels.attention(q.double(), k.double(), v.double(), pkernels.causal, backend="reference")
    for name in native.instruction_sets():
        with native.force_instruction_set(name):
            got = pkernels.attention(q, k, v, pkernels.causal, backend="cpu")
        assert (got - wanted).abs().max() < 2e-6, name


def test_an_unknown_one_is_refused() -> None:
    refusal = r"name: portable.* are allowed on this CPU, got 'avx1024'"
    with pytest.raises(ValueError, match=refusal), native.force_instruction_set("avx1024"):
        pass


def test_the_environment_variable_chooses() -> None:
    assert start_with("portable").stdout.strip() == "portable"
    refused = start_with("avx1024")
    assert refused.returncode != 0
    assert "ValueError: PKERNELS_ISA: portable" in refused.stderr
    assert "got 'avx1024'" in refused.stderr
