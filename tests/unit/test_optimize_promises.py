"""A file that does not show what a step promised is refused, with the layer and the numbers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import RecipeError
from harness.optimize import catalog, promises
from harness.protocols import Promise
from harness.tflite.structure import Layer
from harness.types import Recipe, StepCall


def layer(name: str, operator: str = "CONV_2D", **changes: Any) -> Layer:
    given: dict[str, Any] = {
        "shape": (10, 100),
        "dtype": "float32",
        "bytes": 4_000,
        "zeros": 500,
        "unique": 16,
        "unique_per_channel": 16,
        "nonzeros_per_4": 2,
        **changes,
    }
    return Layer(name=name, operator=operator, **given)


GOOD = (layer("conv"), layer("dense/MatMul", "FULLY_CONNECTED", dtype="int8"))
HOLDS = (
    Promise(measure="sparsity", at_least=0.5),
    Promise(measure="sparsity", at_most=0.5),
    Promise(measure="unique_values", at_most=16),
    Promise(measure="unique_per_channel", at_most=16),
    Promise(measure="nonzeros_per_4", at_most=2),
    Promise(measure="int8_share", at_least=0.5),
    Promise(measure="elements", at_most=2_000),
)


@pytest.mark.parametrize("promise", HOLDS, ids=lambda promise: promise.measure)
def test_a_kept_promise_has_no_notes(promise: Promise) -> None:
    kept = promises.check(GOOD, [("step", promise)])

    if promise.measure.endswith("_share"):  # one layer is wider, within the limit
        assert kept.flags == ["wide_weights"]
    else:
        assert kept == promises.KeptPromises()


@pytest.mark.parametrize(
    ("bad", "promise", "message"),
    [
        ({"zeros": 30}, HOLDS[0], "pqat promised at least 50 % zeros; bad .* 1,000 .*has 3 %"),
        ({"unique": 17}, HOLDS[2], "at most 16 distinct values; bad .*has 17"),
        ({"unique_per_channel": 99}, HOLDS[3], "16 distinct values in a channel; bad .*has 99"),
        ({"nonzeros_per_4": 3}, HOLDS[4], "at most 2 nonzeros in 4 neighbours; bad .*has 3"),
        ({}, HOLDS[5], r"at least 50 % of the weights in 8 bits or fewer; the file has 33.33 %"),
        ({}, HOLDS[6], "at most 2,000 weights; the file has 3,000"),
    ],
)
def test_a_broken_one_names_step_layer_and_numbers(
    bad: dict[str, Any], promise: Promise, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        promises.check((*GOOD, layer("bad", **bad)), [("pqat", promise)])


def test_the_worst_layer_is_named_and_the_others_counted() -> None:
    layers = (layer("one", zeros=400), layer("two", zeros=100), layer("three"))

    with pytest.raises(RecipeError, match=r"two .*has 10 % \(1 more of 3 layers"):
        promises.check(layers, [("prune", HOLDS[0])])


def test_one_element_is_forgiven_for_rounding() -> None:
    assert not promises.check([layer("conv", zeros=499)], [("prune", HOLDS[0])]).notes
    with pytest.raises(RecipeError):
        promises.check([layer("conv", zeros=498)], [("prune", HOLDS[0])])


@pytest.mark.parametrize(
    "narrowed",
    [
        {"operators": ("FULLY_CONNECTED",)},
        {"min_elements": 1_001},
        {"names": "^dense/"},
    ],
)
def test_a_promise_ignores_other_layers(narrowed: dict[str, Any]) -> None:
    layers = (layer("conv", zeros=0), layer("dense/MatMul", "FULLY_CONNECTED"))

    promises.check(layers, [("prune", Promise(measure="sparsity", at_least=0.5, **narrowed))])


def test_a_promise_about_no_layer_is_noted() -> None:
    promise = Promise(measure="sparsity", at_least=1, names="none")

    assert promises.check(GOOD, [("prune", promise)]).notes == [
        "prune promised at least 100 % zeros: it applies to no layer of the file"
    ]


def test_a_promise_that_cannot_be_counted_is_not_kept() -> None:
    with pytest.raises(RecipeError, match="cannot be read from sparse"):
        promises.check([layer("sparse", unique=None)], [("cluster", HOLDS[2])])


def test_a_promise_without_a_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="at_least or at_most"):
        Promise(measure="sparsity")


@pytest.mark.parametrize("promise", HOLDS, ids=lambda promise: promise.measure)
def test_promises_survive_json(promise: Promise) -> None:
    stored = json.loads(json.dumps(promises.plain("step", promise)))

    assert promises.from_plain(stored) == ("step", promise)


def test_a_recipe_promises_what_its_steps_promise() -> None:
    call = StepCall(name="mixed", parameters={"min_int8": 0.7})
    recipe = Recipe(name="mixed", steps=(call,))

    (found,) = catalog.promised(recipe)

    assert (found[0], found[1].measure, found[1].at_least) == ("mixed", "int8_share", 0.7)
    assert catalog.promised(Recipe(name="as_is", steps=(StepCall(name="as_is"),))) == []


NARROW = {
    **dict.fromkeys(("int8", "int16x8", "dynamic", "weight_only", "mixed"), "int8_share"),
    **dict.fromkeys(("qat", "pqat", "cqat", "pcqat"), "int8_share"),
    "float16": "float16_share",
}
"""The steps that name a width, and its measure."""


def test_every_step_that_names_a_width_promises_it() -> None:
    for name, step in catalog.known_steps().items():
        found = [promise.measure for _, promise in promised(name)]
        assert (NARROW.get(name) in found) == (name in NARROW), step


def promised(name: str, **parameters: Any) -> list[tuple[str, Promise]]:
    return catalog.promised(Recipe(name=name, steps=(StepCall(name=name, parameters=parameters),)))


@pytest.mark.parametrize("name", [name for name in NARROW if name != "mixed"])
def test_a_file_that_is_mostly_float_is_refused_with_its_layers(name: str) -> None:
    layers = [
        layer("small", "FULLY_CONNECTED", dtype="int8", shape=(10, 10), zeros=0),
        layer("dense/MatMul", "FULLY_CONNECTED", shape=(10, 50), zeros=0),
        layer("first state", "WHILE", shape=(9, 100), zeros=900),
        layer("volume", "CONV_3D", shape=(10, 300)),
        layer("slopes", "PRELU", shape=(900, 10)),
    ]
    (width,) = [item for item in promised(name) if item[1].measure == NARROW[name]]

    with pytest.raises(RecipeError) as refused:
        promises.check(layers, [width])

    text = str(refused.value)
    assert text.startswith(f"{name} promised at least ")
    assert "the file has 2.778 %; wider: volume (CONV_3D, 3,000 weights, float32), " in text
    assert "dense/MatMul (FULLY_CONNECTED, 500 weights, float32); use another recipe" in text
    assert "slopes" not in text
    assert "first state" not in text
    allowed = f"min_{NARROW[name].removesuffix('_share')}"
    assert f"{name}({allowed}=0.02) accepts the file" in text
    relaxed = promised(name, **{allowed: 0.02})
    kept = promises.check(layers, [item for item in relaxed if item[1].measure == NARROW[name]])
    assert kept.flags == ["wide_weights"]
    assert "volume (CONV_3D" in kept.notes[0]


def test_a_file_in_its_width_has_no_flag() -> None:
    layers = [layer("dense", "FULLY_CONNECTED", dtype="int8"), layer("slopes", "PRELU")]

    assert promises.check(layers, promised("int8")) == promises.KeptPromises()
    assert promises.check([], promised("int8")) == promises.KeptPromises()


def test_a_step_of_another_package_gets_no_parameter_of_ours() -> None:
    with pytest.raises(RecipeError, match="replace these layers$"):
        promises.check([layer("wide")], [("own", HOLDS[5])])
