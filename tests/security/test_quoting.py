"""No text of a plan or a farm file reaches a shell unquoted, here or on a device."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import api
from harness.config import farm as farms
from harness.config.farm import Farm
from harness.config.plans import load as load_plan
from harness.demo import DATA
from harness.demo.loopback_sshd import LoopbackSshd
from harness.devices import opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import ConfigError, HarnessError
from harness.measure.sessions import Session
from harness.types import Device

DeviceOn = Callable[[LoopbackSshd], Device]

NAMES = (
    (
        'it\'s a "work" dir $(touch pwned) `touch pwned`; touch pwned #\ntouch pwned\n'
        " && touch pwned || *?[!a]~ %s %n {} \\ \\\\ \u00fc \U0001f600"
    ),
    "-rf",
)
"""Characters that a shell interprets; a name cannot contain slashes."""


@pytest.fixture(params=NAMES)
def named(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def biting(device: Device, named: str, folder: Path) -> Device:
    """The same device with that name in the paths of its Python and its work folder."""
    place = folder / "bin" / named
    place.mkdir(parents=True)
    python = place / f"python {named}"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    return opening.with_options(device, python=str(python), workdir=str(folder / "w" / named / "x"))


def all_verbs(device: Device) -> None:
    """Run every command that runs commands there: doctor (with a launch), devices, clean."""
    farm = Farm(devices={device.name: device})
    checks = api.doctor(farm=farm)[device.name]
    assert not [check for check in checks if check.status == "fail"], checks
    assert {check.name: check.status for check in checks}["xnnpack"] == "ok"
    assert Path(AgentOptions.of(device).workdir).is_dir()
    assert api.devices(farm=farm)[0]["status"] in {"ready", "busy"}
    assert api.clean(farm=farm)[0]["status"] == "cleaned"
    assert not Path(AgentOptions.of(device).workdir).exists()


def test_over_a_real_sshd(named: str, ssh_device: Device, tmp_path: Path) -> None:
    all_verbs(biting(ssh_device, named, tmp_path))
    # A remote command runs in the account's home, a local one in the test's own folder.
    assert not list(tmp_path.rglob("pwned"))
    assert not (Path("~").expanduser() / "pwned").exists()


def test_on_this_machine(named: str, tmp_path: Path) -> None:
    all_verbs(biting(farms.this_machine(), named, tmp_path))
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("key", ["workdir", "python"])
@pytest.mark.parametrize("value", ["/a\\u0000b", "-rf", ""])
def test_what_no_path_can_hold_is_refused_at_the_door(key: str, value: str, tmp_path: Path) -> None:
    farm = tmp_path / "farm.toml"
    farm.write_text(
        f'[device.a]\nprofile="linux_x86_64"\naddress="ssh://pi@127.0.0.1"\n{key}="{value}"\n'
    )
    with pytest.raises(ConfigError, match=rf"device.a.{key}"):
        farms.load(farm)


def test_a_nul_that_came_by_the_api_is_an_error_of_ours(ssh_device: Device, tmp_path: Path) -> None:
    for device in (ssh_device, farms.this_machine()):
        for key in ("workdir", "python"):
            with pytest.raises(HarnessError):
                Session(opening.with_options(device, **{key: "/a\0b"}))


@pytest.mark.parametrize(
    "name", ["../up", "/abs", "a/b", "..", ".", "a\\u0000b", "", "a b;c", "-x"]
)
def test_names_of_devices_are_names(name: str, tmp_path: Path) -> None:
    farm = tmp_path / "farm.toml"
    farm.write_text(f'[device."{name}"]\nprofile="linux_x86_64"\naddress="local:"\n')
    with pytest.raises(ConfigError):
        farms.load(farm)


MODEL_NAMES = ("a..b", "$(touch pwned) a'b\\\"c con<b>", "x -rf")


def test_names_of_models_stay_in_the_runs_folder(tmp_path: Path) -> None:
    """Measure and show; no file is written outside the results folder and the cache."""
    folder = tmp_path / "plan"
    folder.mkdir()
    shutil.copy(DATA / "digits.tflite", folder)
    plan = folder / "plan.toml"
    models = "".join(f'[[model]]\nname="{name}"\npath="digits.tflite"\n' for name in MODEL_NAMES)
    plan.write_text(
        f'{models}[run]\nrecipes=["as_is"]\ndevices=["this-machine"]\n'
        "[dose]\nlaunches=1\nmin_inferences=5\nmin_seconds=0.01\nwarmup_seconds=0.0\n"
    )
    before = set(tmp_path.rglob("*"))
    results = tmp_path / "results"
    with api.run(plan, results=results) as run:
        outcomes = list(run)
    assert len(outcomes) == len(MODEL_NAMES)
    assert not [outcome.failure for outcome in outcomes if outcome.failure]
    page = api.report(run.id, results=results)
    assert results in Path(page).resolve().parents
    made = {path for path in tmp_path.rglob("*") if path not in before}
    allowed = (results, tmp_path / "cache")
    assert not [path for path in made if not any(a == path or a in path.parents for a in allowed)]
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", ["a\\u0000b", "a\\nb", "../../up", "/abs/olute"])
def test_what_is_no_name_of_a_model_is_refused(name: str, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    shutil.copy(DATA / "digits.tflite", tmp_path)
    plan.write_text(
        f'[model]\nname="{name}"\npath="digits.tflite"\n'
        '[run]\nrecipes=["as_is"]\ndevices=["this-machine"]\n'
    )
    with pytest.raises(ConfigError):
        load_plan(plan)
