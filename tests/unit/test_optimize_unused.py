"""An operator with an unused output is quantised to a file that runs; a useless one is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from standins.graphs import Graph

from harness.optimize import quantise, runtime
from harness.tflite import flatbuffer, numeric, rewrite

pytest.importorskip("ai_edge_quantizer")

CALIBRATION = np.random.default_rng(0).normal(size=(16, 1, 16)).astype(np.float32)
PARTS = 4


def parts(path: Path, word: str, used: tuple[int, ...], *, useless: bool = False) -> Path:
    """Write a file that divides its input, adds the used parts and feeds a dense layer."""
    made = Graph()
    x = made.tensor("x", (1, 16))
    shape = (1, 4)
    outputs = [made.tensor(f"part{i}", shape) for i in range(PARTS)]
    if word == "SPLIT":
        made.operator("SPLIT", [made.tensor("axis", (), 1), x], outputs, numSplits=PARTS)
    elif word == "SPLIT_V":
        sizes = made.tensor("sizes", (PARTS,), [4] * PARTS)
        made.operator("SPLIT_V", [x, sizes, made.tensor("axis", (), 1)], outputs, numSplits=PARTS)
    else:
        wide = made.tensor("wide", (1, PARTS, 4))
        made.operator("RESHAPE", [x, made.tensor("to", (3,), [1, PARTS, 4])], [wide])
        made.operator("UNPACK", [wide], outputs, num=PARTS, axis=1)
    total = outputs[used[0]]
    for place in used[1:]:
        more = made.tensor(f"sum{place}", shape)
        made.operator("ADD", [total, outputs[place]], [more])
        total = more
    if useless:
        made.operator("LOGISTIC", [outputs[0]], [made.tensor("useless", shape)])
    kernel = np.random.default_rng(1).normal(size=(3, 4))
    y = made.tensor("y", (1, 3))
    made.operator("FULLY_CONNECTED", [total, made.tensor("kernel", (3, 4), kernel), -1], [y])
    return made.write(path, [x], [y])


def quantised(source: Path, configure: Any, out: Path) -> flatbuffer.FileFacts:
    framed = source.with_name("framed.tflite")
    framed.write_bytes(rewrite.frame(source.read_bytes(), where="parts"))
    quantise.quantise(framed, out, configure, {"x": CALIBRATION})
    return flatbuffer.read(out)


def outputs(path: Path) -> np.ndarray[Any, Any]:
    facts = flatbuffer.read(path)
    fed = {"x": numeric.quantise(CALIBRATION, facts.inputs[0])}
    (answer,) = runtime.run(path, facts, fed).values()
    return numeric.dequantise(answer, facts.outputs[0])


CONFIGURED = {
    "int8": quantise.integer(8),
    "int8 float ends": quantise.float_ends(quantise.integer(8)),
    "int16x8": quantise.integer(16),
}


@pytest.mark.parametrize("used", [(0, 2), (1,), (3,), (0, 1, 2, 3)])
@pytest.mark.parametrize("word", ["SPLIT", "SPLIT_V", "UNPACK"])
@pytest.mark.parametrize("how", CONFIGURED)
def test_unused_outputs_do_not_break_the_file(
    tmp_path: Path, how: str, word: str, used: tuple[int, ...]
) -> None:
    source, out = parts(tmp_path / "parts.tflite", word, used), tmp_path / "out.tflite"

    quantised(source, CONFIGURED[how], out)

    expected = outputs(source)
    assert np.abs(outputs(out) - expected).max() < 0.05 * np.abs(expected).max()


def test_an_operator_that_nothing_uses_is_dropped(tmp_path: Path) -> None:
    source = parts(tmp_path / "parts.tflite", "SPLIT", (1,), useless=True)

    facts = quantised(source, CONFIGURED["int8"], tmp_path / "out.tflite")

    assert "LOGISTIC" in flatbuffer.read(source).operators
    assert "LOGISTIC" not in facts.operators
    assert np.abs(outputs(tmp_path / "out.tflite") - outputs(source)).max() < 0.2


def test_the_source_model_is_unchanged_by_framing(tmp_path: Path) -> None:
    source = parts(tmp_path / "parts.tflite", "UNPACK", (0, 3), useless=True)
    framed = tmp_path / "framed.tflite"
    framed.write_bytes(rewrite.frame(source.read_bytes(), where="parts"))

    assert np.array_equal(outputs(framed), outputs(source))
