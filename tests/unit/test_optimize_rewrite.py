"""The quantiser writes the weights of files over 256 kB after the tables; this project does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.optimize import quantise, runtime
from harness.tflite import flatbuffer, rewrite

pytest.importorskip("ai_edge_quantizer")

WIDTH = 640
"""int8 weights of one layer are 410 kB."""


def dense(path: Path) -> None:
    """Write one dense layer without a bias, as another converter might: no signature."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    def tensor(name: str, shape: list[int], buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name.encode(), shape, buffer
        made.type, made.hasRank = schema.TensorType.FLOAT32, True
        return made

    kernel = schema.BufferT()
    weights = np.random.default_rng(1).normal(0, 0.05, (WIDTH, WIDTH)).astype(np.float32)
    kernel.data = weights.view(np.uint8).reshape(-1)
    graph, operator = schema.SubGraphT(), schema.OperatorT()
    graph.tensors = [
        tensor("x", [1, WIDTH], 0),
        tensor("kernel", [WIDTH, WIDTH], 1),
        tensor("y", [1, WIDTH], 0),
    ]
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [2]
    code, model = schema.OperatorCodeT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), kernel]
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def weight_only(worker: Any) -> None:
    from ai_edge_quantizer import recipe

    worker.load_quantization_recipe(recipe.weight_only_wi8_afp32())


def after_tables(data: bytes | memoryview) -> list[int]:
    """Return the buffers that are stored after the tables."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(bytes(data))
    return [i for i in range(model.BuffersLength()) if model.Buffers(i).Offset() > 1]


@pytest.fixture
def framed(tmp_path: Path) -> Path:
    path = tmp_path / "dense.tflite"
    dense(path)
    path.write_bytes(rewrite.frame(path.read_bytes(), where=path.name))
    return path


def test_written_files_have_their_weights_inside_the_tables(framed: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.tflite"
    quantise.quantise(framed, out, weight_only)

    assert not after_tables(framed.read_bytes())
    assert not after_tables(out.read_bytes())
    assert 410_000 < out.stat().st_size < 440_000
    sample = {"x": np.random.default_rng(2).normal(size=(3, WIDTH)).astype(np.float32)}
    expected = runtime.run(framed, flatbuffer.read(framed), sample)["y"]
    found = runtime.run(out, flatbuffer.read(out), sample)["y"]
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


def test_only_a_file_that_is_too_large_keeps_weights_after_its_tables(
    framed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "_MAX_BYTES", 1_000)
    out = tmp_path / "large.tflite"
    quantise.quantise(framed, out, weight_only)

    assert after_tables(out.read_bytes())
    assert sum(weight.elements for weight in flatbuffer.read(out).weights) == WIDTH * WIDTH
    monkeypatch.undo()
    again = rewrite.quantised(out.read_bytes())
    assert not after_tables(again)
    assert len(again) == pytest.approx(out.stat().st_size, rel=0.01)


def test_framing_changes_no_weight(framed: Path) -> None:
    data = framed.read_bytes()

    assert bytes(rewrite.frame(data, where="dense")) == data
