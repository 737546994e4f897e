"""A model with trained ranges is recognised by its bytes, and only `int8` takes it."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standins.graphs import Graph

from harness.config import recipes
from harness.errors import RecipeError
from harness.optimize import aware, catalog, graph, jobs
from harness.types import DataSource, ModelSource


def described(*kinds: str) -> str:
    return json.dumps({"layers": [{"class_name": kind, "config": {}} for kind in kinds]})


def as_keras(folder: Path, text: str) -> Path:
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", b"QuantizeWrapperV2 in a weight's name says nothing")
    return path


def as_h5(folder: Path, text: str) -> Path:
    path = folder / "model.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100 + text.encode() + b"\0" * 100)
    return path


def as_saved_model(folder: Path, text: str) -> Path:
    path = folder / "model"
    path.mkdir()
    (path / "saved_model.pb").write_bytes(b"\x08\x01\x12" + text.encode() + b"\0")
    return path


FORMS = {"keras": as_keras, "h5": as_h5, "saved_model": as_saved_model}
TRAINED = {
    "keras": described("InputLayer", "QuantizeLayer", "QuantizeWrapperV2"),
    "h5": described("InputLayer", "QuantizeWrapper"),
    "saved_model": "StatefulPartitionedCall FakeQuantWithMinMaxVarsPerChannel",
}


def plan(path: Path, recipe: str, **data: Any) -> graph.Chain:
    model = ModelSource(name="m", path=path, data=DataSource(**data))
    digests = graph.Digests(lambda source: source)
    return graph.plan(model, recipes.parse(recipe), digests=digests, seed=0, check=True)


@pytest.mark.parametrize("form", FORMS)
def test_trained_ranges_are_recognised_in_every_form(tmp_path: Path, form: str) -> None:
    assert aware.is_aware(FORMS[form](tmp_path, TRAINED[form]), form)


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_model_is_not(tmp_path: Path, form: str) -> None:
    assert not aware.is_aware(FORMS[form](tmp_path, described("Dense", "Quantizer")), form)


def test_tensorflows_own_fake_quantise_layer_is_recognised(tmp_path: Path) -> None:
    text = '{"config": {"function": "quantization.fake_quant_with_min_max_vars"}}'

    assert aware.is_aware(as_h5(tmp_path, text), "h5")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("QuantizeAnnotate", "marked for quantisation-aware training .* apply quantize_apply"),
        ("QuantizedDTypePolicy", "quantised already, by Keras .* from before that call"),
        ("Int4DTypePolicy", "quantised already, by Keras"),
    ],
)
def test_a_model_that_no_step_can_use_is_refused_with_what_to_do(
    tmp_path: Path, kind: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        plan(as_keras(tmp_path, described("InputLayer", kind)), "int8", calibration="random")


@pytest.mark.parametrize("form", FORMS)
def test_int8_needs_no_data_and_has_no_float_yardstick(tmp_path: Path, form: str) -> None:
    chain = plan(FORMS[form](tmp_path, TRAINED[form]), 'int8(io="float")')

    assert {node.verb for node in chain.nodes.values()} == {"trained_ranges", "check"}
    assert chain.reference is None
    made = chain.nodes[chain.variant]
    assert made.order["io"] == "float"
    assert made.order["form"] == form


@pytest.mark.parametrize(
    "recipe",
    [name for name in catalog.known_steps() if name not in {"int8", "as_is", "edgetpu", "aot"}],
)
def test_every_other_step_is_refused_with_the_way_out(tmp_path: Path, recipe: str) -> None:
    path = as_keras(tmp_path, TRAINED["keras"])

    with pytest.raises(
        RecipeError, match=rf"{recipe} does not take model.keras: .*use int8, which keeps"
    ):
        plan(path, recipe, calibration="random", training="t.npz")


def test_a_tflite_that_rounds_in_float_is_refused(tmp_path: Path) -> None:
    made = Graph()
    x, y = made.tensor("x", (1, 4)), made.tensor("y", (1, 4))
    made.operator("FAKE_QUANT", [x], [y], min=-1.0, max=1.0, numBits=8)
    path = made.write(tmp_path / "rounds.tflite", [x], [y])

    with pytest.raises(RecipeError, match=r"quantisation-aware .*FAKE_QUANT.* SavedModel"):
        jobs.float_file(
            {"source": str(path), "workdir": str(tmp_path), "form": "tflite", "scan": []}
        )


@settings(max_examples=50)
@given(st.binary(max_size=300), st.sampled_from(sorted(FORMS)))
def test_any_bytes_are_searched_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, form: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "model"
    path.write_bytes(content)

    with contextlib.suppress(RecipeError):  # it may happen to hold a mark
        assert aware.is_aware(path, form) in {True, False}
