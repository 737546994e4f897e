"""Models as they are: half precision, state, own code, any name, any signature, any kind of input.

Each either works, with notes on what its file does not have, or is refused with what to do.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.config import recipes
from harness.errors import HarnessError
from harness.optimize import build
from harness.types import DataSource, ModelSource, Variant

pytestmark = pytest.mark.tensorflow

HERE = Path(__file__).resolve().parent
RANDOM = DataSource(calibration="random")
POST_TRAINING = ("float32", "float16", "dynamic", "weight_only", "int8", 'int8(io="float")')
CUT = "prune_filters(epochs=0, multiple=1) > float16"
Results = dict[tuple[str, str], Variant | HarnessError]

WORKS = {
    "mixed.keras": "computes in float16",
    "half.keras": "computes in float16",
    "brain.keras": "computes in bfloat16",
    "double.keras": "computes in float64",
    "mixed_saved": "computes in float16",
    "mixed_lstm.keras": "computes in float16",
    "mixed2.h5": "computes in float16",
    "stateful.keras": "each inference starts from the saved state",
    "stateful_saved": "each inference starts from the saved state",
    "stateful2.h5": "each inference starts from the saved state",
    "own_step.keras": 'the class "Trained" is not here',
    "own_step.h5": 'the class "Trained" is not here',
    "custom_keras_saved": "",
    "custom_h5_saved": "",
    "subclassed_saved": "",
    "names.keras": "",
    "names2.h5": "",
    "long.keras": "",
    "listed.keras": "",
    "outputs2.h5": "",
    "nested.keras": "",
    "unsigned": "",
    "tf1": "",
    "rankless shaped": "",
    "tokens.keras": 'random values of "tokens" are 0 to 49: it holds indices (GATHER, 50 rows)',
    "float_tokens.keras": 'random values of "tokens" are 0 to 29',
    "bytes.keras": "",
    "overflow.keras": "random integers are 0 or 1",
}
"""Models that are built, with a part of a note."""
REFUSED = {
    "counter": "uses state that the same inference has changed",
    "custom.keras": 'the class "Gate" is not part of Keras',
    "custom.h5": 'the layer "Gate" is not part of Keras',
    "own_function.keras": 'the function "swirl" is not part of Keras',
    "subclassed.keras": 'the class "Written" is not part of Keras',
    "unsigned_two": "has no signature",
    "rankless": 'shape = { "x" = [1, N] }',
    "text.keras": 'the input "words" is text',
    "lookup.keras": "look the numbers up before the model",
    "frozen.pb": "a graph alone",
}
"""Models that are refused, with a part of the message."""
QUANTISED = [("mixed.keras", "int8"), ("stateful2.h5", "dynamic"), ("tokens.keras", "int8")]
NAMES = {
    "names.keras": (["image"], None),
    "outputs.keras": (["größe 1", "ä"], ["box", "wörter"]),
    "listed.keras": (["größe 1", "ä"], ["first one", "second"]),
    "outputs2.h5": (["x"], ["a", "b"]),
    "nested.keras": (["left", "right"], None),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("größe 1")
    subprocess.run(
        [sys.executable, str(HERE / "odd_models.py"), str(made)], check=True, timeout=300
    )
    return made


@pytest.fixture(scope="module")
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Build everything in one go, so that few TensorFlow workers start."""
    named = {
        name: ModelSource(name=name, path=folder / name, data=RANDOM)
        for name in (*WORKS, *REFUSED, "outputs.keras")
    }
    named["rankless shaped"] = replace(
        named["rankless"], name="rankless shaped", shape={"x": (1, 4)}
    )
    wanted = [(model, "float32") for model in named.values()]
    wanted += [(named[name], recipe) for name, recipe in QUANTISED]
    wanted += [(named["outputs.keras"], recipe) for recipe in POST_TRAINING[1:]]
    wanted += [
        (named[name], CUT) for name in ("mixed.keras", "mixed2.h5", "names.keras", "outputs.keras")
    ]
    requests = [
        build.BuildRequest(model=model, recipe=recipes.parse(recipe), target="xnnpack")
        for model, recipe in wanted
    ]
    cache = tmp_path_factory.mktemp("cache")
    return {
        (request.model.name, request.recipe.name): result
        for request, result in build.build_all(requests, cache=cache)
    }


def variant(result: Variant | HarnessError) -> Variant:
    assert isinstance(result, Variant), result
    return result


@pytest.mark.parametrize("name", WORKS)
def test_it_works_and_says_what_the_file_lacks(results: Results, name: str) -> None:
    found = variant(results[name, "float32"])

    assert WORKS[name] in "\n".join(found.notes)
    assert {tensor.dtype for tensor in found.outputs} == {"float32"}
    assert not any("VARIABLE" in operator for operator in found.operators)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_what_to_do(results: Results, name: str) -> None:
    error = results[name, "float32"]

    assert isinstance(error, HarnessError)
    assert REFUSED[name] in str(error)


def test_no_message_has_a_traceback_or_advice_for_programmers(results: Results) -> None:
    texts = [str(result) for result in results.values() if isinstance(result, HarnessError)]

    for text in texts:
        assert len(text) < 1_000
        for gone in ("site-packages", "convert.py", "custom_object", "decorat", "converter."):
            assert gone not in text


@pytest.mark.parametrize(("name", "recipe"), QUANTISED)
def test_a_quantised_form_of_it_works(results: Results, name: str, recipe: str) -> None:
    found = variant(results[name, recipe])

    assert found.agreement is not None
    assert found.agreement.relative_error < 0.2


@pytest.mark.parametrize("name", NAMES)
def test_inputs_and_outputs_keep_their_names(results: Results, name: str) -> None:
    found = variant(results[name, "float32"])
    inputs, outputs = NAMES[name]

    assert [tensor.name for tensor in found.inputs] == inputs
    if outputs is not None:
        assert [tensor.name for tensor in found.outputs] == outputs


@pytest.mark.parametrize("recipe", [*POST_TRAINING, CUT])
def test_every_recipe_keeps_the_names_of_the_outputs(results: Results, recipe: str) -> None:
    found = variant(results["outputs.keras", recipe])

    assert [tensor.name for tensor in found.inputs] == ["größe 1", "ä"]
    assert [tensor.name for tensor in found.outputs] == ["box", "wörter"]
    assert [tensor.shape for tensor in found.outputs] == [(1, 3), (1, 2)]


@pytest.mark.parametrize("name", ["mixed.keras", "mixed2.h5", "names.keras"])
def test_steps_on_trained_models_take_it(results: Results, name: str) -> None:
    variant(results[name, CUT])
