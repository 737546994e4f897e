"""The check of a recipe: unknown steps, parameters and orders are refused with a fix."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import ConfigError
from harness.optimize import catalog
from harness.types import Recipe, StepCall


def recipe(*steps: str | StepCall) -> Recipe:
    calls = tuple(StepCall(name=step) if isinstance(step, str) else step for step in steps)
    return Recipe(name=" > ".join(call.name for call in calls), steps=calls)


def test_every_step_is_documented_data() -> None:
    steps = catalog.known_steps()

    assert set(steps) >= {"as_is", "float32", "float16", "dynamic", "int8", "int16x8"}
    for name, step in steps.items():
        assert step.name == name
        assert step.summary
        assert all(parameter.help for parameter in step.parameters)


@pytest.mark.parametrize("name", ["as_is", "float32", "float16", "dynamic", "int8", "int16x8"])
def test_each_step_alone_is_a_recipe(name: str) -> None:
    catalog.check(recipe(name))


def test_an_unknown_step_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match='did you mean "int8"'):
        catalog.check(recipe("imt8"))


def test_an_unknown_parameter_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r'unknown parameter of int8 "in".*io'):
        catalog.check(recipe(StepCall(name="int8", parameters={"in": "float"})))


@pytest.mark.parametrize("value", ["uint8", 8, True, ["float"]])
def test_a_parameter_of_a_wrong_type_lists_the_allowed_values(value: Any) -> None:
    with pytest.raises(ConfigError, match=r'"int8" \| "float"'):
        catalog.check(recipe(StepCall(name="int8", parameters={"io": value})))


@pytest.mark.parametrize(
    ("key", "value"),
    [("bits", 5), ("bits", "8"), ("bits", 8.0), ("bits", True), ("granularity", 48)],
)
def test_a_number_that_is_not_listed_lists_the_allowed_ones(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"allowed: (8 \| 4|\"channel\" \| 32 \| 64)"):
        catalog.check(recipe(StepCall(name="weight_only", parameters={key: value})))


@pytest.mark.parametrize("granularity", ["channel", 32, 256])
def test_names_and_numbers_may_be_listed_together(granularity: str | int) -> None:
    parameters = {"bits": 4, "granularity": granularity}
    catalog.check(recipe(StepCall(name="weight_only", parameters=parameters)))


def test_nothing_is_quantised_twice() -> None:
    with pytest.raises(ConfigError, match="float16 cannot follow int8"):
        catalog.check(recipe("int8", "float16"))


def test_as_is_follows_only_finished_files() -> None:
    catalog.check(recipe("int8", "as_is"))
    with pytest.raises(ConfigError, match="no steps"):
        catalog.check(Recipe(name="", steps=()))


def test_defaults_are_filled_in() -> None:
    assert catalog.parameters(StepCall(name="int8")) == {"io": "int8", "min_int8": 0.9}


def test_a_whole_number_is_a_number() -> None:
    call = StepCall(name="qat", parameters={"learning_rate": 10, "epochs": 3})
    filled = catalog.parameters(call)
    assert (filled["learning_rate"], filled["epochs"]) == (10.0, 3)
    assert [type(filled[name]) for name in ("learning_rate", "epochs")] == [float, int]
