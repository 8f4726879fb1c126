"""Run the test files of a directory with Triton's interpreter, from a pytest that is without.

Triton settles whether it interprets when it is imported, so each such file gets a Python process
of its own with ``TRITON_INTERPRET=1``. To the outer pytest a file is one test; its report quotes
the inner one. To run or debug a single inner test: ``TRITON_INTERPRET=1 pytest FILE::TEST``.

A directory opts in with a conftest that imports :func:`pytest_pycollect_makemodule`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

OUTER = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST")  # what the outer pytest says of itself
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return None if INTERPRETED else InterpretedFile.from_parent(parent, path=module_path)


class InterpretedFile(pytest.File):
    """A test file that needs the interpreter."""

    def collect(self) -> Iterator[pytest.Item]:
        yield InterpretedRun.from_parent(self, name="interpreted")


class InnerTestError(Exception):
    """Tests failed in the inner pytest."""


class InterpretedRun(pytest.Item):
    """One run of an inner pytest over the file."""

    def runtest(self) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-rfEs", "--tb=short", "-p", "no:cacheprovider",
                   "--color=no", f"--rootdir={self.config.rootpath}", str(self.path)]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OUTER)}
        result = subprocess.run(
            command,
            env=environment | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
            cwd=self.config.rootpath,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:  # 5: nothing collected, which is a failure too
            lines = result.stdout.splitlines()
            summary = [line for line in lines if line.startswith(("FAILED", "ERROR"))] + lines[-1:]
            end = f"exit status {result.returncode}"
            raise InnerTestError("\n".join([*summary, end, "", result.stdout, result.stderr]))
        self.add_report_section("call", "interpreted", result.stdout)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, InnerTestError) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.name} (interpreted)"
