"""Commands that are run in a time of their own, and where to find them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SANITIZER = "compute-sanitizer"
WRONG = 86
"""What compute-sanitizer is told to exit with if it has found something."""


def sanitizer(environment: Mapping[str, str], roots: Sequence[Path] = (Path("/usr/local"),)) -> Path | None:
    """The compute-sanitizer that PATH, CUDA_HOME or a toolkit below one of the roots has, or None."""
    places = [Path(environment["CUDA_HOME"])] if environment.get("CUDA_HOME") else []
    places += [home for root in roots for home in sorted(root.glob("cuda*"), reverse=True)]
    paths = [home / folder for home in places for folder in ("bin", SANITIZER)]
    found = shutil.which(SANITIZER, path=os.pathsep.join([environment.get("PATH", ""), *map(str, paths)]))
    return Path(found) if found else None


def run(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str] | None = None) -> int | None:
    """The exit status of a command, or None if it had to be ended; what it prints goes into a file.

    It is ended with all that it has started, such as the workers of tests.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            list(command), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None


def tests_said(status: int | None, printed: str, seconds: float) -> str:
    """How a run of pytest went.

    Example:
        >>> tests_said(1, "... \\n2 failed, 40 passed in 3.00s", 60)
        'failed: 2 failed, 40 passed in 3.00s'
        >>> tests_said(None, "....", 60)
        'failed: not done after 60 s'
    """
    if status is None:
        return f"failed: not done after {seconds:.0f} s"
    found = re.findall(r"^=*\s*((?:no tests ran|\d+ \w+).* in [\d.]+s.*?)\s*=*$", printed, re.M)
    ran = re.search(r"\d+ passed", found[-1]) if found else None
    # pytest calls a run of skipped tests a success.
    return f"{'passed' if status == 0 and ran else 'failed'}: {found[-1] if found else f'pytest exited with {status}'}"


def sanitizer_said(status: int | None, printed: str, seconds: float) -> str:
    """How a run of compute-sanitizer went; a program that did nothing has not passed."""
    if status is None:
        return f"failed: not done after {seconds:.0f} s"
    summary = re.findall(r"ERROR SUMMARY: .*", printed)
    done = re.findall(r"^calls that were checked: [1-9].*", printed, re.M)
    text = "; ".join([*done, *summary]) or f"it exited with {status}"
    return f"{'passed' if status == 0 and done and summary else 'failed'}: {text}"
