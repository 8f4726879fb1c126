"""What an extension asks of the machine: libraries, the C library's age, instruction sets; and what it tells of the
one that built it.

Read with binutils, which come with the compiler.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TOOLS = ("readelf", "objdump")

SYSTEM = {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "librt", "libdl", "ld-linux-x86-64"}
TORCH = {"libtorch", "libtorch_cpu", "libc10"}  # in every build of torch, the CPU's too

# An instruction set that must be asked for, and the units (csrc/cpu/isa_<name>.cpp) that may use it.
UNITS = {
    "pairs": {"avx512bf16"},
    "avx512": {"avx512bf16", "avx512"},
    "avx": {"avx512bf16", "avx512", "avx2"},
}
_PAIRS = re.compile(r"vdpbf16ps|vcvtne2?ps2?bf16|vcvtneps2bf16")
_AVX512 = re.compile(r"%zmm|%k[0-7]|%[xy]mm(1[6-9]|2\d|3[01])")
# The absolute name of a source, of whatever language of C's, that ends where the string does.
_SOURCE = re.compile(rb"(?<![\w.+-])(?:/[\w.+ -]+)+\.(?:[ch]|cc|cuh?|cpp|cxx|hpp|inc)(?=\0)")
# The namespace of a unit, demangled or, where binutils could not, as it is: 8pkernels6avx512.
_UNIT = re.compile(r"\bpkernels::(\w+)::|8pkernels\d+(avx512bf16|avx512|avx2)")


def missing_tool() -> str | None:
    """Why a binary cannot be read, or None."""
    lost = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"{' and '.join(lost)}: not installed (binutils)" if lost else None


def _run(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


def needed(path: Path) -> set[str]:
    """The libraries that the loader fetches, such as ``{"libc10.so", "libc.so.6"}``."""
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", _run("readelf", "-dW", path)))


def foreign(path: Path) -> set[str]:
    """Libraries that neither the system nor every torch has: CUDA's, a second OpenMP, ..."""
    return {name for name in needed(path) if name.split(".so")[0] not in SYSTEM | TORCH}


def searched(path: Path) -> list[str]:
    """Directories that the binary adds to the loader's search: none, if it was built to be moved."""
    return re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.+)\]", _run("readelf", "-dW", path))


def paths(path: Path, root: Path) -> list[str]:
    """Absolute paths of the machine that built the binary: of sources, which ``__FILE__`` writes down, and of all below
    the directory of the build."""
    held, below = path.read_bytes(), rb"(?<![\w.+-])" + re.escape(bytes(root)) + rb"/[\x20-\x7e]*"
    return sorted(name.decode() for name in {*_SOURCE.findall(held), *re.findall(below, held)})


def glibc(path: Path) -> tuple[int, int]:
    """The oldest C library that the binary loads with, such as ``(2, 28)``."""
    found = re.findall(r"\bGLIBC_(\d+)\.(\d+)", _run("readelf", "-VW", path))
    return max(((int(major), int(minor)) for major, minor in found), default=(0, 0))


def instruction_set(line: str) -> str | None:
    """What a line of a disassembly needs beyond the baseline: a key of UNITS, or None.

    Example:
        >>> [instruction_set(line) for line in ("vdpbf16ps %zmm1,%zmm2,%zmm3", "vaddps %zmm0,%zmm1,%zmm2",
        ...                                     "vfmadd231ps %ymm0,%ymm1,%ymm2", "addps %xmm0,%xmm1")]
        ['pairs', 'avx512', 'avx', None]
    """
    if _PAIRS.match(line):
        return "pairs"
    if _AVX512.search(line):
        return "avx512"
    # Every AVX instruction begins so, and no older one that compilers emit but two that ask a segment.
    return "avx" if line.startswith("v") and not line.startswith(("verr", "verw")) else None


def unit(function: str) -> str | None:
    """The unit that a function belongs to, by its namespace, or None.

    Example:
        >>> unit("void pkernels::avx512::forward_with<float>(int)"), unit("std::sort<float>(float*)")
        ('avx512', None)
    """
    return next((a or b for a, b in _UNIT.findall(function) if (a or b) in UNITS["avx"]), None)


def vectors(path: Path) -> dict[str, set[str]]:
    """Per key of UNITS the functions that use it."""
    found: dict[str, set[str]] = defaultdict(set)
    for function, line in _instructions(path):
        if (kind := instruction_set(line)) is not None:
            found[kind].add(function)
    return found


def strays(found: dict[str, set[str]]) -> list[str]:
    """Those of ``vectors`` outside of the units that the dispatch guards: an older CPU would stop at
    them, at a std:: template, say, of which the linker kept the wide copy."""
    return sorted(f"{kind}: {name}" for kind, names in found.items() for name in names if unit(name) not in UNITS[kind])


def _instructions(path: Path) -> Iterator[tuple[str, str]]:
    function = ""
    for line in _run("objdump", "-d", "-C", "--no-show-raw-insn", path).splitlines():
        if heading := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = heading[1]
        elif instruction := line.partition("\t")[2]:
            yield function, instruction
