"""What ``make wheel`` objects to: the extensions pass, and each kind of mistake is found."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from pkernels import cuda, native
from tests.audit import __main__ as command
from tests.audit import binary, wheel
from tests.audit.wheel import Tag

pytestmark = pytest.mark.skipif(binary.missing_tool() is not None, reason=str(binary.missing_tool()))
# What csrc/old_glibc.cpp and csrc/cuda/old_glibc.cpp promise: RHEL 8 and all that is newer.
HERE = Tag((2, 28) if platform.machine() == "x86_64" else (9, 9), platform.machine())
NAME = "pkernels-0-cp310-abi3-manylinux_2_34_x86_64.whl"


@pytest.mark.parametrize("module", [native, cuda], ids=["_C", "_C_cuda"])
def test_the_extensions_pass(module) -> None:
    if module.why_missing() is not None:
        pytest.skip(module.why_missing())
    path = Path(native.__file__).parents[1] / f"{'_C' if module is native else '_C_cuda'}.abi3.so"
    assert [*wheel.of_extension(path, HERE)] == []


# Functions that use what their unit may not, what no unit guards, and what they may.
WRONG = """
#include <immintrin.h>
#define WIDE __attribute__((target("avx512f,avx512bf16,avx2,fma")))
namespace pkernels {
namespace avx2 { WIDE void wide(float* x) { _mm512_storeu_ps(x, _mm512_set1_ps(x[0])); } }
namespace avx512 { WIDE __m512 pairs(__m512 x, __m512bh y) { return _mm512_dpbf16_ps(x, y, y); } }
namespace avx512bf16 { WIDE __m512 allowed(__m512 x, __m512bh y) { return _mm512_dpbf16_ps(x, y, y); } }
WIDE void narrow(float* x) { auto y = _mm256_loadu_ps(x); _mm256_storeu_ps(x, _mm256_fmadd_ps(y, y, y)); }
void plain(float* x) { *x += 1; }
}
int main(int, char**);
extern "C" int omp_get_thread_num();
int (*of_openmp)() = omp_get_thread_num;
const char* of_source = HERE "/csrc/stray file.cpp";
const char* of_tool = HERE "/temporary";
const char* of_nowhere[] = {"csrc/tensors.h", "torch/include/x.h", "/proc/self/maps"};
"""  # fmt: skip


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An extension with a stray of each kind, a second OpenMP, and paths of this machine."""
    compiler = os.environ.get("CXX", "g++")
    if platform.machine() != "x86_64" or shutil.which(compiler) is None:
        pytest.skip(f"needs an x86-64 and {compiler}")
    path = tmp_path_factory.mktemp("wrong") / "_C.abi3.so"
    flags = ["-O2", "-shared", "-fPIC", "-xc++", "-", "-fopenmp", "-Wl,--no-as-needed,-rpath,/opt/here", "-Wno-psabi"]
    flags.append(f'-DHERE="{wheel.ROOT}"')
    done = subprocess.run([compiler, *flags, "-o", str(path)], input=WRONG, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def test_each_mistake_of_an_extension_is_found(wrong: Path) -> None:
    found = [*wheel.of_extension(wrong, Tag((1, 0), "x86_64"))]
    for text in (
        "needs libgomp.so.1,",
        "looks for libraries in /opt/here",
        f"tells where it was built: {wheel.ROOT}/csrc/stray file.cpp, {wheel.ROOT}/temporary",
        "its tag says (1, 0)",
        "guard: avx512: pkernels::avx2::wide(float*)",
        "guard: avx: pkernels::narrow(float*)",
    ):
        assert [line for line in found if text in line], text
    (pairs,) = (line for line in found if "guard: pairs" in line)
    assert "pkernels::avx512::pairs" in pairs
    assert not [line for line in found if "allowed" in line or "plain" in line or "should for" in line]


def test_an_extension_without_kernels_is_found(wrong: Path) -> None:
    stripped = wrong.with_name("empty") / "_C.abi3.so"
    stripped.parent.mkdir()
    subprocess.run(["g++", "-shared", "-fPIC", "-xc++", "/dev/null", "-o", str(stripped)], check=True)
    (found,) = wheel.of_extension(stripped, HERE)
    assert "has kernels for nothing" in found


def test_what_a_wheel_lacks_and_holds_is_found(wrong: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "pkernels-0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(wrong, "pkernels/_C.abi3.so")
        for name in (wheel.sources("models", "*.py") | wheel.sources("pkernels", "*.py")) - {"models/bert.py"}:
            archive.write(wheel.ROOT / name, name if name.startswith("pkernels") else f"pkernels/{name}")
        archive.writestr("pkernels/py.typed", "")
        archive.writestr("pkernels.libs/libgomp.so", "")
    found = [*wheel.contents(path, {"_C", "_C_cuda"})]
    assert found == ["lacks pkernels/_C_cuda.abi3.so, pkernels/models/bert.py", "holds pkernels.libs/libgomp.so"]
    assert any(line.startswith("its name is not") for line in wheel.problems(path, {"_C"}))
    assert command.main([]) == 2


def test_the_tools_are_listened_to() -> None:
    bundled = {"sym_tag": "manylinux_2_34_x86_64", "external_libs": {"libc10.so": None, "libcudart.so.13": "/x"}}
    assert [*wheel.shown_by_auditwheel(bundled, NAME)] == ["auditwheel would have to bundle libcudart.so.13"]
    newer = {"sym_tag": "manylinux_2_39_x86_64", "external_libs": {}}
    assert [*wheel.shown_by_auditwheel(newer, NAME)] == [f"auditwheel finds manylinux_2_39_x86_64 in {NAME}"]
    for oldest, number in (("2.10.0", 0), ("2.13.0", 1)):
        report = {"extensions": [{"torch": {"min_torch_version": oldest}}]}
        assert len([*wheel.shown_by_torch_audit(report)]) == number


def test_the_oldest_torch_is_named_once() -> None:
    major, minor, _ = wheel.MIN_TORCH.split(".")
    assert f'"torch>={major}.{minor}"' in (wheel.ROOT / "pyproject.toml").read_text()
    target = int(major) << 56 | int(minor) << 48
    assert f"-DTORCH_TARGET_VERSION=0x{target:016X}" in (wheel.ROOT / "setup.py").read_text()
