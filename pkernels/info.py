"""What this installation has and can do: ``python -m pkernels info``."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from typing import Any

import torch

from . import __version__
from .ops import BACKENDS, why_not

Section = tuple[str, list[tuple[str, str]]]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def sections() -> list[Section]:
    """Titled lists of (name, value)."""
    return [("versions", _versions()), ("backends", _backends()), ("CPU", _cpu()), ("GPU", _gpu())]


def _versions() -> list[tuple[str, str]]:
    rows = [("pkernels", __version__), ("Python", platform.python_version()), ("torch", torch.__version__)]
    return [*rows, ("triton", _version("triton")), ("system", platform.platform())]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _backends() -> list[tuple[str, str]]:
    rows = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for name in BACKENDS:
            rows.append((f"{name}, {device} tensors", _support(name, device)))
    if not torch.cuda.is_available():
        rows.append(("cuda tensors", "none: torch.cuda.is_available() is False"))
    return rows


def _support(backend: str, device: str) -> str:
    """Which dtypes a backend takes, or the one reason why it takes none."""
    reasons: dict[str, list[str]] = {}
    yes = []
    for dtype in _DTYPES:
        q = torch.empty(1, 1, 1, 64, dtype=dtype, device=device)
        reason, name = why_not(backend, q, q, q), str(dtype).removeprefix("torch.")
        if reason is None:
            yes.append(name)
        else:
            reasons.setdefault(reason, []).append(name)
    if yes:
        return f"yes: {', '.join(yes)}"
    return f"no: {max(reasons, key=lambda reason: len(reasons[reason]))}"


def _cpu() -> list[tuple[str, str]]:
    return [
        ("kernels use", _ask("instruction_set")),
        ("kernels could use", _ask("instruction_sets")),
        ("torch uses", torch.backends.cpu.get_cpu_capability()),
        ("threads", str(torch.get_num_threads())),
    ]


def _gpu() -> list[tuple[str, str]]:
    rows = [("Triton kernels", "compiled when first used, for the GPU at hand")]
    rows.append(("CUDA C++ kernels built for", _ask("archs", "cuda")))
    for index in range(torch.cuda.device_count()):
        rows.append((f"GPU {index}", torch.cuda.get_device_name(index)))
    return rows


def _ask(function: str, backend: str = "native") -> str:
    """An answer of an extension, or why there is none."""
    module = importlib.import_module(f"{__package__}.{backend}")
    missing = module.why_missing()
    if missing is not None:
        return missing
    answer: Any = getattr(module, function)()
    return answer if isinstance(answer, str) else ", ".join(map(str, answer)) or "none"


def render(content: list[Section]) -> None:
    """Print sections: as tables if rich is installed, else as plain lines."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        for title, rows in content:
            print(f"{title}\n" + "\n".join(f"  {name}: {value}" for name, value in rows))
        return
    console = Console()
    for title, rows in content:
        table = Table(title=title, title_justify="left", show_header=False, title_style="bold", expand=False)
        for name, value in rows:
            table.add_row(name, Text(value))
        console.print(table)
