"""Stage 1 on real models: every form converts, every trap is refused, int8 is TensorFlow's own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_data import real_file, shared_file, shared_folder

from harness.errors import HarnessError
from harness.optimize import build, reference
from harness.types import DataSource, ModelSource, Recipe, StepCall, Variant

pytestmark = pytest.mark.tensorflow

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

MAKE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf, keras, tf_keras
out = sys.argv[1]
keras.utils.set_random_seed(1)

def net(k, shape=(12, 12, 3)):
    i = k.layers.Input(shape, name="image")
    x = k.layers.Conv2D(8, 3, activation="relu")(i)
    x = k.layers.GlobalAveragePooling2D()(x)
    return k.Model(i, k.layers.Dense(5, activation="softmax", name="scores")(x))

net(keras).save(f"{out}/keras3.keras")
net(keras).save(f"{out}/keras3.h5")
net(tf_keras).save(f"{out}/keras2.h5")
net(keras).save_weights(f"{out}/only.weights.h5")
net(keras, (None, None, 3)).save(f"{out}/open.keras")
nan = net(keras)
nan.get_layer("scores").set_weights([np.full((8, 5), np.nan, "f"), np.zeros(5, "f")])
nan.save(f"{out}/nan.keras")
left, right = keras.Input((4,), name="left"), keras.Input((6,), name="right")
joined = keras.layers.Concatenate()([left, right])
two = keras.Model([left, right], [keras.layers.Dense(3)(joined), keras.layers.Dense(1)(right)])
two.export(f"{out}/two", verbose=False)

class Functions(tf.Module):
    spec = [tf.TensorSpec([None, 3, 3], tf.float32, name="x")]
    double = tf.function(lambda self, x: {"y": x * 2.0}, input_signature=spec)
    det = tf.function(lambda self, x: {"y": tf.linalg.det(x)}, input_signature=spec)

made = Functions()
tf.saved_model.save(made, f"{out}/signatures", signatures={"a": made.double, "b": made.det})

if len(sys.argv) > 2:
    source, data = sys.argv[2:]
    x = np.load(data)["x"]
    c = tf.lite.TFLiteConverter.from_saved_model(source)
    c.optimizations = [tf.lite.Optimize.DEFAULT]
    c.representative_dataset = lambda: ([s[None]] for s in x)
    c.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    c.inference_input_type = c.inference_output_type = tf.int8
    open(f"{out}/oracle.tflite", "wb").write(c.convert())
"""

RANDOM = DataSource(calibration="random")


def recipe(name: str) -> Recipe:
    return Recipe(name=name, steps=(StepCall(name=name),))


@pytest.fixture(scope="module")
def keyword(tmp_path_factory: pytest.TempPathFactory) -> ModelSource | None:
    """The keyword model with its data: 200 samples to calibrate, 400 to evaluate."""
    found = shared_folder()
    if found is None:
        return None
    source = found / "kws" / "saved_model"
    folder = tmp_path_factory.mktemp("kws")
    with np.load(source.with_name("features.npz")) as stored:
        real = stored["x_int8"].astype(np.float32) - np.float32(stored["zero_point"])
        x, y = real * np.float32(stored["scale"]), stored["y"].astype(np.int64)
    np.savez(folder / "cal.npz", x=x[:200])
    np.savez(folder / "eval.npz", x=x[200:], y=y[200:])
    data = DataSource(calibration=str(folder / "cal.npz"), evaluation=str(folder / "eval.npz"))
    return ModelSource(name="kws", path=source, data=data)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, keyword: ModelSource | None) -> Path:
    folder = tmp_path_factory.mktemp("models")
    extra = [str(keyword.path), str(keyword.data.calibration)] if keyword else []
    subprocess.run(
        [sys.executable, "-c", MAKE, str(folder), *extra],
        check=True,
        capture_output=True,
        timeout=200,
    )
    return folder


@pytest.fixture(scope="module")
def results(
    models: Path, keyword: ModelSource | None, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Variant | HarnessError]:
    """Build everything in one go, so that few TensorFlow workers start."""
    named = {
        name: ModelSource(name=name, path=models / name, data=RANDOM)
        for name in (
            "keras3.keras",
            "keras3.h5",
            "keras2.h5",
            "only.weights.h5",
            "nan.keras",
            "two",
        )
    }
    opened = ModelSource(name="open", path=models / "open.keras", data=RANDOM)
    signed = ModelSource(name="signatures", path=models / "signatures", data=RANDOM)
    named |= {
        "open": opened,
        "shaped": replace(opened, name="shaped", shape={"image": (1, 20, 16, 3)}),
        "signatures": signed,
        "signature a": replace(signed, name="signature a", signature="a"),
        "signature c": replace(signed, name="signature c", signature="c"),
        "flex refused": replace(signed, name="flex refused", signature="b"),
        "flex allowed": replace(signed, name="flex allowed", signature="b", allow_flex=True),
    }
    wanted = [(model, "float32") for model in named.values()]
    wanted += [(named["keras3.keras"], "int8"), (named["two"], "int8")]
    if keyword:
        names = ("float32", "float16", "dynamic", "int8", "int16x8", "as_is")
        wanted += [(keyword, name) for name in names]
    requests = [
        build.BuildRequest(model=model, recipe=recipe(name), target="xnnpack")
        for model, name in wanted
    ]
    cache = tmp_path_factory.mktemp("cache")
    return {
        (request.model.name, request.recipe.name): result
        for request, result in build.build_all(requests, cache=cache)
    }


def variant(result: Variant | HarnessError) -> Variant:
    assert isinstance(result, Variant), result
    return result


@pytest.mark.parametrize("name", ["keras3.keras", "keras3.h5", "keras2.h5"])
def test_every_form_converts_with_a_fixed_batch(
    results: dict[tuple[str, str], Variant | HarnessError], name: str
) -> None:
    found = variant(results[name, "float32"])

    assert found.inputs[0].shape == (1, 12, 12, 3)
    assert found.inputs[0].name == "image"
    assert found.outputs[0].shape == (1, 5)
    assert found.operators["CONV_2D"] == 1


def test_several_inputs_and_outputs(
    results: dict[tuple[str, str], Variant | HarnessError],
) -> None:
    found = variant(results["two", "int8"])

    assert [tensor.name for tensor in found.inputs] == ["left", "right"]
    assert [tensor.shape for tensor in found.outputs] == [(1, 3), (1, 1)]
    assert found.agreement is not None
    assert found.agreement.top1 is None
    assert "random_calibration" in found.flags


def test_a_chosen_shape_fixes_open_dimensions(
    results: dict[tuple[str, str], Variant | HarnessError],
) -> None:
    assert variant(results["shaped", "float32"]).inputs[0].shape == (1, 20, 16, 3)


def test_a_chosen_signature_is_the_one_converted(
    results: dict[tuple[str, str], Variant | HarnessError],
) -> None:
    assert variant(results["signature a", "float32"]).outputs[0].shape == (1, 3, 3)


def test_flex_operators_only_if_allowed(
    results: dict[tuple[str, str], Variant | HarnessError],
) -> None:
    found = variant(results["flex allowed", "float32"])

    assert any(name.startswith("Flex") for name in found.operators)
    assert not reference.runs_on_host(found)
    assert any("not run on the host" in note for note in found.notes)
    assert "allow_flex" in str(results["flex refused", "float32"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("only.weights.h5", "weights only"),
        ("nan.keras", "not finite"),
        ("open", 'shape = { "image" = [1, N, N, 3] }'),
        ("signatures", "it has: a, b"),
        ("signature c", 'no signature "c"'),
        ("flex refused", "unsupported operator MatrixDeterminant"),
    ],
)
def test_a_model_that_cannot_be_converted_is_refused_with_the_reason(
    results: dict[tuple[str, str], Variant | HarnessError], name: str, message: str
) -> None:
    error = results[name, "float32"]

    assert isinstance(error, HarnessError)
    assert message in str(error)


def test_the_keyword_model_keeps_its_accuracy(
    results: dict[tuple[str, str], Variant | HarnessError], keyword: ModelSource | None
) -> None:
    real_file("kws/saved_model")
    for name in ("float32", "float16", "dynamic", "int8", "int16x8"):
        found = variant(results["kws", name])
        assert found.accuracy_source_model == pytest.approx(0.90, abs=0.005)
        assert found.accuracy == pytest.approx(0.90, abs=0.015)
        assert found.accuracy_samples == 400
    assert "use float32" in str(results["kws", "as_is"])


def test_int8_is_as_good_as_tensorflows_own(
    results: dict[tuple[str, str], Variant | HarnessError],
    keyword: ModelSource | None,
    models: Path,
) -> None:
    """TFLiteConverter's int8 is the oracle: the error against float is the same within a fifth."""
    shared_file("kws/saved_model")
    assert keyword is not None
    ours = variant(results["kws", "int8"])
    with np.load(str(keyword.data.evaluation)) as stored:
        x = stored["x"]

    def real(path: Path, name: str) -> np.ndarray[Any, Any]:
        stored = reference.as_file_takes(ours, {"input_1": x})["input_1"]
        outputs = reference.host_outputs(path, {name: stored})
        return (next(iter(outputs.values())).astype(np.float64) + 128) / 256

    float32 = reference.host_outputs(variant(results["kws", "float32"]).path, {"input_1": x})
    truth = float32["dense"]
    oracle = real(models / "oracle.tflite", "serving_default_input_1:0")
    error, least = (np.mean((a - truth) ** 2) for a in (real(ours.path, "input_1"), oracle))

    assert ours.inputs[0].scale == pytest.approx(0.5847, rel=0.01)
    assert error <= 1.2 * least
