"""On what a result was measured."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import torch

import pkernels
from pkernels import native

FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16")


def facts(device: str) -> dict:
    """Machine, versions, commit and date, as written into every row."""
    return {
        "machine": _machine(device),
        "versions": _versions(),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "threads": torch.get_num_threads(),
        "device": device,
    }


def _machine(device: str) -> dict:
    info = _read("/proc/cpuinfo")
    flags = set((_field(info, "flags") or _field(info, "Features") or "").split())
    memory = re.search(r"MemTotal:\s+(\d+)", _read("/proc/meminfo"))
    return {
        "cpu": _field(info, "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "isa": native.instruction_set() if native.why_missing() is None else None,
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "os": platform.platform(),
    }


def _versions() -> dict:
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pkernels": pkernels.__version__,
    }
    for package in ("triton", "transformers"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _git(*arguments: str) -> str | None:
    try:
        root = Path(__file__).parent
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def line(facts: dict) -> str:
    """The facts in one line for the terminal."""
    machine, versions = facts["machine"], facts["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {facts['threads']} of {machine['cores']} cores"
    isa = f", kernels for {machine['isa']}" if machine["isa"] else ""
    commit = str(facts["commit"])[:9] + (" with changes" if facts["dirty"] else "")
    return f"{where}{isa}; torch {versions['torch']}; pkernels {versions['pkernels']} at {commit}"
