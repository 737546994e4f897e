"""Prefixes of real graphs: they run, and give what the whole graph has at that place."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_data import shared_file

from harness.errors import RecipeError
from harness.tflite import flatbuffer
from harness.tflite.truncate import Graph, GraphOperator, types

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"


def answers(source: dict[str, Any], wanted: list[int] | None = None) -> dict[int, Any]:
    """Run a file on fixed inputs; by tensor index, of the outputs or the wanted tensors."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        **source,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=wanted is not None,
    )
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        drawn = np.random.default_rng(0).integers(-100, 100, detail["shape"])
        interpreter.set_tensor(detail["index"], drawn.astype(detail["dtype"]))
    interpreter.invoke()
    outputs = [detail["index"] for detail in interpreter.get_output_details()]
    return {index: interpreter.get_tensor(index) for index in (wanted or outputs)}


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "kws/kws_ref_model.tflite",
        "coral/keras_lstm_mnist_ptq.tflite",
        "coral/movenet_single_pose_lightning_ptq.tflite",
    ],
)
def test_every_prefix_gives_what_the_whole_graph_has_there(name: str) -> None:
    path = DIGITS if name == "digits" else shared_file(name)
    prefixes = Graph(path).prefixes(at_most=12)

    found = [answers({"model_content": prefix.data}) for prefix in prefixes]

    wanted = sorted({index for one in found for index in one})
    whole = answers({"model_path": str(path)}, wanted)
    for one in found:
        assert one
        for index, value in one.items():
            np.testing.assert_array_equal(value, whole[index])


def test_the_last_prefix_is_the_whole_graph() -> None:
    last = Graph(DIGITS).prefixes()[-1]

    facts = flatbuffer.parse(last.data, DIGITS)

    assert facts.operators == flatbuffer.read(DIGITS).operators
    assert [one.name for one in facts.outputs] == [
        one.name for one in flatbuffer.read(DIGITS).outputs
    ]


def test_a_prefix_has_only_its_operators_and_their_weights() -> None:
    first, *_, last = Graph(DIGITS).prefixes()

    assert flatbuffer.parse(first.data, DIGITS).operators == {"CONV_2D": 1}
    assert len(first.data) < len(last.data) / 2


def test_many_operators_are_grouped_without_a_gap() -> None:
    graph = Graph(shared_file("coral/movenet_single_pose_lightning_ptq.tflite"))

    prefixes = graph.prefixes(at_most=10)

    assert len(prefixes) == 10
    assert prefixes[0].first == 0
    assert prefixes[-1].last == len(graph.operators) - 1
    for before, after in itertools.pairwise(prefixes):
        assert after.first == before.last + 1
    assert all(" + " in prefix.type for prefix in prefixes)


def test_a_group_names_three_types_and_how_many_more() -> None:
    many = [
        GraphOperator(index=i, type=kind, name="t", constant=False)
        for i, kind in enumerate(("CONV_2D", "ADD", "MUL", "SUB", "MEAN"))
    ]

    assert types(many) == "CONV_2D + ADD + MUL + 2 more"
    assert types(many[:1]) == "CONV_2D"


def test_operators_on_constants_are_never_cut_after(tmp_path: Path) -> None:
    """Float16 weights: DEQUANTIZE makes them float once, not at each inference."""
    path = with_dequantised_bias(tmp_path)
    graph = Graph(path)

    prefixes = graph.prefixes()

    constant = [one.index for one in graph.operators if one.constant]
    assert constant == [0, 5]
    assert not {prefix.last for prefix in prefixes} & set(constant)
    operators = [flatbuffer.parse(prefix.data, path).operators for prefix in prefixes]
    assert operators[0] == {"CONV_2D": 1}, (
        "a constant operator without users before the cut is left out"
    )
    assert "DEQUANTIZE" not in operators[2]
    assert operators[3]["DEQUANTIZE"] == 1, "kept if another operator uses it"
    assert operators[-1] == flatbuffer.read(path).operators
    assert [prefix.type for prefix in prefixes][:2] == ["CONV_2D", "CONV_2D"]
    assert answers({"model_content": prefixes[4].data})


def with_dequantised_bias(folder: Path) -> Path:
    """Write digits.tflite with a float16 bias for its third CONV_2D, and two DEQUANTIZE more."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(DIGITS.read_bytes()))
    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = 3
    model.operatorCodes.append(code)

    def dequantise(tensor: int) -> tuple[Any, int]:
        """Store a constant as float16; return the operator that widens it and what that makes."""
        narrow = graph.tensors[tensor]
        wide = schema.TensorT()
        wide.shape, wide.type, wide.buffer = narrow.shape, schema.TensorType.FLOAT32, 0
        wide.name, wide.hasRank = b"wide/" + narrow.name, True
        buffer = schema.BufferT()
        values = np.frombuffer(bytes(model.buffers[narrow.buffer].data), np.float32)
        buffer.data = np.frombuffer(values.astype(np.float16).tobytes(), np.uint8)
        model.buffers.append(buffer)
        narrow.buffer, narrow.type = len(model.buffers) - 1, schema.TensorType.FLOAT16
        graph.tensors.append(wide)
        one = schema.OperatorT()
        one.opcodeIndex, one.inputs = len(model.operatorCodes) - 1, [tensor]
        one.outputs = [len(graph.tensors) - 1]
        return one, len(graph.tensors) - 1

    third, last = graph.operators[3], graph.operators[-2]
    assert len(third.inputs) == len(last.inputs) == 3
    early, third.inputs[2] = dequantise(third.inputs[2])
    late, last.inputs[2] = dequantise(last.inputs[2])
    graph.operators.insert(4, late)
    graph.operators.insert(0, early)
    path = folder / "half.tflite"
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return path


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(DIGITS.read_bytes()[:4000])

    with pytest.raises(RecipeError, match="damaged"):
        Graph(path)
