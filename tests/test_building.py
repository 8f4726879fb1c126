"""BUILDING.md and build.toml say what is so: commands, variables, defaults, sources, names."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.audit.wheel import MIN_TORCH, sources

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "BUILDING.md").read_text(encoding="utf-8")
SCRIPTS = {name: (ROOT / name).read_text() for name in ("setup.py", "Makefile", ".ci/environment", ".ci/wheel-test")}
NATIVE = (ROOT / "pkernels" / "native" / "__init__.py").read_text()


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL))


def test_its_commands_are_there() -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*## ", SCRIPTS["Makefile"], re.M))
    commands = blocks("sh") + blocks("dockerfile")
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) >= {"wheel", "wheel-test", "gpu"}
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= verbs
    for path in set(re.findall(r"(?<![\w/])\.ci/[\w.-]+", TEXT)):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ([\w.]+)", commands):
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists(), module


def test_its_variables_are_read() -> None:
    import torch.utils.cpp_extension as torch_builds

    read = "\n".join((*SCRIPTS.values(), NATIVE, Path(torch_builds.__file__).read_text()))
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \| (.*?) \|", TEXT, re.M)
    named = {name for names, _ in rows for name in re.findall(r"`(\w+)`", names)}
    named |= set(re.findall(r"`(PKERNELS_\w+)`", TEXT)) | set(
        re.findall(r"\b(PYTHON|PKERNELS_\w+)=", blocks("dockerfile"))
    )
    assert {"PKERNELS_CUDA", "PKERNELS_CUDA_ARCHS", "MAX_JOBS", "CXX", "PKERNELS_ISA"} <= named
    unread = [name for name in named if not re.search(rf"\b{name}\b", read)]
    assert not unread


def test_its_defaults_are_those_of_the_scripts() -> None:
    defaults = dict(re.findall(r"^\| `([A-Z_]+)` \| `(.*?)` \|", TEXT, re.M))
    assert f'os.environ.get("PKERNELS_CUDA_ARCHS", "{defaults["PKERNELS_CUDA_ARCHS"]}")' in SCRIPTS["setup.py"]
    assert f'os.environ.get("PKERNELS_CUDA", "{defaults["PKERNELS_CUDA"]}")' in SCRIPTS["setup.py"]
    assert f"${{PKERNELS_TORCH:-{defaults['PKERNELS_TORCH']}}}" in SCRIPTS[".ci/environment"]
    assert f"torch=${{TORCH:-{defaults['TORCH']}}}" in SCRIPTS[".ci/wheel-test"]
    downloads = " ".join(line for line in blocks("sh").splitlines() if line.startswith("pip download"))
    assert defaults["PKERNELS_TORCH"] in downloads
    (triton,) = re.findall(r"^triton=(triton==.*)$", SCRIPTS[".ci/environment"], re.M)
    assert triton in downloads
    for file in re.findall(r"-r (\S+)", downloads):
        assert (ROOT / file).exists()
        assert Path(file).name in SCRIPTS[".ci/environment"] or "requirements*.txt" in SCRIPTS[".ci/environment"]
    pinned = (ROOT / ".ci" / "requirements.txt").read_text()
    assert len(re.findall(r"^nvidia-", pinned, re.M)) == 5, "BUILDING.md counts the packages of nvcc"


def rules(archs: str) -> dict:
    """What setup.py says of the kernels' files, for some chips."""
    wanted = {"files", "kernel_sources", "is_for_hopper", "target_of"}
    tree = ast.parse(SCRIPTS["setup.py"])
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    found = {"Path": Path, "ROOT": ROOT, "ARCHS": archs.split()}
    exec(compile(tree, "setup.py", "exec"), found)
    return found


def test_what_one_chip_alone_can_do_is_compiled_for_it() -> None:
    every, some = rules("80 90 100"), rules("80 100")
    own = [
        path for path in every["kernel_sources"]() if every["target_of"](path).startswith("-gencode=arch=compute_90a")
    ]
    assert own == ["csrc/cuda/hopper_forward.cu"]
    assert every["target_of"](own[0]) == "-gencode=arch=compute_90a,code=[compute_90a,sm_90a]"
    assert every["target_of"]("csrc/cuda/forward.cu").endswith("code=[compute_80,sm_80,sm_90,sm_100]")
    assert set(every["kernel_sources"]()) - set(some["kernel_sources"]()) == set(own)


def test_the_builder_compiles_it_for_that_chip_too(config: dict) -> None:
    own = config["kernel"]["pkernels_hopper"]
    assert own["cuda-capabilities"] == ["9.0a"]
    assert own["src"] == [path for path in rules("90")["kernel_sources"]() if "hopper" in path]


# build.toml ---------------------------------------------------------------------------

# The fields of edition 5 (huggingface/kernels, kernels-data/src/config/v5.rs); it refuses all others.
GENERAL = {"name", "version", "edition", "license", "upstream", "source", "minver", "backends", "cuda", "hub"}
TORCH = {"include", "minver", "maxver", "pyext", "src", "stable-abi", "cxx-flags"}
KERNEL = {"backend", "depends", "include", "src", "cxx-flags", "cuda-flags", "cuda-capabilities", "cuda-minver"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What ``.ci/hub`` hands to the builder."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    target = tmp_path_factory.mktemp("hub")
    subprocess.run([ROOT / ".ci" / "hub", target], check=True)
    return tomllib.loads((target / "build.toml").read_text())


def test_the_builder_knows_every_field(config: dict) -> None:
    assert set(config) == {"general", "torch", "kernel"}
    assert set(config["general"]) <= GENERAL and set(config["torch"]) <= TORCH
    assert {"name", "version", "edition", "license", "backends"} <= set(config["general"])
    assert config["general"]["edition"] == 5
    assert re.fullmatch("[a-z][-a-z0-9]*[a-z0-9]", config["general"]["name"])
    for kernel in config["kernel"].values():
        assert {"backend", "depends", "src"} <= set(kernel) <= KERNEL
        assert kernel["backend"] in config["general"]["backends"]


def test_the_builder_gets_every_source_and_setup_pys_flags(config: dict) -> None:
    listed = [*config["torch"]["src"], *(path for kernel in config["kernel"].values() for path in kernel["src"])]
    assert len(set(listed)) == len(listed)
    assert set(listed) == sources("csrc", "*.cpp", "*.h", "*.cu", "*.cuh")
    assert not [path for path in config["torch"]["src"] if path.startswith("csrc/cuda")]
    flags = set(ast.literal_eval(re.search(r"^COMPILER_FLAGS = (\[.*?\])", SCRIPTS["setup.py"], re.S | re.M)[1]))
    theirs = {flag for flag in flags if not flag.startswith(("-DTORCH_TARGET_VERSION", "-g", "-Wall"))}
    assert set(config["torch"]["cxx-flags"]) == theirs
    assert f"{config['torch']['stable-abi']}.0" == MIN_TORCH


def test_no_name_in_c_is_beyond_the_builders_reach() -> None:
    """Operators and modules are named in csrc/names.h alone."""
    for path in sources("csrc", "*.cpp", "*.cu", "*.cuh", "*.h") - {"csrc/names.h"}:
        assert not re.search(r"STABLE_TORCH_LIBRARY|pkernels_(native|cuda)\b[^:]*m\)", (ROOT / path).read_text()), path


OPS = """
{imported}

def add_op_namespace_prefix(name):
    return f"_other_1::{{name}}"
"""
SAME = """
import warnings, torch, pkernels, other, other.models.bert
from other import cuda, native

warnings.simplefilter("ignore")
torch.ops._other_1.band_fwd
q = torch.randn(1, 2, 50, 16, requires_grad=True)
for backend in {backends}:
    outs = [one.attention(q, q, q, one.window(5), backend=backend) for one in (pkernels, other)]
    assert torch.equal(*outs)
    assert torch.equal(*(torch.autograd.grad(out.sum(), q)[0] for out in outs))
print(native.why_missing(), cuda.why_missing(), other.models.bert.FAMILY.__class__.__module__, sep="\\n")
"""


def laid_out(directory: Path, imported: str) -> Path:
    """A package "other" out of what the builder gets, with the module _ops that it writes."""
    subprocess.run([ROOT / ".ci" / "hub", directory / "hub"], check=True)
    package = directory / "other"
    (directory / "hub" / "torch-ext" / "pkernels").rename(package)
    (package / "_ops.py").write_text(OPS.format(imported=imported))
    return package


def beside_the_installed(directory: Path, *backends: str) -> list[str]:
    """What both copies are asked in one process: native.why_missing, cuda.why_missing, a module's name."""
    done = subprocess.run(
        [sys.executable, "-c", SAME.format(backends=backends)], cwd=directory, capture_output=True, text=True,
        timeout=300, env={"PYTHONPATH": f"{directory}:{ROOT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_two_copies_share_a_process(config: dict, tmp_path: Path) -> None:
    laid_out(tmp_path, "")
    for path in config["torch"]["src"]:
        assert (tmp_path / "hub" / path).is_file()
    native, cuda, module = beside_the_installed(tmp_path, "reference")
    assert "(_other_1 was built without _C)" in native and "(_other_1 was built without _C_cuda)" in cuda
    assert module.startswith("other.models.parts.")


def test_the_builders_one_module_works(config: dict, tmp_path: Path) -> None:
    """The sources that name operators, compiled as kernel-builder compiles them, and linked with the kernels."""
    import torch.utils.cpp_extension as torch_builds

    kernels = sorted((ROOT / "build" / f"objects-{sys.implementation.cache_tag}" / "csrc" / "cpu").glob("*.o"))
    if len(kernels) != len(sources("csrc/cpu", "*.cpp")):
        pytest.skip("the kernels were not compiled in this checkout")
    package = laid_out(tmp_path, "from . import _other_1")
    stable = "0x{:x}".format(sum(int(n) << s for n, s in zip(MIN_TORCH.split("."), (56, 48), strict=False)))
    names = ["-DCPU_KERNEL", "-DTORCH_EXTENSION_NAME=_other_1", f"-DTORCH_TARGET_VERSION={stable}"]
    paths = [*torch_builds.include_paths(), sysconfig.get_path("include"), str(tmp_path / "hub" / "csrc")]
    flags = [*config["torch"]["cxx-flags"], *names, "-DPy_LIMITED_API=0x030A0000", "-fPIC", *(f"-I{p}" for p in paths)]
    bindings = sorted((tmp_path / "hub" / "csrc").glob("*.cpp"))
    compiler, objects = os.environ.get("CXX", "g++"), [tmp_path / f"{path.stem}.o" for path in bindings]
    for source, target in zip(bindings, objects, strict=True):
        subprocess.run([compiler, *flags, "-c", source, "-o", target], check=True)
    libraries = [*(f"-L{path}" for path in torch_builds.library_paths()), "-ltorch_cpu", "-lc10"]
    subprocess.run(
        [compiler, "-shared", "-o", package / "_other_1.abi3.so", *objects, *kernels, *libraries], check=True
    )
    native, cuda, _ = beside_the_installed(tmp_path, "reference", "cpu")
    assert native == "None" and "(_other_1 was built without _C_cuda)" in cuda
