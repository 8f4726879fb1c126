"""What a wheel must be: one for every Python and torch, whole, with nothing that it does not own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from . import binary

ROOT = Path(__file__).resolve().parents[2]
EXTENSIONS = ("_C", "_C_cuda")
MIN_TORCH = "2.10.0"  # as in pyproject.toml and in setup.py's TORCH_TARGET_VERSION


def extensions() -> set[str]:
    """Those that a wheel of this environment holds: ``PKERNELS_CUDA=0`` leaves the second out."""
    return set(EXTENSIONS[:1] if os.environ.get("PKERNELS_CUDA") == "0" else EXTENSIONS)


def sources(directory: str, *patterns: str) -> set[str]:
    """Files of the checkout, as paths from its root."""
    return {str(path.relative_to(ROOT)) for pattern in patterns for path in (ROOT / directory).rglob(pattern)}


@dataclass(frozen=True)
class Tag:
    """The end of a wheel's name: ``cp310-abi3-manylinux_2_34_x86_64``."""

    glibc: tuple[int, int]
    machine: str

    @staticmethod
    def of(name: str) -> Tag | None:
        """The tag of a wheel, if it is one for every Python >= 3.10 and some age of the C library.

        Example:
            >>> Tag.of("pkernels-0.1.0-cp310-abi3-manylinux_2_28_x86_64.whl")
            Tag(glibc=(2, 28), machine='x86_64')
            >>> Tag.of("pkernels-0.1.0-cp310-abi3-linux_x86_64.whl")
        """
        found = re.search(r"-cp310-abi3-(?:manylinux\w+\.)*manylinux_(\d+)_(\d+)_(\w+)\.whl$", name)
        return Tag((int(found[1]), int(found[2])), found[3]) if found else None


def problems(wheel: Path, extensions: set[str]) -> Iterator[str]:
    """What is wrong with a wheel, without the tools that must be installed (see ``tools``)."""
    tag = Tag.of(wheel.name)
    if tag is None:
        yield f"its name is not one of an abi3 wheel for cp310 and a manylinux: {wheel.name}"
    yield from contents(wheel, extensions)
    with TemporaryDirectory() as directory:
        for path in unpacked(wheel, Path(directory)):
            yield from (f"{path.name}: {text}" for text in of_extension(path, tag))


def contents(wheel: Path, extensions: set[str]) -> Iterator[str]:
    """What a wheel lacks of the checkout and of these extensions, and what it holds beside."""
    wanted = sources("pkernels", "*.py") | {f"pkernels/{name}" for name in sources("models", "*.py")}
    wanted |= {f"pkernels/{name}.abi3.so" for name in extensions} | {"pkernels/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name and name[-1] != "/"}
    if wanted - found:
        yield f"lacks {', '.join(sorted(wanted - found))}"
    if found - wanted:
        yield f"holds {', '.join(sorted(found - wanted))}"


def unpacked(wheel: Path, directory: Path) -> list[Path]:
    """The extensions of a wheel, in a directory."""
    with zipfile.ZipFile(wheel) as archive:
        return [Path(archive.extract(name, directory)) for name in archive.namelist() if name.endswith(".so")]


def of_extension(path: Path, tag: Tag | None) -> Iterator[str]:
    """What is wrong with an extension in a wheel of a tag."""
    if foreign := binary.foreign(path):
        yield f"needs {', '.join(sorted(foreign))}, which a system with torch may not have"
    if searched := binary.searched(path):
        yield f"looks for libraries in {', '.join(searched)}"
    if paths := binary.paths(path, ROOT):
        yield f"tells where it was built: {', '.join(paths)}"
    if tag and binary.glibc(path) > tag.glibc:
        yield f"needs glibc {binary.glibc(path)}, its tag says {tag.glibc}"
    found = binary.vectors(path)
    for stray in binary.strays(found):
        yield f"uses what the dispatch does not guard: {stray}"
    if tag and tag.machine == "x86_64" and path.name == "_C.abi3.so" and set(found) != set(binary.UNITS):
        yield f"has kernels for {', '.join(sorted(found)) or 'nothing'}, and should for {', '.join(binary.UNITS)}"


def tools(wheel: Path) -> Iterator[str]:
    """What abi3audit, auditwheel and torch-abi-audit find."""
    if failed := _run(sys.executable, "-m", "abi3audit", "--strict", "--summary", wheel)[1]:
        yield f"abi3audit refuses it: {failed}"
    shown, failed = _run(sys.executable, "-m", "auditwheel", "show", "--json", wheel)
    yield from [f"auditwheel refuses it: {failed}"] if failed else shown_by_auditwheel(json.loads(shown), wheel.name)
    with TemporaryDirectory() as directory:
        for path in unpacked(wheel, Path(directory)):
            code = "import sys; from torch_abi_audit.cli import main; sys.exit(main())"
            shown, failed = _run(sys.executable, "-c", code, "--json", "--check", "both", path)
            found = [f"torch-abi-audit refuses it: {shown}"] if failed else shown_by_torch_audit(json.loads(shown))
            yield from (f"{path.name}: {text}" for text in found)


def shown_by_auditwheel(shown: dict, name: str) -> Iterator[str]:
    """What is wrong in the JSON of ``auditwheel show``. Its own verdict is that of a wheel with torch in it."""
    if not name.endswith(f"-{shown['sym_tag']}.whl") and f".{shown['sym_tag']}." not in name:
        yield f"auditwheel finds {shown['sym_tag']} in {name}"
    if libraries := [lib for lib in shown["external_libs"] if lib.split(".so")[0] not in binary.TORCH]:
        yield f"auditwheel would have to bundle {', '.join(libraries)}"


def shown_by_torch_audit(shown: dict) -> Iterator[str]:
    """What is wrong in the JSON of torch-abi-audit, which has found the ABIs in order."""
    for extension in shown["extensions"]:
        if (oldest := extension["torch"]["min_torch_version"]) != MIN_TORCH:
            yield f"runs with torch >= {oldest}, and should with {MIN_TORCH}"


def _run(*command: str | Path) -> tuple[str, str]:
    """What a command prints, and if it fails what it says then."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    return done.stdout, (done.stdout + done.stderr)[-1000:] if done.returncode else ""
