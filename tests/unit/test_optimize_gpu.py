"""A file for a GPU is held against what the accelerator takes, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import pytest
from ai_edge_litert import schema_py_generated as schema
from conftest import ROOT
from standins import graphs

from harness.errors import RecipeError
from harness.optimize.targets import gpu


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """Change the main graph of a file in place."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    change(model.subgraphs[0])
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_a_file_that_fits_has_no_notes(tmp_path: Path) -> None:
    assert gpu.fit(ROOT / "harness" / "demo" / "data" / "digits.tflite") == []
    assert gpu.fit(graphs.chain(tmp_path / "m.tflite", ["ADD", "TANH", "MUL"])) == []


def test_operators_that_stay_on_the_cpu_are_named_and_counted(tmp_path: Path) -> None:
    path = graphs.chain(tmp_path / "m.tflite", ["ADD", "LOG_SOFTMAX", "TANH", "LOG_SOFTMAX"])
    assert gpu.fit(path) == ["not for the GPU, left on the CPU: LOG_SOFTMAX x2"]

    def deeper(graph: Any) -> None:
        graph.tensors[graph.outputs[0]].shape = [1, 1, 1, 1, 8]

    path = changed(graphs.chain(tmp_path / "m.tflite", ["ADD", "TANH"]), deeper)
    assert gpu.fit(path) == ["not for the GPU, left on the CPU: TANH (5 dimensions)"]


def opened(graph: Any) -> None:
    graph.tensors[graph.inputs[0]].shapeSignature = [1, -1]


def variable(graph: Any) -> None:
    graph.tensors[graph.inputs[0]].isVariable = True


def unchanged(graph: Any) -> None:
    """Leave it."""


@pytest.mark.parametrize(
    ("operators", "change", "reason"),
    [
        (["ADD"], opened, r'the input "x" is \[1, -1\] \(-1 is open\)'),
        (["ADD"], variable, '"x" is a state variable'),
        (["ADD", "my-op"], unchanged, "a GPU runs no custom operators: my-op"),
        (["ADD", "WHERE", "UNIQUE"], unchanged, "those of UNIQUE, WHERE depend on the data"),
        (["LOG_SOFTMAX"] * 3, unchanged, "runs on a GPU: LOG_SOFTMAX x3"),
    ],
    ids=["open", "state", "custom", "sized", "none"],
)
def test_a_file_that_no_gpu_runs_is_refused_by_name(
    tmp_path: Path, operators: list[str], change: Callable[[Any], None], reason: str
) -> None:
    path = changed(graphs.chain(tmp_path / "m.tflite", operators), change)
    with pytest.raises(RecipeError, match=reason):
        gpu.fit(path)


def test_an_open_batch_counts_as_one(tmp_path: Path) -> None:
    def batch(graph: Any) -> None:
        graph.tensors[graph.inputs[0]].shapeSignature = [-1, 8]

    assert gpu.fit(changed(graphs.chain(tmp_path / "m.tflite", ["ADD"]), batch)) == []


def test_the_page_lists_the_operators() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    sized, supported = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    assert set(sized.split()) == gpu.SIZED_BY_DATA
    assert set(supported.split()) == gpu.SUPPORTED
