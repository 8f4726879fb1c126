"""The tools that judge compiled kernels, and the launcher of interpreted tests.

The interpreter's own checks are tested in ``tests/interpreted/test_interpreter.py``.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from benchmarks.static import loops
from benchmarks.static.launches import TARGETS, Binary, Launch, compiled, flaws, launches
from tests.gpu import sample

ROOT = Path(__file__).parents[1]


def launch(d: int, bm: int, bn: int, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Launch:
    q, k, v = (torch.zeros(2, 256, d, dtype=dtype) for _ in range(3))
    with launches() as made:
        sample.attention(q, k, v, bm, bn, **options)
    assert [(x.name, x.grid) for x in made] == [("attend", (2, 256 // bm))]
    return made[0]


@functools.cache
def small(target: str) -> Binary:
    return compiled(launch(64, 64, 32, num_warps=4, num_stages=2), target)


@pytest.mark.parametrize("target", TARGETS)
def test_sample_passes_the_gates(target: str) -> None:
    binary = small(target)
    assert flaws(binary) == []
    newest = TARGETS[target].products[0]
    assert any(name.startswith(newest) for name in binary.reading.tensor)
    (loop,) = binary.reading.loops
    assert sum(binary.reading.tensor.values()) >= loop.tensor > 0
    assert 64 < binary.reading.registers <= TARGETS[target].registers
    # a tile of K or V is 32 x 64 x 2 bytes
    assert 4096 <= binary.shared <= TARGETS[target].shared
    assert binary.warps == 4
    assert binary.image[:4] == b"\x7fELF"
    assert "attend" in binary.assembly


def test_number_of_products() -> None:
    """64 x 32 x 64 is 64 products of 16 x 8 x 16, over 4 warps 16 each; the loop has two of these."""
    (loop,) = small("sm_80").reading.loops
    assert loop.tensor == 32


def test_alignment_reaches_the_compiler() -> None:
    """As in a real launch, an aligned pointer and a stride of 16 give wide copies."""
    assert "cp.async.cg.shared.global" in small("sm_80").assembly
    odd = launch(64, 64, 32, num_warps=4, num_stages=2)
    args = [x + 1 if isinstance(x, int) else x for x in odd.args]
    assert "cp.async.cg.shared.global" not in compiled(Launch(odd.kernel, tuple(args), odd.options), "sm_80").assembly


@pytest.mark.parametrize(("target", "d"), [("sm_80", 128), ("gfx942", 256)])
def test_spills_are_caught(target: str, d: int) -> None:
    """One warp cannot hold 64 rows of the output in its registers."""
    binary = compiled(launch(d, 64, 32, num_warps=1, num_stages=1), target)
    assert any(flaw.startswith("main loop") and "spills" in flaw for flaw in flaws(binary))
    assert binary.reading.loops[0].spills > 20


def test_too_much_shared_memory_is_caught() -> None:
    binary = compiled(launch(128, 64, 64, num_warps=4, num_stages=6), "sm_80")
    assert any("bytes of shared memory, sm_80 has 166912" in flaw for flaw in flaws(binary))


def test_too_much_tensor_memory_is_caught() -> None:
    """Triton then emits a trap and nothing else, which has neither spills nor shared memory."""
    binary = compiled(launch(128, 128, 256, torch.float32, num_warps=8, num_stages=1, PRECISION="bf16x3"), "sm_100")
    found = flaws(binary, tensor=False)
    assert any("columns of tensor memory, sm_100 has 512" in flaw for flaw in found), binary.columns
    assert any("no main loop that multiplies" in flaw for flaw in found)


def test_missing_tensor_cores_are_caught() -> None:
    binary = compiled(launch(16, 16, 16, torch.float32, num_warps=4, num_stages=1), "sm_80")
    assert any("no tensor-core instruction" in flaw for flaw in flaws(binary))
    assert flaws(binary, tensor=False) == []


def test_loops_of_a_listing() -> None:
    """A loop whose cold block lies behind the end, and one nested in another."""
    listing = """
start:
	v_mov_b32 v0, 0
.LBB0_1:
	v_mov_b32 v1, 0
.LBB0_2:
	v_mfma_f32_32x32x8_bf16 a[0:15], v[0:1], v[2:3], a[0:15]
	s_cbranch_scc0 .LBB0_5
.LBB0_3:
	s_cbranch_vccnz .LBB0_2
	scratch_store_dword off, v1, s32
	s_cbranch_scc1 .LBB0_1
	scratch_load_dword v1, off, s32
	s_endpgm
.LBB0_5:
	scratch_load_dword v2, off, s32 offset:4
	s_branch .LBB0_3
	s_endpgm
	.vgpr_count: 32
"""
    reading = loops.read_amdgcn(listing)
    assert (reading.registers, reading.spills) == (32, 3)
    assert [(loop.tensor, loop.spills, len(loop.body)) for loop in reading.loops] == [(1, 1, 5)]


def test_launcher_runs_and_reports_inner_tests(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.gpu.launcher import pytest_pycollect_makemodule\n")
    (tmp_path / "test_good.py").write_text(
        "import os\ndef test_mode():\n    assert os.environ['TRITON_INTERPRET'] == '1'\n"
    )
    (tmp_path / "test_bad.py").write_text("def test_passes():\n    pass\ndef test_fails():\n    assert 1 == 2, 'why'\n")
    (tmp_path / "test_empty.py").write_text("")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout
    assert "2 failed, 1 passed" in result.stdout
    assert "test_bad.py::test_fails - AssertionError: why" in result.stdout
    assert "exit status 5" in result.stdout
