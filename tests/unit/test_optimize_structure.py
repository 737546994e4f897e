"""What is read off a file's weights, against the runtime's own copy of them and plain Python."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from harness.errors import RecipeError
from harness.optimize import quantise
from harness.tflite import rewrite, structure
from harness.tflite.structure import Layer

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"


@pytest.fixture(scope="module")
def framed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("framed") / "digits.tflite"
    path.write_bytes(rewrite.frame(DIGITS.read_bytes(), where=DIGITS.name))
    return path


def constants(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The runtime's copies of a file's constants, by name."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    found = {}
    for item in interpreter.get_tensor_details():
        with suppress(ValueError):
            found[item["name"]] = interpreter.get_tensor(item["index"])
    return found


def test_every_layer_is_what_the_runtime_holds() -> None:
    layers = structure.read(DIGITS)
    held = constants(DIGITS)

    assert [layer.operator for layer in layers].count("CONV_2D") == 4
    for layer in layers:
        values = held[layer.name]
        assert layer.shape == values.shape
        assert layer.dtype == values.dtype.name
        assert layer.bytes == values.nbytes
        assert layer.zeros == int((values == 0).sum())
        assert layer.unique == len(set(values.reshape(-1).tolist()))


def test_a_dequantized_constant_belongs_to_the_operator_that_uses_it(
    framed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "narrow.tflite"

    def narrow(worker: Any) -> None:
        from ai_edge_quantizer.qtyping import TFLOperationName

        worker.add_weight_only_config(".*", TFLOperationName.CONV_2D, 4)

    quantise.quantise(framed, out, narrow)
    layers = structure.read(out)

    assert {layer.operator for layer in layers if layer.dtype == "int4"} == {"CONV_2D"}
    wide = {layer.operator for layer in layers if layer.dtype == "float32"}
    assert wide == {"DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
    for layer in layers:
        if layer.dtype == "int4":
            assert layer.bytes == (layer.elements + 1) // 2
            assert 1 < (layer.unique or 0) <= 16
    kept = sum(layer.elements for layer in layers if layer.dtype == "int4")
    total = sum(layer.elements for layer in layers)
    assert structure.int8_share(layers) == pytest.approx(kept / total)


@pytest.mark.filterwarnings("ignore:Warning. Enabling:UserWarning")
def test_a_scale_per_channel_keeps_the_values_of_a_channel(framed: Path, tmp_path: Path) -> None:
    """Clusters are torn apart over the tensor when it is quantised, not within a channel."""
    clustered = tmp_path / "clustered.tflite"
    clustered.write_bytes(_clustered(framed.read_bytes(), 16))
    out = tmp_path / "int8.tflite"
    quantise.quantise(clustered, out, quantise.integer(8), _calibration())

    before = {layer.shape: layer for layer in structure.read(clustered)}
    after = {layer.shape: layer for layer in structure.read(out)}
    large = (64, 3, 3, 64)
    assert before[large].unique == 16
    assert (after[large].unique or 0) > 16
    assert (after[large].unique_per_channel or 0) <= 16


def test_no_layer_is_made_of_a_bias_or_an_index() -> None:
    assert all(len(layer.shape) > 1 for layer in structure.read(DIGITS))
    assert structure.int8_share(()) == 0


@settings(max_examples=80, deadline=None)
@given(
    arrays.arrays(
        np.int8,
        arrays.array_shapes(min_dims=2, max_dims=4, max_side=7),
        elements=st.integers(-3, 3),
    ),
    st.data(),
)
def test_counts_are_those_of_plain_python(
    values: np.ndarray[Any, Any], data: st.DataObject
) -> None:
    axis = data.draw(st.none() | st.integers(0, values.ndim - 1))
    unique, most, fullest = structure._counts(values, axis, 0)

    assert unique == len(set(values.reshape(-1).tolist()))
    channels = [values] if axis is None else np.moveaxis(values, axis, 0)
    assert most == max(len(set(channel.reshape(-1).tolist())) for channel in channels)
    rows = values.reshape(-1, values.shape[-1]).tolist()
    groups = [row[i : i + 4] for row in rows for i in range(0, len(row), 4)]
    assert fullest == max(sum(value != 0 for value in group) for group in groups)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(8, 12_000), st.integers(0, 255)), min_size=1, max_size=20))
def test_no_mutation_raises_anything_else(edits: list[tuple[int, int]]) -> None:
    data = bytearray(DIGITS.read_bytes())
    for at, value in edits:
        data[-at if at % 2 else at] = value

    with suppress(RecipeError):
        structure.parse(bytes(data), DIGITS)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"PK\x03\x04 not a model"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "none.tflite"
    path.write_bytes(content)

    with pytest.raises(RecipeError, match="not a .tflite file"):
        structure.read(path)


def test_a_row_of_a_layer_is_json() -> None:
    layer = Layer(
        name="dense",
        operator="FULLY_CONNECTED",
        shape=(2, 4),
        dtype="int8",
        bytes=8,
        zeros=2,
        unique=3,
        unique_per_channel=2,
        nonzeros_per_4=3,
    )

    assert layer.plain()["sparsity"] == 0.25
    assert layer.plain()["elements"] == 8
    assert list(layer.plain())[-1] == "name"


def _clustered(content: bytes, values: int) -> bytes:
    """Round the large convolution to so many values."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for tensor in model.subgraphs[0].tensors:
        if list(tensor.shape) == [64, 3, 3, 64]:
            buffer = model.buffers[tensor.buffer]
            weights = np.array(buffer.data, np.uint8).view(np.float32)
            centres = np.linspace(weights.min(), weights.max(), values, dtype=np.float32)
            nearest = np.abs(weights[:, None] - centres).argmin(1)
            buffer.data = centres[nearest].view(np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _calibration() -> dict[str, np.ndarray[Any, Any]]:
    with np.load(DIGITS.parent / "digits_calibration.npz") as stored:
        return {"serving_default_image:0": stored["x"][:8]}
