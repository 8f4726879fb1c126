"""Builds one extension, ``pkernels._C``, for every torch >= 2.10 and every Python >= 3.10.

It speaks only LibTorch's stable ABI and CPython's limited API, and picks the instruction set of
the CPU when it runs. Everything else about the package is in pyproject.toml.
"""

import sys
import sysconfig
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


def extension(torch):
    return (torch.CppExtension if torch else Extension)(
        "pkernels._C",
        sources=files("*.cpp") + files("cpu/*.cpp"),
        depends=files("**/*.h"),
        include_dirs=[str(ROOT / "csrc"), *(torch.include_paths() if torch else [])],
        extra_compile_args=COMPILER_FLAGS,
        py_limited_api=True,
    )


def build_command(torch):
    class Build(torch.BuildExtension):
        def finalize_options(self):
            super().finalize_options()
            # Editable installs would build in a new directory each time; in one that stays,
            # ninja compiles only what has changed.
            self.build_temp = str(ROOT / "build" / f"objects-{sys.implementation.cache_tag}")

        def build_extensions(self):
            for extension in self.extensions:
                extension.extra_compile_args = [*COMPILER_FLAGS]  # torch appends its own at every run
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

setup(
    packages=packages(),
    package_dir={"pkernels": "pkernels", "pkernels.models": "models"},
    package_data={"pkernels": ["py.typed"]},
    ext_modules=[extension(torch)],
    cmdclass={"build_ext": build_command(torch)} if torch else {},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
