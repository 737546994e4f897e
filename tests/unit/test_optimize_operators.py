"""The operators of a float file: a scope for the quantiser matches exactly one operator."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import RecipeError
from harness.tflite import flatbuffer, operators, structure

DIGITS = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data" / "digits.tflite"


def test_every_operator_that_int8_knows_is_found() -> None:
    found = operators.read(DIGITS, operators.integer_types())

    assert Counter(item.type for item in found) == flatbuffer.read(DIGITS).operators
    weights = {item.type: 0 for item in found}
    for item in found:
        weights[item.type] += item.weights
    for kind, count in weights.items():
        layers = [layer for layer in structure.read(DIGITS) if layer.operator == kind]
        assert count == sum(layer.elements for layer in layers)


def test_only_the_requested_types_are_found() -> None:
    found = operators.read(DIGITS, ("FULLY_CONNECTED",))

    assert [item.shapes for item in found] == [((10, 128),)]


def test_a_scope_is_that_of_one_operator_in_the_library() -> None:
    from ai_edge_litert.tools import flatbuffer_utils
    from ai_edge_quantizer.utils.tfl_flatbuffer_utils import get_op_scope

    graph = flatbuffer_utils.read_model_from_bytearray(bytearray(DIGITS.read_bytes())).subgraphs[0]
    scopes = [get_op_scope(item, graph.tensors) for item in graph.operators]
    for item in operators.read(DIGITS, operators.integer_types()):
        matched = [i for i, each in enumerate(scopes) if re.search(operators.scope(item), each)]
        assert matched == [item.index]


def test_the_quantiser_has_its_own_names_for_types() -> None:
    types = operators.integer_types()

    assert {"CONV_2D", "CONV_2D_TRANSPOSE", "ADD"} <= types
    assert not {"INPUT", "OUTPUT", "TRANSPOSE_CONV"} & types
    item = operators.Operator(index=0, type="TRANSPOSE_CONV", name="t", shapes=((2, 3),))
    assert operators.quantiser_type(item).value == "CONV_2D_TRANSPOSE"
    assert item.weights == 6


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(edits=st.lists(st.tuples(st.integers(8, 12_000), st.integers(0, 255)), min_size=1))
def test_no_mutation_raises_anything_else(edits: list[tuple[int, int]], tmp_path: Path) -> None:
    data = bytearray(DIGITS.read_bytes())
    for at, value in edits:
        data[-at if at % 2 else at] = value
    path = tmp_path / "damaged.tflite"
    path.write_bytes(data)

    with suppress(RecipeError):
        operators.read(path, operators.integer_types())


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.tflite"
    path.write_bytes(b"not a model")

    with pytest.raises(RecipeError, match="not a .tflite file"):
        operators.read(path, ())
