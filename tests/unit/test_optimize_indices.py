"""The range of random integers: the whole type, except where the graph uses them as indices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from standins.lookups import TYPES, NamedGraph, looked_up, table

from harness.optimize import data
from harness.tflite import flatbuffer, indices
from harness.tflite.indices import IndexRange


def cast(graph: NamedGraph, source: str, output: str, shape: Sequence[int]) -> NamedGraph:
    return graph.add(
        "CAST", source, output, shape, inDataType=TYPES[source[0]], outDataType=TYPES[output[0]]
    )


def wrapped(rows: int) -> NamedGraph:
    """Negative indices count from the end, as Keras writes it."""
    return (
        NamedGraph({"i": (1, 4)})
        .constant("ft", table(rows))
        .constant("i0", 0)
        .constant("in", rows)
        .add("LESS", "i i0", "bl", (1, 4))
        .add("ADD", "i in", "ia", (1, 4))
        .add("SELECT_V2", "bl ia i", "is", (1, 4))
        .add("GATHER", "ft is", "fo", (1, 4, 2))
    )


def shifted(rows: int) -> NamedGraph:
    return (
        NamedGraph({"i": (1, 4)})
        .constant("ft", table(rows))
        .constant("i3", 3)
        .add("ADD", "i i3", "ia", (1, 4))
        .add("GATHER", "ft ia", "fo", (1, 4, 2))
    )


def clipped(rows: int) -> NamedGraph:
    return (
        NamedGraph({"i": (1, 4)})
        .constant("ft", table(rows))
        .constant("i0", 0)
        .constant("in", rows - 1)
        .add("MAXIMUM", "i i0", "ia", (1, 4))
        .add("MINIMUM", "ia in", "im", (1, 4))
        .add("GATHER", "ft im", "fo", (1, 4, 2))
    )


def from_floats(rows: int) -> NamedGraph:
    graph = cast(NamedGraph({"f": (1, 4)}).constant("ft", table(rows)), "f", "ia", (1, 4))
    return graph.add("GATHER", "ft ia", "fo", (1, 4, 2))


def two_tables(rows: int) -> NamedGraph:
    return looked_up(rows + 5).constant("fu", table(rows)).add("GATHER", "fu i", "fp", (1, 4, 2))


def one_hot(rows: int) -> NamedGraph:
    return (
        NamedGraph({"i": (1, 4)})
        .constant("id", rows)
        .constant("fon", 1.0)
        .constant("foff", 0.0)
        .add("ONE_HOT", "i id fon foff", "fo", (1, 4, rows), axis=-1)
    )


def only_added(rows: int) -> NamedGraph:
    return cast(NamedGraph({"i": (1, 4)}), "i", "fo", (1, 4)) if rows else NamedGraph({})


def product_of_inputs(rows: int) -> NamedGraph:
    return (
        NamedGraph({"i": (1, 4), "ib": (1, 4)})
        .constant("ft", table(rows))
        .add("MUL", "i ib", "ia", (1, 4))
        .add("GATHER", "ft ia", "fo", (1, 4, 2))
    )


CASES: dict[Any, Any] = {
    looked_up: lambda rows: rows - 1,
    wrapped: lambda rows: rows - 1,
    shifted: lambda rows: rows - 4,
    clipped: None,
    from_floats: lambda rows: rows - 1,
    two_tables: lambda rows: rows - 1,
    one_hot: lambda rows: rows - 1,
    only_added: None,
}


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("rows", [4, 7, 5_000])
def test_the_bound_comes_from_the_table(tmp_path: Path, make: Any, rows: int) -> None:
    found = indices.read(make(rows).write(tmp_path / "m.tflite"))

    name = "f" if make is from_floats else "i"
    wanted = {} if CASES[make] is None else {name: CASES[make](rows)}
    assert {name: limit.high for name, limit in found.items()} == wanted
    assert all(limit.known for limit in found.values())


def test_an_index_that_cannot_be_followed_stays_small_and_says_so(tmp_path: Path) -> None:
    path = product_of_inputs(50).write(tmp_path / "m.tflite")

    found = indices.read(path)

    assert found["i"] == IndexRange(high=1, of="GATHER", known=False)
    notes = data.describe_ranges(flatbuffer.read(path).inputs, found)
    assert "give the data" in notes[0]


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(4, 300), make=st.sampled_from(list(CASES)), seed=st.integers(0, 99))
def test_random_data_runs_and_reaches_the_whole_table(
    tmp_path_factory: pytest.TempPathFactory, rows: int, make: Any, seed: int
) -> None:
    path = make(rows).write(tmp_path_factory.mktemp("m") / "m.tflite")
    tensors, ranges = flatbuffer.read(path).inputs, indices.read(path)
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (place,) = (item["index"] for item in interpreter.get_input_details())

    drawn = list(data.random_samples(tensors, 40 * rows // 4 + 40, seed, ranges))

    for sample in drawn[:20]:
        interpreter.set_tensor(place, sample.inputs[0].reshape(1, 4))
        interpreter.invoke()
    values = np.stack([sample.inputs[0] for sample in drawn])
    if (limit := ranges.get(tensors[0].name)) is not None:
        assert values.min() == 0
        assert values.max() == limit.high


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "uint32"])
def test_integers_that_are_no_indices_cover_their_type(dtype: str) -> None:
    tensor = data.Tensor(name="x", shape=(1, 500), dtype=dtype)
    limits = np.iinfo(dtype)

    (sample,) = data.random_samples([tensor], 1, 0, {})

    assert sample.inputs[0].dtype == dtype
    assert np.ptp(sample.inputs[0].astype(float)) > 0.9 * (float(limits.max) - float(limits.min))


def test_bools_are_both_and_text_is_refused() -> None:
    switch = data.Tensor(name="x", shape=(1, 50), dtype="bool")
    text = data.Tensor(name="words", shape=(1,), dtype="string")

    (sample,) = data.random_samples([switch], 1, 0, {})

    assert set(sample.inputs[0].tolist()) == {True, False}
    with pytest.raises(data.ConfigError, match='"words" takes string, not numbers'):
        list(data.random_samples([text], 1, 0, {}))
