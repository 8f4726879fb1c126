"""The rooms of the house: imports go one way, files stay small, public names are documented."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pkernels

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "pkernels"

# Who may import whom: a module may import what stands before it, never what stands after.
# Names in one line do not import one another.
LAYERS = (
    ("names", "patterns", "blocks", "buckets", "bias", "reversible"),
    ("problem", "recurrence"),
    ("checks", "sequences"),
    ("added",),
    ("reference", "native", "triton", "cuda"),
    ("ops",),
    ("merge", "lstm"),
    ("attention",),
    ("bigbird", "globals", "lsh"),
    ("support",),
    ("info", "show"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BACKENDS = ("reference", "native", "triton", "cuda")
# The choice of a backend imports them late, by name.
LATE = {"ops": BACKENDS}


def imports(path: Path) -> set[str]:
    """The rooms of the package that a file imports, at any depth of its code."""
    package = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            targets = [(*base, node.module)] if node.module else [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pkernels":
            rest = tuple(node.module.split(".")[1:])
            targets = [rest] if rest else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("pkernels.")]
        else:
            continue
        found |= {target[0].split(".")[0] for target in targets}
    return found & set(LEVEL)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if room(path) in LEVEL]


def test_every_room_is_in_the_plan() -> None:
    rooms = {room(path) for path in PACKAGE.rglob("*.py") if "models" not in path.parts}
    assert rooms == {*LEVEL, "__init__", "__main__"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    mine = room(path)
    wrong = {name for name in imports(path) - {mine} if LEVEL[name] >= LEVEL[mine]}
    assert not wrong, f"{mine} must not import {sorted(wrong)}"


def test_backends_do_not_know_one_another() -> None:
    for path in SOURCES:
        if room(path) in BACKENDS:
            assert not (imports(path) & set(BACKENDS)) - {room(path)}


@pytest.mark.parametrize("folder", ["models/parts", "models/parts/objectives", "models/pretrain"])
def test_parts_import_what_their_docstring_says(folder: str) -> None:
    """Each file of the folder only from those in the lines before its own."""
    plan = (ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text())) or "").split("::", 1)[1]
    level = {name: number for number, line in enumerate(plan.splitlines()) for name in line.split()}
    files = {path.stem: [path] for path in (ROOT / folder).glob("*.py") if path.stem != "__init__"}
    files |= {path.parent.name: list(path.parent.glob("*.py")) for path in (ROOT / folder).glob("*/__init__.py")}
    assert set(files) == set(level)
    for name, paths in files.items():
        for path in paths:
            up = len(path.relative_to(ROOT / folder).parts)
            nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
            named = {
                part
                for node in nodes
                if node.level == up
                for part in ([node.module.split(".")[0]] if node.module else [alias.name for alias in node.names])
            }
            wrong = {other for other in named if level[other] >= level[name]}
            assert not wrong, f"{folder}: {name} must not import {sorted(wrong)}"


@pytest.mark.parametrize("folder", ["pkernels", "models", "benchmarks"])
def test_nothing_below_imports_what_stands_on_it(folder: str) -> None:
    above = {"pkernels": {"benchmarks", "models", "tests"}, "models": {"benchmarks", "tests"}, "benchmarks": {"tests"}}
    for path in (ROOT / folder).rglob("*.py"):
        if folder == "pkernels" and "models" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            tops = {name.split(".")[0] for name in names} | {
                "models" for name in names if name.startswith("pkernels.models")
            }
            assert not tops & above[folder], f"{path.relative_to(ROOT)} imports {sorted(tops & above[folder])}"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_takes_no_backend_and_no_model() -> None:
    loaded = run("import sys, pkernels; print(*sys.modules)").split()
    # torch itself may look for triton; it must not be this package that asks.
    for name in ("pkernels.triton", "pkernels.models", "pkernels.reference.band", "transformers", "matplotlib", "rich"):
        assert name not in loaded
    bare = run("import sys, torch; print(*sys.modules)").split()
    assert "triton" in bare or "triton" not in loaded


def test_attention_on_the_cpu_loads_no_triton() -> None:
    code = "import sys, torch, pkernels as p; x = torch.zeros(1, 1, 2, 8); p.attention(x, x, x)"
    loaded = run(code + "; print(*sys.modules)").split()
    assert "pkernels.triton" not in loaded and "pkernels.native" in loaded


# Files and docstrings -------------------------------------------------------------------


def python_files() -> list[Path]:
    folders = [ROOT / name for name in ("pkernels", "models", "benchmarks")]
    return sorted({path for folder in folders for path in folder.rglob("*.py")} | {ROOT / "setup.py"})


def code_lines(node: ast.AST) -> set[int]:
    """Lines that hold code: no comments, docstrings or blank lines."""
    docstrings = {
        id(parent.body[0].value)
        for parent in ast.walk(node)
        if isinstance(parent, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(parent, clean=False)
    }
    return {
        line
        for part in ast.walk(node)
        if isinstance(part, (ast.expr, ast.stmt)) and id(getattr(part, "value", part)) not in docstrings
        for line in {part.lineno, part.end_lineno}
    }


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert len(code_lines(tree)) <= 250, "split the file by concepts"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            lines = len(set().union(*map(code_lines, node.body)))
            assert lines <= 45, f"{node.name} has {lines} lines"


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a file begins with a docstring"


PUBLIC = [name for name in pkernels.__all__ if callable(getattr(pkernels, name))]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_an_example(name: str) -> None:
    documented = getattr(pkernels, name)
    text = inspect.getdoc(documented) or ""
    examples = doctest.DocTestParser().get_examples(text)
    assert text and examples, f"{name} has no example"


def test_all_names_what_there_is() -> None:
    assert len(set(pkernels.__all__)) == len(pkernels.__all__)
    assert all(hasattr(pkernels, name) for name in pkernels.__all__)
