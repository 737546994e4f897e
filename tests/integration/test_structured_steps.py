"""prune_filters and decompose as recipes: their check, and a real TensorFlow worker."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, HarnessError
from harness.optimize import build, catalog
from harness.tflite import flatbuffer
from harness.types import DataSource, ModelSource, Recipe, StepCall, Variant

DEMO = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data"

MAKE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
folder, data = sys.argv[1:]
keras.utils.set_random_seed(1)
L = keras.layers
image = L.Input((8, 8, 1), name="image")
x = L.BatchNormalization(momentum=0.9)(L.Conv2D(32, 3, padding="same", use_bias=False)(image))
x = L.ReLU()(x)
y = L.Conv2D(32, 3, padding="same", activation="relu", name="branch")(x)
x = L.MaxPooling2D()(L.Add()([x, y]))
x = L.Dense(48, activation="relu", name="hidden")(L.Flatten()(x))
model = keras.Model(image, L.Dense(10, activation="softmax", name="scores")(x))
with np.load(data) as stored:
    x, y = stored["x"], stored["y"]
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(x, y, batch_size=64, epochs=6, verbose=0)
model.save(f"{folder}/residual.keras")
flat = keras.Sequential([L.Input((8, 8, 1)), L.Flatten(), L.Dense(10, activation="softmax")])
flat.save(f"{folder}/flat.keras")
"""

WHOLE = 32 * 9 + 4 * 32 + 32 * 9 * 32 + 32 + 512 * 48 + 48 + 48 * 10 + 10
HALF = 16 * 9 + 4 * 16 + 16 * 9 * 16 + 16 + 256 * 24 + 24 + 24 * 10 + 10


def call(name: str, **parameters: Any) -> StepCall:
    return StepCall(name=name, parameters=parameters)


def recipe(name: str, *steps: StepCall) -> Recipe:
    return Recipe(name=name, steps=steps)


RECIPES = (
    recipe("pruned", call("prune_filters", epochs=3)),
    recipe("pruned, int8", call("prune_filters", epochs=3), call("int8")),
    recipe("decomposed", call("decompose", epochs=8)),
    recipe("decomposed by name", call("decompose", rank=4, layers=["hidden"], epochs=0)),
    recipe("no such layer", call("decompose", rank=4, layers=["hiden"], epochs=0)),
    recipe("both measures", call("decompose", rank=4, energy=0.5, epochs=0)),
    recipe("layers of numbers", call("decompose", rank=4, layers=[4], epochs=0)),
)
UNTRAINED = (
    recipe("cut", call("prune_filters", epochs=0)),
    recipe("no data", call("prune_filters")),
)
NOTHING = (recipe("nothing to prune", call("prune_filters", epochs=0)),)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Variant | HarnessError]:
    # Not imported: TensorFlow and another runtime cannot share a process.
    if not all(map(find_spec, ("tf_keras", "tensorly"))):
        pytest.skip("needs tf_keras and tensorly")
    folder = tmp_path_factory.mktemp("structured")
    subprocess.run(
        [sys.executable, "-c", MAKE, str(folder), str(DEMO / "digits_training.npz")],
        check=True,
        capture_output=True,
        timeout=200,
    )
    data = {
        "calibration": str(DEMO / "digits_calibration.npz"),
        "evaluation": str(DEMO / "digits_evaluation.npz"),
    }
    training = str(DEMO / "digits_training.npz")
    with_data = DataSource(training=training, **data)  # type: ignore[arg-type]
    without = DataSource(**data)  # type: ignore[arg-type]
    wanted = [
        *((item, "residual", with_data) for item in RECIPES),
        *((item, "residual", without) for item in UNTRAINED),
        *((item, "flat", without) for item in NOTHING),
    ]
    requests = [
        build.BuildRequest(
            model=ModelSource(name=model, path=folder / f"{model}.keras", data=source),
            recipe=item,
            target="xnnpack",
        )
        for item, model, source in wanted
    ]
    cache = tmp_path_factory.mktemp("cache")
    return {
        request.recipe.name: result
        for request, result in build.build_all(requests, cache=cache, workers=1)
    }


def variant(result: Variant | HarnessError) -> Variant:
    assert isinstance(result, Variant), result
    return result


def notes(found: Variant) -> str:
    return "\n".join(found.notes)


@pytest.mark.tensorflow
@pytest.mark.slow
class TestBuilt:
    def test_half_of_the_channels_through_a_residual_graph(
        self, results: dict[str, Variant | HarnessError]
    ) -> None:
        found = variant(results["pruned"])

        assert f"{HALF:,} of {WHOLE:,} parameters" in notes(found)
        assert "conv2d 16 of 32, branch 16 of 32, hidden 24 of 48" in notes(found)
        assert "after the cut: loss" in notes(found)
        assert "trained afterwards: 3 epochs" in notes(found)
        assert found.accuracy is not None
        assert found.accuracy >= (found.accuracy_source_model or 0) - 0.05
        # the batch norm is folded into the convolution: a shift of 16 is left of its 4 x 16
        assert elements(found) == HALF - 3 * 16

    def test_a_pruned_model_is_quantised_like_any_other(
        self, results: dict[str, Variant | HarnessError]
    ) -> None:
        found = variant(results["pruned, int8"])

        assert found.inputs[0].dtype == "int8"
        assert found.size_bytes < 0.45 * variant(results["pruned"]).size_bytes
        assert found.accuracy is not None
        assert found.accuracy >= (variant(results["pruned"]).accuracy or 0) - 0.02

    def test_a_model_decomposed_to_half_its_parameters(
        self, results: dict[str, Variant | HarnessError]
    ) -> None:
        found = variant(results["decomposed"])

        assert elements(found) <= 0.5 * WHOLE
        assert "ranks: " in notes(found)
        assert found.accuracy is not None
        assert found.accuracy >= (found.accuracy_source_model or 0) - 0.05

    def test_only_the_named_layer_is_decomposed(
        self, results: dict[str, Variant | HarnessError]
    ) -> None:
        found = variant(results["decomposed by name"])

        assert f"{WHOLE - 512 * 48 + 4 * (512 + 48):,} of {WHOLE:,} parameters" in notes(found)
        assert "ranks: hidden 4" in notes(found)
        assert "not trained afterwards" in notes(found)

    def test_cut_without_training_data(self, results: dict[str, Variant | HarnessError]) -> None:
        found = variant(results["cut"])

        assert "not trained afterwards" in notes(found)
        assert elements(found) == HALF - 3 * 16

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("no data", "no training data for 10 epochs: give the key training"),
            ("no such layer", 'did you mean "hidden"'),
            ("both measures", "give one of keep"),
            ("layers of numbers", "layers = [4] is not a list of layer names"),
            ("nothing to prune", "nothing can be pruned"),
        ],
    )
    def test_a_model_that_cannot_be_built_is_refused_with_the_reason(
        self, results: dict[str, Variant | HarnessError], name: str, why: str
    ) -> None:
        result = results[name]

        assert isinstance(result, HarnessError)
        assert why in str(result)


def elements(found: Variant) -> int:
    """Weights that are in the file; int32 shapes are none."""
    facts = flatbuffer.read(found.path)
    return sum(weight.elements for weight in facts.weights if weight.dtype == "float32")


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (call("prune_filters", keep=1.5), "a number from 0 to 1"),
        (call("prune_filters", criterion="l3"), r'"l1" \| "l2" \| "bn_scale"'),
        (call("prune_filters", of="weights"), r'"channels" \| "parameters" \| "macs"'),
        (call("prune_filters", multiple=0), "from 1 to 1024"),
        (call("prune_filters", epochs=-1), "from 0"),
        (call("decompose", keep=-0.5), "a number from 0 to 1"),
        (call("decompose", rank=0), "from 1 to 65536"),
        (call("decompose", rank=2.5), "an? integer"),
        (call("decompose", layers="dense"), "a list"),
    ],
)
def test_a_parameter_out_of_range_is_refused_at_once(step: StepCall, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        catalog.check(recipe("bad", step))


@pytest.mark.parametrize("name", ["prune_filters", "decompose"])
def test_a_smaller_model_can_be_changed_further_and_a_finished_file_cannot(name: str) -> None:
    catalog.check(recipe("good", call("prune_filters"), call(name), call("int8")))
    with pytest.raises(ConfigError, match=f"{name} cannot follow int8"):
        catalog.check(recipe("bad", call("int8"), call(name)))
