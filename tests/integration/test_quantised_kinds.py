"""Every usual kind of layer ends in int8, or is refused with a way out that works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.config import recipes
from harness.errors import HarnessError
from harness.optimize import build
from harness.tflite import structure
from harness.types import DataSource, ModelSource, Variant

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(900)]

MAKE = """
import os, sys
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
import numpy as np, tensorflow as tf, keras, tf_keras, tensorflow_model_optimization as tfmot
out = sys.argv[1]
tf_keras.utils.set_random_seed(1)
keras.utils.set_random_seed(1)
draw = np.random.default_rng(0)

def save(k, inputs, x, name, samples=64):
    model = k.Model(inputs, k.layers.Dense(3, activation="softmax", name="scores")(x))
    for layer in model.layers:  # a batch norm of a trained model does something
        if isinstance(layer, k.layers.BatchNormalization):
            for weight in layer.weights:
                low = 0.5 if "gamma" in weight.name or "variance" in weight.name else -0.5
                weight.assign(draw.uniform(low, low + 1, weight.shape))
    model.save(f"{out}/{name}")
    size = (samples, *inputs.shape[1:])
    x = draw.normal(size=size).astype("f") if "float" in str(inputs.dtype) else draw.integers(0, 9, size)
    np.savez(f"{out}/{name.partition('.')[0]}.npz", x=x, y=np.arange(samples) % 3)
    return model

def dense(k):
    l, i = k.layers, k.Input((12,), name="x")
    after = [
        l.ReLU(), l.Activation("relu"), l.ReLU(6.0), l.LeakyReLU(), l.Activation("swish"),
        l.Activation("gelu"), l.Activation("tanh"), l.Activation("sigmoid"), l.Dropout(0.1),
    ]
    parts = [layer(l.BatchNormalization()(l.Dense(8)(i))) for layer in after]
    x = l.BatchNormalization(scale=False)(l.Concatenate()(parts))
    x = l.ReLU()(l.Dense(8, use_bias=False)(x))
    return i, l.BatchNormalization(center=False)(l.Dense(8, activation="relu")(x))

def image(k):
    l, i = k.layers, k.Input((8, 8, 2), name="x")
    x = l.BatchNormalization()(i)
    for layer in (
        l.Conv2D(8, 3, padding="same", use_bias=False), l.DepthwiseConv2D(3, padding="same"),
        l.SeparableConv2D(8, 3, padding="same"), l.Conv2DTranspose(8, 2, strides=2),
    ):
        x = l.ReLU(6.0)(l.BatchNormalization()(layer(x)))
    x = l.MaxPooling2D()(x)
    for layer, then in (
        (l.Conv2D(8, 3, padding="same"), l.LeakyReLU()), (l.Conv2D(8, 1), l.Activation("swish")),
        (l.Conv2DTranspose(8, 3, padding="same"), l.ReLU()), (l.DepthwiseConv2D(3, padding="same"), l.ReLU()),
    ):
        x = l.Add()([x, then(l.BatchNormalization()(layer(x)))])
    x = l.BatchNormalization()(l.ReLU()(l.Conv2D(8, 3)(x)))  # an activation between
    return i, l.GlobalAveragePooling2D()(x)

def sequence(k):
    l, i = k.layers, k.Input((16, 4), name="x")
    x = l.ReLU()(l.BatchNormalization()(l.Conv1D(8, 3, padding="causal", dilation_rate=2)(i)))
    x = l.MaxPooling1D(2)(l.LeakyReLU()(l.BatchNormalization()(l.SeparableConv1D(8, 3)(x))))
    x = l.BatchNormalization()(l.DepthwiseConv1D(3, strides=2, padding="same")(x))
    x = l.Activation("relu")(l.Conv1DTranspose(8, 2, strides=2)(x))
    x = l.BatchNormalization()(l.Dense(8, activation="relu")(x))
    return i, l.GlobalAveragePooling1D()(x)

save(tf_keras, *dense(tf_keras), "dense.h5")
save(keras, *image(keras), "image.keras")
save(tf_keras, *sequence(tf_keras), "sequence.h5")

l = keras.layers
def recurrent(unroll):
    i = keras.Input((6, 4), name="x")
    parts = [kind(5, unroll=unroll)(i) for kind in (l.LSTM, l.GRU, l.SimpleRNN)]
    parts.append(l.Bidirectional(l.LSTM(5, unroll=unroll))(i))
    stacked = l.LSTM(5, unroll=unroll, return_sequences=True)(i)
    return i, l.Concatenate()([*parts, l.GRU(5, unroll=unroll)(stacked)])
save(keras, *recurrent(False), "rolled.keras")
save(keras, *recurrent(True), "unrolled.keras")

i = keras.Input((10,), name="x")
a, b, c, d = keras.ops.split(l.Dense(16)(i), 4, axis=-1)
e, f = keras.ops.unstack(keras.ops.reshape(a, (-1, 2, 2)), axis=1)
save(keras, i, l.Concatenate()([e, b + d]), "split.keras")

i = keras.Input((6,), dtype="int32", name="x")
x = l.LayerNormalization()(l.Embedding(9, 8)(i))
x = l.MultiHeadAttention(2, 4)(x, x)
x = l.PReLU()(l.Multiply()([x, l.Dense(8, activation="sigmoid")(x)]))
save(keras, i, l.GlobalAveragePooling1D()(x), "uncommon.keras")
i = keras.Input((6, 6, 6, 1), name="x")
save(keras, i, l.GlobalAveragePooling3D()(l.Conv3D(16, 3, activation="relu")(i)), "volume.keras")

l = tf_keras.layers
i = tf_keras.Input((8, 8, 1), name="x")
x = l.ReLU()(l.BatchNormalization()(l.Conv2D(8, 3)(i)))
plain = tf_keras.Model(i, l.Dense(3, name="scores")(l.Flatten()(x)))
aware = tfmot.quantization.keras.quantize_model(plain)
aware.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
aware.fit(draw.normal(size=(64, 8, 8, 1)), np.arange(64) % 3, batch_size=16, verbose=0)
aware.save(f"{out}/aware.h5"); aware.save(f"{out}/aware.keras"); aware.save(f"{out}/aware")

class Rounds(tf.Module):
    def __init__(self):
        self.w = tf.Variable(draw.normal(size=(12, 3)).astype("f"))
    @tf.function(input_signature=[tf.TensorSpec([None, 12], tf.float32, name="x")])
    def __call__(self, x):
        rounded = tf.quantization.fake_quant_with_min_max_vars(x, -3.0, 3.0)
        w = tf.quantization.fake_quant_with_min_max_vars(self.w, -3.0, 3.0, narrow_range=True)
        y = tf.quantization.fake_quant_with_min_max_vars(rounded @ w, -12.0, 12.0)
        return {"scores": y}
made = Rounds()
tf.saved_model.save(made, f"{out}/rounds", signatures=made.__call__)
"""
TRAINED = ("dense", "image", "sequence")
"""Models of the usual layers with batch norms everywhere, for quantisation-aware training."""
AWARE = ("aware.h5", "aware", "rounds")
QAT = "qat(epochs=1, batch=16)"
BUILT = [
    *((name, QAT) for name in TRAINED),
    ("dense", "pqat(epochs=1, batch=16)"),
    ("dense", "cqat(epochs=1, batch=16, clusters=4)"),
    ("unrolled", "int8"),
    ("unrolled", 'int8(io="float")'),
    ("rolled", "dynamic"),
    ("rolled", "float16"),
    ("split", "int8"),
    ("uncommon", "int8"),
    ("volume", "int8(min_int8=0)"),
    *((name, "int8") for name in AWARE),
    ("aware.h5", 'int8(io="float")'),
]
REFUSED = {
    ("rolled", "int8"): "with unroll=True, or use dynamic or float16",
    ("unrolled", QAT): "use int8 after training",
    ("volume", "int8"): "(CONV_3D, 432 weights, float32)",
    ("aware.h5", "float32"): "use int8, which keeps the trained ranges",
    ("rounds", "float16"): "use int8, which keeps the trained ranges",
    ("aware.h5", QAT): "use int8, which keeps the trained ranges",
    ("aware.keras", "int8"): "save it as .h5 or as a SavedModel",
}
FILES = {
    "dense": "dense.h5",
    "sequence": "sequence.h5",
    **{name: name for name in (*AWARE, "aware.keras")},
}


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[str, str], Variant | HarnessError]:
    """Everything in one go, so that few TensorFlow workers start."""
    folder = tmp_path_factory.mktemp("kinds")
    argv = [sys.executable, "-c", MAKE, str(folder)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    requests = []
    for name, text in [*BUILT, *REFUSED]:
        data = folder / f"{name}.npz"
        source = str(data) if data.is_file() else None
        model = ModelSource(
            name=name,
            path=folder / FILES.get(name, f"{name}.keras"),
            data=DataSource(training=source, calibration=source),
        )
        recipe = recipes.parse(text)
        requests.append(build.BuildRequest(model=model, recipe=recipe, target="xnnpack"))
    cache = tmp_path_factory.mktemp("cache")
    return {
        (request.model.name, request.recipe.name): result
        for request, result in build.build_all(requests, cache=cache)
    }


def variant(result: Variant | HarnessError) -> Variant:
    assert isinstance(result, Variant), result
    return result


@pytest.mark.parametrize(("name", "text"), BUILT)
def test_it_is_built(
    results: dict[tuple[str, str], Variant | HarnessError], name: str, text: str
) -> None:
    variant(results[name, text])


@pytest.mark.parametrize(("name", "text"), [case for case in BUILT if "qat" in case[1]])
def test_training_leaves_no_layer_in_float(
    results: dict[tuple[str, str], Variant | HarnessError], name: str, text: str
) -> None:
    found = variant(results[name, text])

    assert [item for item in structure.read(found.path) if item.dtype != "int8"] == []
    assert "DEQUANTIZE" not in found.operators
    assert "wide_weights" not in found.flags
    assert found.agreement is not None
    assert found.agreement.relative_error < 0.3


@pytest.mark.parametrize(
    ("name", "text"), [case for case in BUILT if case[0] in {"unrolled", "split", "uncommon"}]
)
def test_the_ways_out_compute_the_model(
    results: dict[tuple[str, str], Variant | HarnessError], name: str, text: str
) -> None:
    found = variant(results[name, text])

    assert found.agreement is not None
    assert found.agreement.relative_error < 0.1


@pytest.mark.parametrize(("name", "text"), [case for case in BUILT if case[0] in AWARE])
def test_trained_ranges_make_an_integer_file_without_data(
    results: dict[tuple[str, str], Variant | HarnessError], name: str, text: str
) -> None:
    found = variant(results[name, text])
    ends = "float32" if "float" in text else "int8"

    assert structure.int8_share(structure.read(found.path)) == 1
    assert {found.inputs[0].dtype, found.outputs[0].dtype} == {ends}
    assert found.outputs[0].name == "scores"
    assert any("trained ranges" in note for note in found.notes)
    assert found.agreement is None
    assert found.accuracy_source_model is None


def test_a_wide_file_that_is_accepted_is_flagged(
    results: dict[tuple[str, str], Variant | HarnessError],
) -> None:
    found = variant(results["volume", "int8(min_int8=0)"])

    assert "wide_weights" in found.flags
    assert any("CONV_3D, 432 weights" in note for note in found.notes)


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_what_cannot_be_built_has_a_way_out(
    results: dict[tuple[str, str], Variant | HarnessError], name: str, text: str
) -> None:
    error = results[name, text]

    assert isinstance(error, HarnessError)
    assert REFUSED[name, text] in str(error)
