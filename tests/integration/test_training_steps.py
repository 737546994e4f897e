"""Steps that train, through real workers: each keeps its promise, chains work, refusals have reasons."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.config import recipes
from harness.errors import HarnessError
from harness.optimize import build
from harness.tflite import structure
from harness.types import DataSource, ModelSource, Variant

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(900)]

DATA = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data"
SAMPLES = 640
CALM = "epochs=6, batch=16, validation=0.2"

MAKE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, keras
out, data = sys.argv[1:]
keras.utils.set_random_seed(1)
layers = keras.layers

def net(wide, classes=10):
    i = keras.Input((8, 8, 1), name="image")
    x = i
    for convolution in (
        layers.Conv2D(wide, 3, padding="same", use_bias=False),
        layers.DepthwiseConv2D(3, padding="same", strides=2, use_bias=False),
        layers.Conv2D(2 * wide, 1, use_bias=False),
    ):
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(convolution(x)))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(i, layers.Dense(classes, activation="softmax", name="scores")(x))

with np.load(data) as d:
    x, y = d["x"], d["y"]
for name, wide in (("net", 16), ("teacher", 24)):
    model = net(wide)
    model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=20, verbose=0)
    model.save(f"{out}/{name}.keras")
net(4, 7).save(f"{out}/seven.keras")

i = keras.Input((8, 8, 1), name="image")
x = layers.Conv2D(4, 3)(i)
x = layers.PReLU(name="slopes")(x)
keras.Model(i, layers.Dense(10)(layers.Flatten()(x))).save(f"{out}/slopes.keras")
x = layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(3, depth_multiplier=10)(i))
keras.Model(i, layers.Softmax()(x)).save(f"{out}/depthwise.keras")

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(10)
    def call(self, x):
        return self.dense(layers.Flatten()(x))

own = Own()
own(np.zeros((1, 8, 8, 1), "f"))
own.save(f"{out}/own.keras")
net(4).export(f"{out}/exported", verbose=False)
"""

MADE = {
    "prune > float": f"prune(sparsity=0.5, {CALM})",
    "prune > int8": f"prune(sparsity=0.5, {CALM}) > int8",
    "2:4": f'prune(pattern="2:4", {CALM}) > int8',
    "constant": f'prune(sparsity=0.3, schedule="constant", {CALM})',
    "cluster > int8": f"cluster(clusters=8, {CALM}) > int8",
    "both > int8": f"prune(sparsity=0.5, {CALM}) > "
    f"cluster(clusters=8, preserve_sparsity=true, {CALM}) > int8",
    "qat": f"qat({CALM})",
    "qat float ends": f'qat(io="float", {CALM})',
    "pqat": f"pqat(sparsity=0.4, {CALM})",
    "prune > pqat": f"prune(sparsity=0.5, {CALM}) > pqat(sparsity=0.4, {CALM})",
    "cqat": f"cqat(clusters=8, {CALM})",
    "pcqat": f"pcqat(sparsity=0.4, clusters=8, {CALM})",
    "distill > qat": f'distill(teacher="teacher.keras", features=true, {CALM}) > qat({CALM})',
}
REFUSED = {
    ("net", "distill(epochs=1)"): "distill needs a teacher",
    ("net", 'distill(teacher="seven.keras")'): "(10,)",
    ("net", 'prune(pattern="2:4", sparsity=0.7)'): "has a sparsity of 0.5",
    ("net", "qat(batch=1000)"): "fewer than a batch of 1000",
    ("slopes", "qat"): 'the layer "slopes" (PReLU): use ReLU or LeakyReLU',
    ("depthwise", "prune"): "no layer of this model can be pruned",
    ("depthwise", "cluster"): "no layer of this model has more than 16",
    ("own", "prune"): 'the class "Own" is not part of Keras',
    ("exported", "prune"): "give the .keras or .h5 file",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Variant | HarnessError]:
    """Everything in one go, so that few TensorFlow workers start."""
    folder = tmp_path_factory.mktemp("models")
    training, evaluation = folder / "train.npz", DATA / "digits_evaluation.npz"
    with np.load(DATA / "digits_training.npz") as stored:
        np.savez(training, x=stored["x"][:SAMPLES], y=stored["y"][:SAMPLES])
    argv = [sys.executable, "-c", MAKE, str(folder), str(training)]
    subprocess.run(argv, check=True, capture_output=True, timeout=400)
    data = DataSource(
        training=str(training),
        calibration=str(DATA / "digits_calibration.npz"),
        evaluation=str(evaluation),
    )

    def request(name: str, text: str) -> build.BuildRequest:
        path = folder / ("exported" if name == "exported" else f"{name}.keras")
        model = ModelSource(name=name, path=path, data=data)
        return build.BuildRequest(model=model, recipe=recipes.parse(text), target="xnnpack")

    wanted = {"float32": request("net", "float32")}
    wanted |= {key: request("net", text) for key, text in MADE.items()}
    wanted |= {f"{name} {text}": request(name, text) for name, text in REFUSED}
    answers = {
        (item.model.name, item.recipe.name): result
        for item, result in build.build_all(wanted.values(), cache=tmp_path_factory.mktemp("cache"))
    }
    return {key: answers[item.model.name, item.recipe.name] for key, item in wanted.items()}


def variant(result: Variant | HarnessError) -> Variant:
    assert isinstance(result, Variant), result
    return result


def layers(found: Variant, *operators: str) -> list[structure.Layer]:
    return [layer for layer in structure.read(found.path) if layer.operator in operators]


@pytest.mark.parametrize("key", MADE)
def test_each_recipe_makes_a_model_that_still_works(
    results: dict[str, Variant | HarnessError], key: str
) -> None:
    found, plain = variant(results[key]), variant(results["float32"])

    assert plain.accuracy is not None
    assert plain.accuracy > 0.85
    assert found.accuracy is not None
    assert found.accuracy > plain.accuracy - 0.2
    assert any("seed 0, on " in note for note in found.notes)


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("prune > float", 0.5),
        ("prune > int8", 0.5),
        ("constant", 0.3),
        ("both > int8", 0.5),
        ("pqat", 0.4),
        ("prune > pqat", 0.5),
        ("pcqat", 0.4),
    ],
)
def test_zeros_are_in_the_finished_file(
    results: dict[str, Variant | HarnessError], key: str, least: float
) -> None:
    found = layers(variant(results[key]), "CONV_2D", "FULLY_CONNECTED")

    assert len(found) == 3
    assert all(layer.sparsity >= least - 1 / layer.elements for layer in found)
    assert all(layer.sparsity < 0.99 for layer in found)


def test_two_of_four_neighbours_are_zero(results: dict[str, Variant | HarnessError]) -> None:
    found = layers(variant(results["2:4"]), "CONV_2D", "FULLY_CONNECTED")

    assert all(layer.nonzeros_per_4 is not None and layer.nonzeros_per_4 <= 2 for layer in found)
    assert sum(layer.zeros for layer in found) > 0.4 * sum(layer.elements for layer in found)


@pytest.mark.parametrize("key", ["cluster > int8", "both > int8", "cqat", "pcqat"])
def test_channels_share_few_values(results: dict[str, Variant | HarnessError], key: str) -> None:
    found = layers(variant(results[key]), "CONV_2D", "FULLY_CONNECTED")

    assert all((layer.unique_per_channel or 99) <= 8 for layer in found)


def test_structured_weights_compress_better(results: dict[str, Variant | HarnessError]) -> None:
    size = {key: variant(results[key]).size_zstd_bytes or 0 for key in MADE}

    assert size["prune > int8"] < size["qat"]
    assert size["both > int8"] < size["cluster > int8"] < size["qat"]
    assert size["pcqat"] < size["pqat"] < size["qat"]


def test_models_trained_with_int8_rounding_are_int8(
    results: dict[str, Variant | HarnessError],
) -> None:
    for key in ("qat", "pqat", "cqat", "pcqat", "distill > qat"):
        found = variant(results[key])
        assert (found.inputs[0].name, found.inputs[0].dtype) == ("image", "int8")
        assert (found.outputs[0].name, found.outputs[0].dtype) == ("scores", "int8")
        assert structure.int8_share(structure.read(found.path)) == 1
        assert "QUANTIZE" not in found.operators
    assert variant(results["qat float ends"]).inputs[0].dtype == "float32"


def test_notes_describe_the_training(results: dict[str, Variant | HarnessError]) -> None:
    notes = variant(results["prune > pqat"]).notes

    assert any(note.startswith("pruned (unstructured, polynomial): 6 epochs") for note in notes)
    assert "pruned already: its zeros are kept" in notes
    assert any("validation loss" in note and "->" in note for note in notes)
    assert any("distilled from teacher.keras" in n for n in variant(results["distill > qat"]).notes)


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_model_that_cannot_be_trained_is_refused_with_the_reason(
    results: dict[str, Variant | HarnessError], name: str, text: str
) -> None:
    error = results[f"{name} {text}"]

    assert isinstance(error, HarnessError)
    assert REFUSED[name, text] in str(error)
