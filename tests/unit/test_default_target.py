"""A recipe without `@target` is built for the target of the device's profile, once per target."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import api
from harness.analysis.gate import sides
from harness.config import farm as farms
from harness.config import plans, profiles
from harness.errors import ConfigError
from harness.measure import prepare
from harness.optimize import build
from harness.records.store import Store
from harness.types import Failure, ModelSource, Recipe, StepCall

FARM = """
[device.uno]
profile = "tiny"
address = "local:"
[device.due]
profile = "tiny"
address = "local:"
[device.pi]
profile = "linux_aarch64"
address = "local:"
"""
TINY = 'title = "Tiny"\narch = "armv7e-m"\ntargets = ["micro"]\ndefault_target = "micro"\n'


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = tmp_path / "config" / "edge-harness" / "profiles"
    own.mkdir(parents=True)
    (own / "tiny.toml").write_text(TINY)
    (tmp_path / "farm.toml").write_text(FARM)
    (tmp_path / "m.tflite").write_bytes(b"a model")
    (tmp_path / "plan.toml").write_text(
        '[model]\npath = "m.tflite"\n[run]\nrecipes = ["as_is", "int8@xnnpack"]\n'
        'devices = ["uno", "due", "pi"]\n'
    )
    return tmp_path


def decided(folder: Path) -> prepare.Decided:
    return prepare.decide(plans.load(folder / "plan.toml"), farms.load(folder / "farm.toml"))


def test_the_recipe_and_the_file_override_the_device(tmp_path: Path) -> None:
    compiled = tmp_path / "c.tflite"
    compiled.write_bytes(b"...edgetpu-custom-op...")
    model = ModelSource(name="m", path=compiled)
    as_is = Recipe(name="as_is", steps=(StepCall(name="as_is"),))
    named = Recipe(name="as_is@gpu", steps=as_is.steps, target="gpu")
    other = ModelSource(name="m", path=tmp_path / "none.keras")
    assert build.resolve_target(named, model, "micro") == "gpu"
    assert build.resolve_target(as_is, model, "micro") == "edgetpu"
    assert build.resolve_target(as_is, other, "micro") == "micro"
    assert build.resolve_target(as_is, other) == "xnnpack"


def test_a_build_is_made_once_for_all_devices_that_share_its_target(folder: Path) -> None:
    made = decided(folder)
    assert [(c.recipe.name, c.device.name, c.target) for c in made.combinations] == [
        ("as_is", "uno", "micro"),
        ("as_is", "due", "micro"),
        ("as_is", "pi", "xnnpack"),
        ("int8@xnnpack", "uno", "xnnpack"),
        ("int8@xnnpack", "due", "xnnpack"),
        ("int8@xnnpack", "pi", "xnnpack"),
    ]
    wanted = [(r.recipe.name, r.target) for r in made.requests]
    assert wanted == [("as_is", "micro"), ("as_is", "xnnpack"), ("int8@xnnpack", "xnnpack")]
    failed = {
        (r.model.name, r.recipe.name, r.target): (r, Failure(kind="not_built", reason=r.target))
        for r in made.requests
    }
    cells = prepare.bind(made, failed, folder / "inputs")
    assert [(c.device, c.target, c.variant) for c in cells[:3]] == [
        ("uno", "micro", Failure(kind="not_built", reason="micro")),
        ("due", "micro", Failure(kind="not_built", reason="micro")),
        ("pi", "xnnpack", Failure(kind="not_built", reason="xnnpack")),
    ]
    assert len({cell.id for cell in cells}) == 6


def test_a_dry_run_shows_the_targets(folder: Path) -> None:
    rows = api.decide(folder / "plan.toml", farm=folder / "farm.toml")
    assert [row["target"] for row in rows[:3]] == ["micro", "micro", "xnnpack"]


def test_both_sides_of_a_gate_are_built_for_the_device(folder: Path) -> None:
    made, store = decided(folder), Store(folder / "runs")
    xs = sides.resolve("as_is", made, store, "--baseline")
    ys = sides.resolve("int8@xnnpack", made, store, "--candidate")
    found = sides.wanted(sides.join(xs, ys, made.plan), made)
    targets = [(one.device, one.a.request, one.b.request) for one in found]
    assert [(d, a and a.target, b and b.target) for d, a, b in targets] == [
        ("uno", "micro", "xnnpack"),
        ("due", "micro", "xnnpack"),
        ("pi", "xnnpack", "xnnpack"),
    ]
    assert found[0].a is found[1].a
    assert found[0].b is found[2].b


def test_a_default_target_that_the_profile_lacks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.replace('targets = ["micro"]', 'targets = ["xnnpack"]'))
    with pytest.raises(ConfigError, match='default_target: "micro" is not among targets'):
        profiles.load(path)
