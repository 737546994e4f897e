"""What travels of the agent's sources: the same program on the same lines, without its words."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.devices.dialects.python_agent import packing, slim

SOURCES = sorted((Path(__file__).parents[2] / "agents" / "python_tflite").glob("*.py"))


class Bare(ast.NodeTransformer):
    """Takes annotations out, but for those of variables without a value."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        self.generic_visit(node)
        if node.value is None:
            return node
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value), node)


def program(text: str) -> str:
    """Everything but the docstrings and annotations, with the line of every node."""
    tree = Bare().visit(ast.parse(text))
    for node in ast.walk(tree):
        if hasattr(node, "col_offset"):
            node.col_offset = node.end_col_offset = 0
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(value="")
            node.end_lineno = node.lineno
            node.value.lineno = node.value.end_lineno = node.lineno
            node.value.col_offset = node.value.end_col_offset = 0
    return ast.dump(tree, include_attributes=True)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_slim_source_is_the_same_program_on_the_same_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    slimmed = slim.slim(text)

    assert program(slimmed) == program(text)
    assert len(slimmed) < len(text)
    assert slim.slim(slimmed) == slimmed


def test_hash_marks_in_strings_and_empty_bodies_stay() -> None:
    text = 'x = "# no comment"  # a comment\ndef f():\n    """Words.\n\n    More."""\n\ny = """a\n# b\n"""\n'
    namespace: dict[str, object] = {}
    exec(compile(slim.slim(text), "slim", "exec"), namespace)

    assert (namespace["x"], namespace["y"]) == ("# no comment", "a\n# b\n")
    assert "Words" not in slim.slim(text)
    assert slim.slim(text).index("y = ") > 0


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("def f(a: int, *b: str, c: 'x, y' = 1, **d: Any) -> Dict[str, int]:", "def f(a, *b, c = 1, **d):"),
        ("def f(a=lambda x: x, b: int = {1: 2}[1], *, c: int):", "def f(a=lambda x: x, b = {1: 2}[1], *, c):"),
        ("x: int = y[1:2]", "x = y[1:2]"),
        ("self.a.b: Dict[str, Any] = {'k': lambda z: 1}", "self.a.b = {'k': lambda z: 1}"),
        ("x: int", "x: int"),
        ("if x: y = 1", "if x: y = 1"),
        ("else_ = {a: b for a, b in c}", "else_ = {a: b for a, b in c}"),
        ("with a as b: pass", "with a as b: pass"),
        ("f = lambda: 0", "f = lambda: 0"),
        ("try: x = 1\nfinally: pass", "try: x = 1\nfinally: pass"),
    ],
)  # fmt: skip
def test_annotations_go_and_nothing_that_looks_like_one(text: str, bare: str) -> None:
    body = "\n pass" if text.startswith("def") else ""
    assert slim.slim(text + body) == bare + body + "\n"


def test_many_threads_pack_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(slim.slim, texts * 8))
    assert found == [slim.slim(text) for text in texts] * 8
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        made = [future.result() for future in [pool.submit(packing.agent_zip) for _ in range(8)]]
    assert len(set(made)) == 1


def test_the_zip_is_under_its_limit() -> None:
    path, _ = packing.agent_zip()

    assert path.stat().st_size < 32_000
