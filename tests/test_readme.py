"""The README says what is true: its example runs, and its table is what why_not answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pkernels import support

README = Path(__file__).resolve().parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def section(name: str) -> str:
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", TEXT, re.DOTALL)
    assert found, f"README.md has no section between <!-- {name} --> and <!-- /{name} -->"
    return found[1].strip()


def test_the_table_of_support_is_what_the_code_answers() -> None:
    assert section("support") == support.table()


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(example, str(README), "exec"), {})
    assert "torch.Size([12, 1999])" in capsys.readouterr().out


def test_the_figures_name_the_machine_and_the_baseline() -> None:
    figures = section("figures")
    assert "CPU" in figures and "torch" in figures and "|" in figures
