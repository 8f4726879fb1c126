"""Builds the extension ``pkernels._C``, for every torch >= 2.10 and every Python >= 3.10, and
``pkernels._C_cuda`` if there is a CUDA compiler.

Both speak only LibTorch's stable ABI and CPython's limited API. The first picks the instruction
set of the CPU when it runs; the second holds the GPU kernels, compiled here by nvcc, and CUDA's
runtime, so that it loads beside every torch. Everything else about the package is in pyproject.toml.

PKERNELS_CUDA        auto (the default): build the second if nvcc is found; 0: do not; 1: it must be
PKERNELS_CUDA_ARCHS  compute capabilities, "80 90 100" by default
CUDA_HOME            a toolkit; without it pip's nvidia-cuda-nvcc and /usr/local/cuda are looked at
MAX_JOBS             how many compilers run at once, by default one per core
"""

import hashlib
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent

COMPILER_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",  # vectors wider than the baseline's registers never cross a translation unit
    "-DTORCH_TARGET_VERSION=0x020A000000000000",
    "-DTORCH_STABLE_ONLY",
]

# What most kernels use is there since sm_80: one PTX, assembled for each chip and kept for later ones.
NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    "--compress-mode=size",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
    "-diag-suppress=20012",
]
ARCHS = os.environ.get("PKERNELS_CUDA_ARCHS", "80 90 100").replace(";", " ").split()

NO_TORCH = """
pkernels is compiled against the torch of the environment that it is installed into, and there is none here.
Install torch (2.10 or newer) first, for example with 'pip install torch', and try again.
With uv, or another tool that builds in an environment of its own, add --no-build-isolation.
"""


def torch_extensions():
    """torch.utils.cpp_extension, or None. An isolated build looks into the environment around it."""
    outside = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    sys.path += [path for path in dict.fromkeys(outside) if path not in sys.path]
    try:
        from torch.utils import cpp_extension
    except ImportError:
        return None
    return cpp_extension


def files(pattern):
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob(pattern))


def extension(torch, name, sources, **more):
    return (torch.CppExtension if torch else Extension)(
        f"pkernels.{name}",
        sources=sources,
        depends=files("**/*.h") + files("**/*.cu*"),
        include_dirs=[str(ROOT / "csrc"), *(torch.include_paths() if torch else [])],
        extra_compile_args=COMPILER_FLAGS,
        py_limited_api=True,
        **more,
    )


def without_paths(torch):
    """Flags by which what a compiler writes down of files (``__FILE__`` in the errors of torch's headers) begins at
    the root, or at torch: a build of elsewhere has the same bytes. nvcc is given paths from the root alone."""
    roots = {Path(path).parents[1] for path in torch.include_paths() if path.endswith("torch/include")} | {ROOT}
    # The last that fits is taken: an environment within the root comes after it.
    return [f"-ffile-prefix-map={root}/=" for root in sorted(roots, key=lambda root: len(root.parts))]


def cuda_home():
    """The directory of a CUDA toolkit, or None."""
    choice = os.environ.get("PKERNELS_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        sys.exit(f"PKERNELS_CUDA: auto, 0 or 1 is allowed, got {choice!r}")
    pip = [Path(path, "nvidia") for path in sys.path]
    homes = [home for path in pip for home in sorted(path.glob("cu*"), reverse=True)]
    given = os.environ.get("CUDA_HOME")
    homes = [Path(given)] if given else [*homes, Path("/usr/local/cuda")]
    found = next((home for home in homes if (home / "bin" / "nvcc").exists()), None)
    if choice == "1" and found is None:
        sys.exit(
            f"PKERNELS_CUDA=1: no nvcc in {', '.join(map(str, homes))}; pip install nvidia-cuda-nvcc, or set CUDA_HOME"
        )
    return None if choice == "0" else found


def cuda_extension(torch, home):
    lib = next(
        (home / name for name in ("lib64", "lib") if (home / name / "libcudart_static.a").exists()), home / "lib"
    )
    return extension(
        torch,
        "_C_cuda",
        files("cuda/*.cpp"),
        library_dirs=[str(lib)],
        libraries=["cudart_static", "rt", "dl", "pthread"],
        extra_link_args=["-Wl,--exclude-libs,ALL"],
        define_macros=[("PK_CUDA_ARCHS", '"' + " ".join(ARCHS) + '"')],
    )


def kernel_sources():
    """The .cu files; those for one chip alone if it is among ``ARCHS``. What they define is then missing, and weak."""
    return [path for path in files("cuda/*.cu") if "90" in ARCHS or not is_for_hopper(path)]


def is_for_hopper(path):
    """Whether a file uses what only chips of compute capability 9.0 have: wgmma, TMA."""
    return Path(path).name.startswith("hopper_")


def target_of(source):
    """nvcc's flag that says for which chips. The PTX for 9.0 serves no later chip: the tests run it."""
    if is_for_hopper(source):
        return "-gencode=arch=compute_90a,code=[compute_90a,sm_90a]"
    return f"-gencode=arch=compute_80,code=[{','.join(['compute_80', *(f'sm_{arch}' for arch in ARCHS)])}]"


def compile_kernels(home, directory):
    """The objects of csrc/cuda/*.cu, compiled again if anything that they are made of has changed."""
    directory.mkdir(parents=True, exist_ok=True)
    parts = [Path(path).read_bytes() for path in files("*.h") + files("cuda/*.h") + files("cuda/*.cuh")]

    def build(source):
        command = [str(home / "bin" / "nvcc"), *NVCC_FLAGS, target_of(source)]
        digest = hashlib.sha256(b"".join([*parts, Path(source).read_bytes(), repr(command).encode()])).hexdigest()
        target = directory / f"{Path(source).stem}-{digest[:16]}.o"
        if not target.exists():
            print("nvcc", source, flush=True)
            part = target.with_suffix(f".{os.getpid()}")
            subprocess.run([*command, "-c", source, "-o", str(part)], cwd=ROOT, check=True)
            for old in directory.glob(f"{Path(source).stem}-*.o"):
                old.unlink()
            part.rename(target)
        return str(target)

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))) as pool:
        # The passes over a Band take longest and are last by name; begun last, one would keep a single core busy.
        return list(pool.map(build, reversed(kernel_sources())))


def build_command(torch):
    class Build(torch.BuildExtension):
        def finalize_options(self):
            super().finalize_options()
            # Editable installs would build in a new directory each time; in one that stays,
            # ninja compiles only what has changed.
            self.build_temp = str(ROOT / "build" / f"objects-{sys.implementation.cache_tag}")

        def build_extensions(self):
            for extension in self.extensions:
                # torch appends its own at every run
                extension.extra_compile_args = [*COMPILER_FLAGS, *without_paths(torch)]
                if extension.name == "pkernels._C_cuda":
                    extension.extra_objects = compile_kernels(cuda_home(), Path(self.build_temp, "cuda"))
            super().build_extensions()

    return Build


def packages():
    """pkernels, and the top-level directory models/ as pkernels.models."""
    models = ["pkernels.models", *(f"pkernels.models.{name}" for name in find_packages("models"))]
    kernels = find_packages(include=["pkernels", "pkernels.*"])
    return [name for name in kernels if not name.startswith("pkernels.models")] + models


torch = torch_extensions()
if torch is None and not {"sdist", "egg_info"} & set(sys.argv):
    sys.exit(NO_TORCH)

extensions = [extension(torch, "_C", files("*.cpp") + files("cpu/*.cpp"))]
if home := cuda_home():
    extensions.append(cuda_extension(torch, home))

setup(
    packages=packages(),
    package_dir={"pkernels": "pkernels", "pkernels.models": "models"},
    package_data={"pkernels": ["py.typed"]},
    ext_modules=extensions,
    cmdclass={"build_ext": build_command(torch)} if torch else {},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
