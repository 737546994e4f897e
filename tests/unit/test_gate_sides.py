"""How the sides of a gate are resolved and paired, and which are refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.gate import budget, sides
from harness.config import farm as farms
from harness.config import plans
from harness.errors import ConfigError
from harness.measure import prepare
from harness.records.store import Store
from harness.types import Failure, Tensor, Variant


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    for name in ("a.tflite", "b.tflite", "c.keras"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def decided(folder: Path, models: int = 1, recipes: str = '["float32", "int8"]') -> Any:
    tables = "".join(
        f'[[model]]\nname = "m{index}"\npath = "{path}"\n'
        for index, path in enumerate(("a.tflite", "b.tflite")[:models])
    )
    plan = folder / "plan.toml"
    plan.write_text(
        f'{tables}[run]\nrecipes = {recipes}\ndevices = ["this-machine"]\nthreads = [1, 2]\n'
    )
    return prepare.decide(plans.load(plan), farms.load(None, folder))


def candidates(text: str | Path, folder: Path, **changes: Any) -> list[tuple[str, str]]:
    found = sides.resolve(str(text), decided(folder, **changes), Store(folder / "r"), "--baseline")
    return [(one.model, one.recipe) for one in found]


def test_a_tflite_file_is_used_as_it_is_and_another_model_is_built_with_every_recipe(
    folder: Path,
) -> None:
    assert candidates(folder / "b.tflite", folder) == [("m0", "as_is")]
    assert candidates(folder / "c.keras", folder) == [("m0", "float32"), ("m0", "int8")]


@pytest.mark.parametrize(
    ("recipes", "named"),
    [
        ('["as_is@gpu"]', ["as_is@gpu"]),
        ('["float32@gpu", "int8@gpu"]', ["as_is@gpu"]),
        ('["float32", "int8@edgetpu"]', ["as_is", "as_is@edgetpu"]),
    ],
)
def test_a_tflite_file_is_measured_on_the_targets_of_the_plan(
    folder: Path, recipes: str, named: list[str]
) -> None:
    of_plan = decided(folder, recipes=recipes)
    both = [
        sides.resolve(str(folder / name), of_plan, Store(folder / "r"), "--baseline")
        for name in ("a.tflite", "b.tflite")
    ]
    assert [one.recipe for one in both[0]] == named
    pairs = sides.join(*both, of_plan.plan)
    assert [(a.recipe, b.recipe) for a, b in pairs] == [(one, one) for one in named]
    targets = {sides._target(one.a) for one in sides.wanted(pairs, of_plan)}
    assert targets == {one.partition("@")[2] or "xnnpack" for one in named}
    recipe = of_plan.plan.models[0].recipes[0].name
    beside = sides.resolve(recipe, of_plan, Store(folder / "r"), "--candidate")
    assert sides.join(both[0], beside, of_plan.plan)


def test_a_recipe_stands_for_every_model_and_a_path_takes_precedence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert candidates("int8", folder, models=2) == [("m0", "int8"), ("m1", "int8")]
    (folder / "int8").write_bytes(b"a file of that name")
    monkeypatch.chdir(folder)
    assert candidates("int8", folder) == [("m0", "float32"), ("m0", "int8")]


def test_a_file_is_refused_with_several_models_unless_it_is_one_of_them(folder: Path) -> None:
    assert candidates(folder / "b.tflite", folder, models=2) == [("m1", "as_is")]
    with pytest.raises(ConfigError, match="several models"):
        candidates(folder / "c.keras", folder, models=2)


def test_a_runtime_stands_for_every_recipe_in_that_runtime(folder: Path) -> None:
    found = sides.resolve("runtime:lib=1.2", decided(folder), Store(folder / "r"), "--baseline")
    assert {one.runtime for one in found} == {"lib 1.2"}
    assert len(found) == 2


def test_an_unknown_name_is_an_error_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe of the plan .float32, int8. and no stored"):
        candidates("int9", folder)


def test_candidates_are_paired_by_recipe_and_a_single_one_with_all(folder: Path) -> None:
    made = decided(folder)

    def pairs(x: str, y: str) -> list[tuple[str, str]]:
        found = [
            sides.resolve(text, made, Store(folder / "r"), "--baseline")
            for text in (str(folder / x) if "." in x else x, str(folder / y) if "." in y else y)
        ]
        return [(a.recipe, b.recipe) for a, b in sides.join(found[0], found[1], made.plan)]

    assert pairs("c.keras", "c.keras") == [("float32", "float32"), ("int8", "int8")]
    assert pairs("float32", "int8") == [("float32", "int8")]
    assert pairs("b.tflite", "c.keras") == [("as_is", "float32"), ("as_is", "int8")]
    assert pairs("c.keras", "int8") == [("int8", "int8")]


def variant(digest: str, shape: tuple[int, ...] = (1, 49, 10, 1), dtype: str = "int8") -> Variant:
    return Variant(
        model="m0",
        recipe="r",
        target="xnnpack",
        path=Path("x"),
        digest=digest * 64,
        size_bytes=1,
        inputs=(Tensor(name="x", shape=shape, dtype=dtype),),
    )


def bound(folder: Path, a: Variant | Failure, b: Variant | Failure) -> Any:
    made = decided(folder, recipes='["float32"]')
    found = sides.resolve("float32", made, Store(folder / "r"), "--baseline")
    other = [dataclasses.replace(found[0], request=dataclasses.replace(found[0].request))]
    (first, _) = sides.wanted(sides.join(found, other, made.plan), made)
    built = {id(first.a.request): a, id(first.b.request): b}
    return sides.contest(first, built, made.plan, {})


def test_different_input_shapes_are_refused_and_different_types_are_not(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"different inputs.*\[49, 10, 1\].*\[98, 10, 1\]"):
        bound(folder, variant("a"), variant("b", shape=(1, 98, 10, 1)))
    assert not bound(folder, variant("a"), variant("b", dtype="float32")).identical
    assert bound(folder, variant("a"), variant("a")).identical


def test_a_failed_build_is_the_failure_of_its_contest(folder: Path) -> None:
    failure = Failure(kind="not_built", reason="no calibration data")
    assert bound(folder, variant("a"), failure).failure == failure


def test_a_contest_has_a_cell_per_side_and_the_plans_threads(folder: Path) -> None:
    made = bound(folder, variant("a"), variant("b"))
    assert (made.a.cell.recipe, made.b.cell.recipe) == ("baseline:float32", "candidate:float32")
    assert made.a.cell.id != made.b.cell.id
    assert made.key.threads == 1
    assert made.a.cell.dose.min_seconds == budget.MIN_SECONDS
    assert made.stretch
