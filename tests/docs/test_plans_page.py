"""The examples of docs/plans.md and docs/devices.md are right: they load through the real doors."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.config import farm, models, plans, profiles, toml_reading
from harness.errors import ConfigError
from harness.optimize import catalog

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "plans.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n# (plan|farm)\.toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def examples(kind: str) -> list[str]:
    return [text for name, text in BLOCKS if name == kind]


def named_files(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Every path that a plan names."""
    entries = mapping["model"]
    tables = [entries] if isinstance(entries, dict) else entries
    for table in tables:
        yield table["path"].replace("*", "some")
    for data in [mapping.get("data", {}), *(table.get("data", {}) for table in tables)]:
        for key in ("training", "calibration", "evaluation"):
            if data.get(key, "random") != "random":
                yield models.split_generator(data[key])[0]


def make(base: Path, name: str) -> None:
    """Make an empty file of that name, or a SavedModel folder."""
    path = base / name
    if path.suffix:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    else:
        path.mkdir(parents=True)
        (path / "saved_model.pb").touch()


def test_every_block_of_toml_says_what_it_is() -> None:
    assert PAGE.count("```toml\n") == len(BLOCKS)
    assert len(examples("plan")) >= 3
    assert examples("farm")


@pytest.mark.parametrize("text", examples("plan"))
def test_a_plan_on_the_page_loads(text: str, tmp_path: Path) -> None:
    mapping = toml_reading.parse(text, "plan.toml")
    for name in named_files(mapping):
        make(tmp_path, name)
    plan = plans.from_mapping(mapping, tmp_path, "plan.toml")
    for model in plan.models:
        for recipe in model.recipes:
            catalog.check(recipe)


def test_the_usual_plan_has_as_many_cells_as_the_page_says(tmp_path: Path) -> None:
    mapping = toml_reading.parse(examples("plan")[1], "plan.toml")
    for name in named_files(mapping):
        make(tmp_path, name)
    plan = plans.from_mapping(mapping, tmp_path, "plan.toml")
    known = farm.from_mapping(toml_reading.parse(examples("farm")[0], "f"), tmp_path / "farm.toml")
    devices = farm.select(known, plan.models[0].devices)
    assert "= 20 cells" in PAGE
    assert len(plans.combinations(plan, devices)) == 20


def known_keys(mapping: dict[str, Any], *place: str | int) -> set[str]:
    """The keys a table knows, as the door lists them when it is given one more."""
    table: Any = mapping
    for part in place:
        table = table[part]
    table["nonsense"] = 1
    with pytest.raises(ConfigError, match="unknown key") as caught:
        plans.from_mapping(mapping, Path(), "plan.toml")
    del table["nonsense"]
    return set(re.findall(r"\w+", str(caught.value).partition("known: ")[2]))


@pytest.mark.parametrize("name", ["model", "data", "run", "dose", "accept", "gate", "search", ""])
def test_the_page_with_every_key_has_every_key(name: str) -> None:
    mapping = toml_reading.parse(examples("plan")[2], "plan.toml")
    if name == "model":
        shown = {key for table in mapping["model"] for key in table}
        assert known_keys(mapping, "model", 0) == shown
    elif name:
        assert known_keys(mapping, name) == set(mapping[name])
    else:
        assert known_keys(mapping) == set(mapping)


@pytest.mark.parametrize("text", examples("farm"))
def test_a_farm_on_the_page_loads(text: str, tmp_path: Path) -> None:
    found = farm.from_mapping(toml_reading.parse(text, "farm.toml"), tmp_path / "farm.toml")
    assert "bench-pi" in found.devices


def test_the_error_on_the_page_is_the_error(tmp_path: Path) -> None:
    make(tmp_path, "model.tflite")
    mapping = {"model": {"path": "model.tflite"}, "run": {"recipe": ["as_is"]}}
    with pytest.raises(ConfigError) as caught:
        plans.from_mapping(mapping, tmp_path, "plan.toml")
    assert f"    {caught.value}\n" in PAGE


def test_every_shipped_profile_is_on_the_page_with_its_targets(tmp_path: Path) -> None:
    page = (DOCS / "devices.md").read_text().partition("\n## Profiles\n")[2]
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\w, ]+) \|$", page, re.MULTILINE))
    known = profiles.load_all(tmp_path)
    assert rows == {name: ", ".join(profile.targets) for name, profile in known.items()}
