"""A dry run refuses what a run refuses, and shows the cells that a run would fail."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import api
from harness.config import farm as farms
from harness.demo import DATA
from harness.errors import ConfigError, HarnessError, StoreError
from harness.measure import prepare
from harness.records.store import RunRecord, Store
from harness.types import Device

PLAN = """
[model]
name = "m"
path = "digits.tflite"
{model}
[data]
{data}
[run]
recipes = [{recipes}]
{run}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(DATA / "digits.tflite", tmp_path)
    for role in ("calibration", "evaluation"):
        shutil.copy(DATA / f"digits_{role}.npz", tmp_path / f"{role}.npz")
    np.savez(tmp_path / "flat.npz", x=np.zeros((9, 64), np.float32), y=np.arange(9))
    np.savez(tmp_path / "unlabelled.npz", x=np.zeros((9, 8, 8, 1), np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def write(home: Path, **parts: str) -> Path:
    given = {"model": "", "data": "", "recipes": '"as_is"', "run": "", **parts}
    path = home / "plan.toml"
    path.write_text(PLAN.format(**given), encoding="utf-8")
    return path


REFUSED: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "unknown target": (
        {"recipes": '"float32@gpuu"'},
        {},
        'unknown target "gpuu"; did you mean "gpu"',
    ),
    "unknown step": ({"recipes": '"int9"'}, {}, 'unknown step "int9"'),
    "unknown parameter": ({"recipes": '"int8(oi=1)"'}, {}, "oi"),
    "wrong order": ({"recipes": '"int8 > float16"'}, {}, "float16 cannot follow int8"),
    "shape of data": (
        {"recipes": '"int8"', "data": 'calibration = "flat.npz"'},
        {},
        "has the shape (9, 64)",
    ),
    "no labels": ({"data": 'evaluation = "unlabelled.npz"'}, {}, 'the key "y" is missing'),
    "another metric": (
        {"data": 'evaluation = "evaluation.npz"\nmetric = "mse"'},
        {},
        '"y" has 1 numbers a sample',
    ),
    "unknown metric": ({"data": 'metric = "f1"'}, {}, 'unknown metric "f1"'),
    "unknown device": ({"run": 'devices = ["nope"]'}, {}, 'unknown device "nope"'),
    "unknown recipe": ({}, {"recipes": ["int8"]}, '--recipe "int8" is not in the plan'),
    "unknown option device": ({}, {"devices": ["tag:none"]}, 'unknown device "tag:none"'),
    "no transport": ({"run": 'devices = ["phone"]'}, {}, "no transport for serial: yet"),
    "retry without resume": ({}, {"retry_failed": True}, "--retry-failed needs --resume RUN"),
    "resume of nothing": ({}, {"resume": "latest"}, "no runs in"),
    "results in a file": ({}, {"results": Path("digits.tflite")}, "digits.tflite"),
    "results below a file": ({}, {"results": Path("digits.tflite/runs")}, "digits.tflite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_both_refuse_before_anything_is_built(home: Path, name: str) -> None:
    parts, options, message = REFUSED[name]
    (home / "farm.toml").write_text(
        '[device.phone]\nprofile = "linux_aarch64"\naddress = "serial:R5CT"\n', encoding="utf-8"
    )
    plan = write(home, **parts)
    for decide in (api.decide, api.run):
        with pytest.raises(HarnessError, match=re.escape(message)) as caught:
            decide(plan, **options)
        assert isinstance(caught.value, (ConfigError, StoreError))
        assert "\n" not in str(caught.value)
    assert not (home / "cache").exists()


def test_results_that_cannot_be_written(home: Path) -> None:
    place = home / "locked" / "runs"
    place.parent.mkdir(mode=0o500)
    if os.access(place.parent, os.W_OK):  # root may write anywhere
        (home / "loop").symlink_to(home / "loop")
        place = home / "loop"
    for decide in (api.decide, api.run):
        with pytest.raises(HarnessError, match=re.escape(str(place))):
            decide(write(home), results=place)


def test_a_resumed_run_of_another_plan(home: Path) -> None:
    plan = api.read_plan(write(home))
    record = RunRecord.new(plan=plan, cells=(), devices={})
    with Store(home / "results").create(record):
        pass
    assert api.decide(write(home), resume="latest")
    other = write(home, run="seed = 7")
    for decide in (api.decide, api.run):
        with pytest.raises(StoreError, match="was made from another plan"):
            decide(other, resume="latest")


def test_cells_and_launches_of_a_run_are_bounded(home: Path) -> None:
    many = {
        f"d{i}": Device(name=f"d{i}", profile="linux_x86_64", address="local:") for i in range(200)
    }
    threads = ", ".join(map(str, range(1, 61)))
    plan = write(home, run=f'devices = ["profile:linux_x86_64"]\nthreads = [{threads}]')
    with pytest.raises(ConfigError, match="cells: 12,000 items; at most 10,000 are allowed"):
        prepare.decide(api.read_plan(plan), farms.Farm(devices=many))
    plan = write(
        home, run='devices = ["profile:linux_x86_64"]\n[dose]\nlaunches = 9000\nmemory_launches = 0'
    )
    with pytest.raises(ConfigError, match="launches of all cells: 1,800,000 items"):
        prepare.decide(api.read_plan(plan), farms.Farm(devices=many))


def test_cells_that_will_fail_say_why(home: Path) -> None:
    (home / "farm.toml").write_text(
        '[device.pi]\nprofile = "raspberry_pi_5"\naddress = "ssh://pi@127.0.0.1:9"\n',
        encoding="utf-8",
    )
    plan = write(
        home,
        recipes='"as_is", "as_is@gpu", "qat", "int8"',
        data='training = "evaluation.npz"',
        run='devices = ["pi"]',
    )
    rows = {row["recipe"]: row for row in api.decide(plan)}
    status = {recipe: row["status"] for recipe, row in rows.items()}
    assert (status.pop("as_is"), status.pop("as_is@gpu")) == ("planned", "unsupported")
    assert set(status.values()) == {"not_built"}
    assert "int8 needs calibration data" in rows["int8"]["reason"]
    assert rows["as_is"]["reason"] is None
    assert "profile raspberry_pi_5 has no target gpu" in rows["as_is@gpu"]["reason"]
    assert "qat takes a .keras model" in rows["qat"]["reason"]
