"""weight_only, dynamic at 4 bits and mixed through real workers; promises held against real files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.errors import HarnessError
from harness.optimize import build, inspect
from harness.tflite import structure
from harness.types import DataSource, ModelSource, Recipe, StepCall, Variant

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "harness" / "demo" / "data"


def data(name: str) -> str:
    return str(DEMO / f"digits_{name}.npz")


def digits(path: Path = DEMO / "digits.tflite", **given: str | None) -> ModelSource:
    sources = {"calibration": data("calibration"), "evaluation": data("evaluation"), **given}
    return ModelSource(name=path.stem, path=path, data=DataSource(**sources))  # type: ignore[arg-type]


def step(name: str, **parameters: Any) -> Recipe:
    call = StepCall(name=name, parameters=parameters)
    return Recipe(name=str(call), steps=(call,))


def built(model: ModelSource, *recipes: Recipe, cache: Path) -> list[Variant | HarnessError]:
    requests = [
        build.BuildRequest(model=model, recipe=recipe, target="xnnpack") for recipe in recipes
    ]
    results = {
        request.recipe.name: result for request, result in build.build_all(requests, cache=cache)
    }
    return [results[recipe.name] for recipe in recipes]


def variant(result: Variant | HarnessError) -> Variant:
    assert isinstance(result, Variant), result
    return result


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def badly_scaled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model, the same in float, with channels that int8 cannot hold."""
    file = ROOT / "benchmarks" / "badly_scaled.py"
    spec = importlib.util.spec_from_file_location("badly_scaled", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("badly") / "badly_scaled.tflite"
    path.write_bytes(module.badly_scaled((DEMO / "digits.tflite").read_bytes()))
    return path


def dtypes(found: Variant) -> dict[str, set[str]]:
    by_operator: dict[str, set[str]] = {}
    for layer in structure.read(found.path):
        by_operator.setdefault(layer.operator, set()).add(layer.dtype)
    return by_operator


def test_weights_have_the_requested_bits(cache: Path) -> None:
    eight, four, blocks, dynamic = (
        variant(result)
        for result in built(
            digits(),
            step("weight_only"),
            step("weight_only", bits=4, algorithm="octav"),
            step("weight_only", bits=4, granularity=32),
            step("dynamic", bits=4),
            cache=cache,
        )
    )

    assert dtypes(eight) == {
        "CONV_2D": {"int8"},
        "DEPTHWISE_CONV_2D": {"int8"},
        "FULLY_CONNECTED": {"int8"},
    }
    narrow = {"CONV_2D": {"int4"}, "DEPTHWISE_CONV_2D": {"int8"}, "FULLY_CONNECTED": {"int4"}}
    assert dtypes(four) == dtypes(blocks) == dtypes(dynamic) == narrow
    assert eight.notes == ()
    assert any("int8, not int4: 2 DEPTHWISE_CONV_2D" in note for note in four.notes)
    assert any("a scale per 32 weights" in note for note in blocks.notes)
    assert "DEQUANTIZE" in four.operators
    assert "DEQUANTIZE" not in dynamic.operators
    for found in (eight, four, blocks, dynamic):
        assert found.inputs[0].dtype == found.outputs[0].dtype == "float32"
        assert found.accuracy is not None
        assert found.accuracy >= (found.accuracy_source_model or 1) - 0.02


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"granularity": 32}, "granularity = 32 needs bits = 4"),
        ({"bits": 4, "granularity": 64, "algorithm": "mse"}, '"mse" has no blocks'),
    ],
)
def test_an_option_that_the_quantiser_lacks_is_refused(
    parameters: dict[str, Any], message: str, cache: Path
) -> None:
    (result,) = built(digits(), step("weight_only", **parameters), cache=cache)

    assert message in str(result)


def test_blocks_that_do_not_divide_the_weights_are_channels(cache: Path) -> None:
    """The dense layer is 128 wide."""
    channel, blocks = (
        variant(result)
        for result in built(
            digits(),
            step("weight_only", bits=4),
            step("weight_only", bits=4, granularity=256),
            cache=cache,
        )
    )

    assert blocks.digest == channel.digest
    assert not any("256 weights each" in note for note in blocks.notes)


def test_mixed_is_int8_if_int8_is_good_enough(cache: Path) -> None:
    plain, mixed = (
        variant(result)
        for result in built(digits(), step("int8", io="float"), step("mixed"), cache=cache)
    )

    assert mixed.digest == plain.digest
    assert any("100.0% of the weights in int8" in note for note in mixed.notes)


@pytest.mark.parametrize("training", [data("training"), None])
def test_mixed_finds_the_sensitive_operators(
    badly_scaled: Path, cache: Path, training: str | None
) -> None:
    model = digits(badly_scaled, training=training)
    plain, mixed = (
        variant(result) for result in built(model, step("int8"), step("mixed"), cache=cache)
    )

    source = mixed.accuracy_source_model
    assert source is not None
    assert source > 0.98
    assert (plain.accuracy or 0) < source - 0.05
    assert (mixed.accuracy or 0) >= source - (0.01 if training else 0.02)
    share = structure.int8_share(structure.read(mixed.path))
    assert 0.7 <= share < 1
    judged = "labelled training" if training else "calibration samples (no labels)"
    assert any(judged in note for note in mixed.notes)
    assert any("in float: DEPTHWISE_CONV_2D" in note for note in mixed.notes)


def test_a_share_that_the_mix_does_not_keep_is_an_error(badly_scaled: Path, cache: Path) -> None:
    (result,) = built(digits(badly_scaled), step("mixed", min_int8=0.95), cache=cache)

    assert "mixed promised at least 95 % of the weights in 8 bits or fewer; the file has" in str(
        result
    )


def test_rules_decide_for_the_operators_they_match(cache: Path) -> None:
    rules = ("conv2d_5=int16", "DEPTHWISE=float", "CONV_2D=int8")
    (result,) = built(digits(), step("mixed", rules=rules, search=False), cache=cache)

    found = variant(result)
    assert dtypes(found)["DEPTHWISE_CONV_2D"] == {"float32"}
    assert dtypes(found)["CONV_2D"] == {"int8"}
    assert found.operators["QUANTIZE"] >= 3
    assert any("in int16: CONV_2D" in note and "36,864" in note for note in found.notes)
    assert (found.accuracy or 0) > 0.98


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("CONV_2D", 'is not "REGEX=PRECISION"'),
        ("CONV_2D=int4", "float, int8, int16"),
        (3, 'is not "REGEX=PRECISION"'),
        ("(=float", "is no regular expression"),
        ("LSTM=float", "matches no operator (types: CONV_2D"),
    ],
)
def test_a_malformed_rule_is_refused_with_the_reason(
    rule: object, message: str, cache: Path
) -> None:
    (result,) = built(digits(), step("mixed", rules=(rule,)), cache=cache)

    assert isinstance(result, HarnessError)
    assert message in str(result)


def test_labels_of_calibration_data_are_used(cache: Path, tmp_path: Path) -> None:
    with np.load(DEMO / "digits_training.npz") as stored:
        np.savez(tmp_path / "labelled.npz", x=stored["x"][:400], y=stored["y"][:400])
    model = digits(calibration=str(tmp_path / "labelled.npz"))
    (result,) = built(model, step("mixed"), cache=cache)

    assert any("400 labelled calibration samples" in note for note in variant(result).notes)


def test_inspect_shows_every_layer(cache: Path) -> None:
    (result,) = built(digits(), step("int8"), cache=cache)
    plain = inspect.inspect(variant(result).path).plain()

    assert len(plain["layers"]) == 7
    assert {row["dtype"] for row in plain["layers"]} == {"int8"}
    assert all(0 <= row["sparsity"] < 0.1 for row in plain["layers"])
    assert sum(row["elements"] for row in plain["layers"]) == 58_592
