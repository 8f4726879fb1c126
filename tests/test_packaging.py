"""What is installed, what importing it costs, and what the binary contains."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

import pkernels
from pkernels import native
from tests.audit.wheel import contents, sources

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, directory: Path, **environment: str) -> str:
    """What ``code`` prints in a new process, started in ``directory`` without PYTHONPATH."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PKERNELS_ISA")}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(
        command, cwd=directory, env={**inherited, **environment}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def setup_py(*arguments: str | Path, directory: Path = ROOT) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", *map(str, arguments)], cwd=directory, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


needs_extension = pytest.mark.skipif(native.why_missing() is not None, reason=str(native.why_missing()))


@needs_extension
def test_the_wheel_is_whole_and_runs(tmp_path: Path) -> None:
    setup_py("build", "--build-lib", tmp_path / "lib", "bdist_wheel", "--dist-dir", tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(rf"pkernels-{re.escape(pkernels.__version__)}-cp310-abi3-linux_\w+\.whl", wheel.name)

    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    # _C_cuda is there where there is a CUDA compiler.
    built = {path.name.split(".")[0] for path in (tmp_path / "unpacked").rglob("*.so")}
    assert "_C" in built
    assert [*contents(wheel, built)] == []

    printed = python(
        """
        import torch, pkernels, pkernels.models
        q = torch.ones(1, 1, 3, 8)
        print(pkernels.__file__, pkernels.models.__file__, pkernels.attention(q, q, q, backend="cpu").shape)
        """,
        tmp_path,
        PYTHONPATH=str(tmp_path / "unpacked"),
    )
    assert printed.count(str(tmp_path / "unpacked")) == 2


def test_the_source_distribution_can_be_built_from(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("csrc", "pkernels", "models"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for path in (ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "LICENSE", *ROOT.glob("*.md")):
        shutil.copy(path, tree)
    setup_py("sdist", "--dist-dir", tmp_path, directory=tree)

    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    wanted = sources("csrc", "*.cpp", "*.h", "*.cu", "*.cuh") | sources("pkernels", "*.py") | sources("models", "*.py")
    assert wanted | {"setup.py", "pyproject.toml", "LICENSE"} <= set(names)
    assert not [name for name in names if name.startswith("pkernels/models/")], "models are shipped twice"


def test_the_version_has_a_single_source() -> None:
    try:
        installed = importlib.metadata.version("pkernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pkernels runs from a checkout that is not installed")
    assert installed == pkernels.__version__
    assert "\nversion =" not in (ROOT / "pyproject.toml").read_text().replace("version = { attr", "")


def test_it_is_importable_from_any_directory(tmp_path: Path) -> None:
    try:
        importlib.metadata.version("pkernels")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pkernels runs from a checkout that is not installed")
    printed = python("import pkernels.models as m, pkernels as p; print(m.__name__, p.__version__)", tmp_path)
    assert printed.split() == ["pkernels.models", pkernels.__version__]


def test_importing_is_quick_and_brings_nothing_heavy() -> None:
    code = """
        import sys, time
        import torch
        before = set(sys.modules)
        start = time.perf_counter()
        import pkernels
        seconds = time.perf_counter() - start
        heavy = {"triton", "transformers", "matplotlib", "torch._inductor", "torch._dynamo"}
        print(seconds, *sorted(heavy & (set(sys.modules) - before)))
        """
    runs = [python(code, ROOT).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 1.0
    assert [heavy for _, *heavy in runs] == [[]] * 3


HIDE_THE_EXTENSION = """
    import sys

    class Hide:
        def find_spec(self, name, path=None, target=None):
            if name == "pkernels._C":
                raise ImportError("hidden by a test")

    sys.meta_path.insert(0, Hide())
"""


def test_without_the_extension_it_says_once_why_it_is_slow() -> None:
    code = (
        textwrap.dedent(HIDE_THE_EXTENSION)
        + """
import warnings, torch, pkernels
q = torch.randn(1, 2, 5, 8)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    first, second = pkernels.attention(q, q, q), pkernels.attention(q, q, q)
assert torch.equal(first, pkernels.attention(q, q, q, backend="reference"))
try:
    pkernels.attention(q, q, q, backend="cpu")
except NotImplementedError as error:
    print(error)
for warning in seen:
    print(warning.message)
"""
    )
    named, *warned = python(code, ROOT).splitlines()
    assert "hidden by a test" in named
    assert len(warned) == 1
    assert "hidden by a test" in warned[0]
    assert "pip install" in warned[0]
