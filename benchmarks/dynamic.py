"""`dynamic` against TFLiteConverter's dynamic-range quantisation, on small models of several kinds.

The converter leaves weights of fewer than 1,024 elements in float; ai-edge-quantizer, which makes
our files, does not by default. With `min_elements = 1024` both files are equally far from
the float file. Distances are ||file - float|| / ||float|| over 100 digits, with XNNPACK.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT
from benchmarks.figure import Figure

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

DATA = ROOT / "harness" / "demo" / "data"
KINDS = ("convolutions", "dense", "tiny", "depthwise", "lstm", "attention", "transposed", "one_d")
SAME = 0.02
"""Largest difference of the two distances, as a share of the converter's."""

MAKE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf, keras
L, out, stored = keras.layers, sys.argv[1], np.load(sys.argv[2])
keras.utils.set_random_seed(0)
i = lambda: L.Input((8, 8, 1))

def convolutions(x):
    x = L.Conv2D(32, 3, activation="relu")(L.Conv2D(16, 3, activation="relu")(x))
    return L.Dense(64, activation="relu")(L.Flatten()(x))

def dense(x):
    x = L.Flatten()(x)
    for width in (128, 64, 8, 64, 128):
        x = L.Dense(width, activation="relu")(x)
    return x

def tiny(x):
    x = L.Conv2D(8, 3, activation="relu")(L.Conv2D(8, 3, activation="relu")(x))
    return L.GlobalAveragePooling2D()(x)

def depthwise(x):
    x = L.Conv2D(16, 3, padding="same", activation="relu")(x)
    for _ in range(3):
        x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(x)))
        x = L.Conv2D(48, 1, activation="relu")(x)
    return L.GlobalAveragePooling2D()(x)

def lstm(x):
    return L.LSTM(32)(L.Reshape((8, 8))(x))

def attention(x):
    x = L.Dense(32)(L.Reshape((8, 8))(x))
    x = L.LayerNormalization()(x + L.MultiHeadAttention(4, 16)(x, x))
    return L.GlobalAveragePooling1D()(x + L.Dense(32)(L.Dense(64, activation="gelu")(x)))

def transposed(x):
    x = L.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    return L.Flatten()(L.Conv2DTranspose(16, 3, strides=2, padding="same", activation="relu")(x))

def one_d(x):
    x = L.Conv1D(32, 3, activation="relu")(L.Reshape((8, 8))(x))
    return L.GlobalAveragePooling1D()(L.Conv1D(64, 3, activation="relu")(x))

for name in sys.argv[3:]:
    x = i()
    model = keras.Model(x, L.Dense(10, activation="softmax")(globals()[name](x)))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(stored["x"], stored["y"], epochs=3, verbose=0)
    call = tf.function(lambda a: model(a, training=False))
    function = call.get_concrete_function(tf.TensorSpec((1, 8, 8, 1)))
    for kind in ("float", "converter"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        converter.optimizations = [tf.lite.Optimize.DEFAULT] if kind == "converter" else []
        open(f"{out}/{name}.{kind}", "wb").write(converter.convert())
"""


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-dynamic-") as name:
        folder = Path(name)
        data = str(DATA / "digits_training.npz")
        subprocess.run(
            [sys.executable, "-c", MAKE, name, data, *KINDS], check=True, capture_output=True
        )
        rows = [row(folder, kind) for kind in KINDS]
    worst = max(abs(same - theirs) / theirs for _, same, theirs in rows if theirs)
    apart = max(ours / theirs for ours, _, theirs in rows if theirs)
    yield Figure(
        name="dynamic.same_as_converter",
        value=worst,
        unit="",
        bound=f"<= {SAME}",
        holds=worst <= SAME,
        against=f"TFLiteConverter's dynamic range, {len(KINDS)} models",
        detail=f"min_elements = 1024; with 0 up to {apart:.2f} times as far",
    )


def row(folder: Path, kind: str) -> tuple[float, float, float]:
    """Return the distances of `dynamic`, of `dynamic(min_elements=1024)` and of the converter's."""
    from harness.optimize import quantise, weights
    from harness.tflite import rewrite

    source = folder / f"{kind}.tflite"
    source.write_bytes(rewrite.frame((folder / f"{kind}.float").read_bytes(), where=kind))
    truth, found, sizes = outputs(source), [], []
    for least in (0, 1024):
        made = folder / "made.tflite"
        chosen = weights.configure(
            source,
            bits=8,
            granularity="channel",
            algorithm="min_max",
            arithmetic="integer",
            min_elements=least,
        )
        quantise.quantise(source, made, chosen)
        found.append(distance(outputs(made), truth))
        sizes.append(made.stat().st_size)
    theirs = folder / f"{kind}.converter"
    found.append(distance(outputs(theirs), truth))
    sizes.append(theirs.stat().st_size)
    shown = "  ".join(f"{a:.5f} {b:,} B" for a, b in zip(found, sizes, strict=True))
    print(f"{kind:>14}: {shown}", file=sys.stderr)
    return found[0], found[1], found[2]


def outputs(path: Path) -> Array:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (given,), (taken,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    with np.load(DATA / "digits_training.npz") as stored:
        for sample in stored["x"][:100]:
            interpreter.set_tensor(given["index"], sample[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(taken["index"])[0].copy())
    return np.stack(rows).astype(np.float64)


def distance(found: Array, truth: Array) -> float:
    import numpy as np

    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
