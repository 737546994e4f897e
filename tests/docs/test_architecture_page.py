"""docs/architecture.md is true: its files exist, define what it says, and import what they call."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LINE = re.compile(r"^ {4}( *)(harness/\S+\.py) +(\w+) +\S", re.MULTILINE)
STEPS = [(len(indent), path, name) for indent, path, name in LINE.findall(PAGE)]


def module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(path: str) -> set[str]:
    """Every module that a file imports, also inside functions, and the names it takes from them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def calls() -> list[tuple[str, str]]:
    """Caller and called file of every indented line."""
    found = []
    stack: list[tuple[int, str]] = []
    for indent, path, _ in STEPS:
        while stack and stack[-1][0] >= indent:
            stack.pop()
        if stack:
            found.append((stack[-1][1], path))
        stack.append((indent, path))
    return found


def test_the_picture_is_read_whole() -> None:
    assert len(STEPS) > 15
    assert len(calls()) == len(STEPS) - 2


@pytest.mark.parametrize(("path", "name"), [(path, name) for _, path, name in STEPS])
def test_a_file_of_the_picture_defines_its_name(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    assert name in {node.name for node in tree.body if isinstance(node, kinds)}


@pytest.mark.parametrize(("caller", "called"), calls())
def test_a_caller_imports_what_it_calls(caller: str, called: str) -> None:
    known = imports(caller)
    reached = module(called)
    # A package hands on names of its modules: `from harness import api`.
    parents = {reached, reached.rpartition(".")[0]}
    assert known & parents, f"{caller} does not import {called}"


def test_every_package_is_described() -> None:
    packages = {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}
    modules = {path.name for path in (ROOT / "harness").glob("*.py")} - {"__init__.py"}
    table = PAGE[PAGE.index("## Packages") : PAGE.index("## Who may import")]
    missing = [one for one in packages if f"{one}/`" not in table]
    missing += [one for one in modules if f"{one}`" not in table]
    assert not missing


def test_the_import_rules_name_what_the_contract_names() -> None:
    contracts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    text = contracts[contracts.index('name = "Downwards only"') :]
    layers = re.findall(r'"harness\.([^"]+)"', text[: text.index("]\n\n[[")])
    names = [name for layer in layers for name in re.findall(r"\w+", layer.replace("harness.", ""))]
    rules = PAGE[PAGE.index("## Who may import") : PAGE.index("## Decisions")]
    assert [name for name in names if not re.search(rf"\b{name}\b", rules)] == []
