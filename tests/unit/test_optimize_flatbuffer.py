"""The .tflite reader: the facts of real files, and damaged files that only raise RecipeError."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import shared_file

from harness.errors import RecipeError
from harness.tflite import flatbuffer

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"


def test_reads_a_float_model() -> None:
    facts = flatbuffer.read(DIGITS)

    assert facts.inputs[0].shape == (1, 8, 8, 1)
    assert facts.inputs[0].dtype == "float32"
    assert facts.outputs[0].shape == (1, 10)
    assert facts.operators["CONV_2D"] == 4
    assert not facts.custom
    assert not facts.quantised
    assert facts.signatures[0].name == "serving_default"
    assert facts.size_bytes == DIGITS.stat().st_size
    assert 0.0 <= (facts.sparsity or 0.0) < 0.01


def test_reads_a_quantised_model_with_its_scales() -> None:
    facts = flatbuffer.read(shared_file("kws/kws_ref_model.tflite"))

    assert facts.inputs[0].dtype == "int8"
    assert facts.inputs[0].zero_point == 83
    assert facts.inputs[0].scale == pytest.approx(0.5847, rel=1e-3)
    assert facts.quantised


def test_float32_in_its_name_is_not_float() -> None:
    assert flatbuffer.read(shared_file("kws/kws_ref_model_float32.tflite")).quantised


def test_knows_a_compiled_edge_tpu_file() -> None:
    facts = flatbuffer.read(shared_file("coral/keras_lstm_mnist_ptq_edgetpu.tflite"))

    assert "Edge TPU" in (facts.why_not_runnable_on_host or "")
    assert facts.operators == {"edgetpu-custom-op": 1}


def test_a_file_without_buffers_is_read() -> None:
    assert flatbuffer.read(shared_file("coral/model_invoking_error.tflite")).custom == (
        "fake-op-double",
    )


def test_int4_weights_are_unpacked() -> None:
    packed = memoryview(np.array([0x0F, 0x80], np.uint8))

    stored = flatbuffer.stored_elements(packed, "int4")

    assert stored is not None
    assert stored.tolist() == [-1, 0, 0, -8]


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\0\0\0\0TFL3", b"PK\x03\x04 not a model"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mödel with 'quotes'.tflite"
    path.write_bytes(content)

    with pytest.raises(RecipeError, match="mödel"):
        flatbuffer.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        flatbuffer.read(tmp_path / "none.tflite")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share: float) -> None:
    data = DIGITS.read_bytes()

    with pytest.raises(RecipeError, match="damaged"):
        flatbuffer.parse(data[: int(len(data) * share)], DIGITS)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(8, 12_000), st.integers(0, 255)), min_size=1, max_size=20))
def test_no_mutation_raises_anything_else(edits: list[tuple[int, int]]) -> None:
    """Offsets, lengths and types lie at will: the reader answers or refuses."""
    data = bytearray(DIGITS.read_bytes())
    for at, value in edits:
        data[-at if at % 2 else at] = value

    with suppress(RecipeError):
        flatbuffer.parse(bytes(data), DIGITS)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_after_the_identifier_are_refused_or_read(noise: bytes) -> None:
    with suppress(RecipeError):
        flatbuffer.parse(noise[:4].ljust(4, b"\0") + b"TFL3" + noise[4:], Path("noise.tflite"))
