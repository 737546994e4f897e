"""Which plug-ins a device has, what options they take, and what is refused before anything is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_site import install

from harness import api
from harness.config import farm as farms
from harness.config import profiles
from harness.demo import DATA
from harness.devices import opening
from harness.devices.transports.local import LocalTransport
from harness.devices.transports.ssh.options import SshOptions
from harness.errors import ConfigError
from harness.types import Device, Profile

PLUGINS = """
from dataclasses import dataclass
from pathlib import Path

from harness.devices.transports.local import LocalTransport
from harness.protocols import DialectPlugin, TransportPlugin
from harness.testing import FakeDialect


def plain(device):
    return LocalTransport()


@dataclass(frozen=True, kw_only=True)
class WireOptions:
    baud: int = 9600
    firmware: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MicroOptions:
    arena_kb: int = 64


wire = TransportPlugin(open=plain, options=WireOptions, dialect="micro")
micro = DialectPlugin(open=FakeDialect.opener(), options=MicroOptions)
"""


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    points = {
        "harness.transports": {"plain": "my_options:plain", "wire": "my_options:wire"},
        "harness.dialects": {"micro": "my_options:micro"},
    }
    with install(tmp_path / "site", "my_options", PLUGINS, points):
        yield


def device(address: str, **changes: Any) -> Device:
    return Device(name="d", profile="p", address=address, **changes)


def farm_of(folder: Path, text: str) -> farms.Farm:
    path = folder / "farm.toml"
    path.write_text(f'[device.d]\nprofile = "linux_x86_64"\n{text}\n')
    return farms.load(path)


def test_the_dialect_is_named_by_the_farm_the_profile_or_the_address() -> None:
    profile = Profile(name="p", title="P", arch="arm", dialect="micro")
    assert opening.dialect_name(device("local:")) == opening.DEFAULT_DIALECT
    assert opening.dialect_name(device("plain:x")) == opening.DEFAULT_DIALECT
    assert opening.dialect_name(device("wire:x")) == "micro"
    assert opening.dialect_name(device("local:"), profile) == "micro"
    assert opening.dialect_name(device("wire:x", dialect="json_lines"), profile) == "json_lines"


def test_a_plain_function_is_a_transport() -> None:
    transport = opening.open_transport(device("plain:x"))
    assert isinstance(transport, LocalTransport)
    assert opening.transport_options(device("plain:x")) is None
    assert opening.workdir(device("plain:x")) == "/var/tmp/edge-harness"
    transport.close()


def test_a_profile_names_the_dialect_of_a_device_in_the_farm(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "edge-harness" / "profiles"
    folder.mkdir(parents=True)
    (folder / "linux_x86_64.toml").write_text('title = "X"\narch = "x86_64"\ndialect = "micro"\n')
    found = farm_of(tmp_path, 'address = "local:"\narena_kb = 32')
    made = found.devices["d"]
    assert (made.dialect, made.dialect_options) == ("micro", {"arena_kb": 32})
    assert opening.workdir(made) is None
    own = farm_of(tmp_path, 'address = "local:"\ndialect = "json_lines"').devices["d"]
    assert own.dialect == "json_lines"


@pytest.mark.parametrize(
    "text",
    [
        'address = "wire:x"\nbaud = 115200\nfirmware = "fw/app.bin"\narena_kb = 32',
        """
        address = "wire:x"
        [device.d.transport_options]
        baud = 115200
        firmware = "fw/app.bin"
        [device.d.dialect_options]
        arena_kb = 32
        """,
        """
        address = "wire:x"
        baud = 115200
        arena_kb = 32
        [device.d.transport_options]
        firmware = "fw/app.bin"
        """,
    ],
)
def test_options_are_keys_or_tables(text: str, tmp_path: Path) -> None:
    made = farm_of(tmp_path, text).devices["d"]
    assert made.transport_options == {"baud": 115200, "firmware": str(tmp_path / "fw" / "app.bin")}
    assert made.dialect_options == {"arena_kb": 32}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('address = "wire:x"\nidentity = "k"', 'device.d: unknown key "identity"'),
        ('address = "local:"\nidentity = "k"', 'device.d: unknown key "identity"'),
        ('address = "wire:x"\npython = "p"', 'device.d: unknown key "python"'),
        ('address = "wire:x"\nbuad = 1', 'device.d: unknown key "buad"; did you mean "baud"?'),
        ('address = "wire:x"\nbaud = "1"', 'device.d.baud: must be a whole number, not "1"'),
        (
            'address = "wire:x"\ntransport_options = { buad = 1 }',
            'device.d.transport_options: unknown key "buad"; did you mean "baud"?',
        ),
        (
            'address = "wire:x"\ntransport_options = { baud = "1" }',
            'device.d.transport_options.baud: must be a whole number, not "1"',
        ),
        (
            'address = "wire:x"\nbaud = 1\ntransport_options = { baud = 1 }',
            "device.d: baud is given twice, here and in transport_options",
        ),
        ('address = "local:"\npython = "-x"', "device.d.python: '-x' is not a path"),
        ('address = "plain:x"\ntransport_options = { a = 1 }', 'unknown key "a"'),
        (
            'address = "local:"\ntransport_options = 3',
            "device.d.transport_options: must be a table",
        ),
        (
            'address = "local:"\ndialect = "json_line"',
            'device.d.dialect: unknown dialect "json_line"; did you mean "json_lines"? (known: ',
        ),
        ('identity = "k"', 'device.d: the key "address" is missing'),
        ('adress = "local:"', 'device.d: unknown key "adress"; did you mean "address"?'),
    ],
)
def test_an_option_that_nobody_has_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        farm_of(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'farm.toml'}: ")
    assert message in str(caught.value)


def test_options_can_be_changed_in_python() -> None:
    changed = opening.with_options(device("ssh://pi@h"), identity="~/k", python="/opt/python3")
    assert SshOptions.of(changed).identity == Path("~/k")
    assert changed.dialect_options == {"python": "/opt/python3"}
    assert opening.with_options(changed, identity=None).transport_options == {}
    with pytest.raises(ConfigError, match='d: unknown key "identiy"; did you mean "identity"'):
        opening.with_options(device("ssh://pi@h"), identiy="k")
    with pytest.raises(ConfigError, match="d: workdir: '-w' is not a path"):
        opening.with_options(device("ssh://pi@h"), workdir="-w")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "serial:/dev/x",
            'd: address "serial:/dev/x": this version has no transport for serial: yet; addresses start',
        ),
        ("serial:/dev/ttyACM0?baud=1", "no transport for serial: yet"),
        ("qemu:mps2", "no transport for qemu: yet"),
        ("shh://pi@h", 'unknown scheme "shh"; did you mean "ssh"?'),
    ],
)
def test_a_scheme_without_a_transport_is_named_with_the_known_ones(
    address: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        opening.check(device(address))
    assert message in str(caught.value)
    assert "adb:, local:, plain:, ssh:, wire:" in str(caught.value)


def test_a_profile_with_an_unknown_dialect_is_refused_when_it_is_used() -> None:
    profile = Profile(name="p", title="P", arch="arm", dialect="micro_2")
    with pytest.raises(ConfigError, match='d: unknown dialect "micro_2"; did you mean "micro"'):
        opening.check(device("local:"), profile)


MIXED = """
[device.phone]
profile = "linux_aarch64"
address = "serial:/dev/R5CT1234"
package = "of a transport to come"
[device.here]
profile = "linux_x86_64"
address = "local:"
"""
PLAN = f"""
[model]
path = "{DATA / "digits.tflite"}"
[run]
recipes = ["as_is"]
devices = ["phone"]
[dose]
launches = 1
min_seconds = 0.01
[search]
space = ["dynamic"]
device = "phone"
objectives = ["size_bytes"]
trials = 1
"""


@pytest.fixture(name="mixed")
def _mixed(tmp_path: Path) -> farms.Farm:
    path = tmp_path / "farm.toml"
    path.write_text(MIXED)
    (tmp_path / "plan.toml").write_text(PLAN)
    return farms.load(path)


ASKED: dict[str, Callable[[farms.Farm], object]] = {
    "run": lambda farm: api.run("plan.toml", farm=farm),
    "dry run": lambda farm: api.decide("plan.toml", farm=farm),
    "bench": lambda farm: api.bench([DATA / "digits.tflite"], on=["serial:R5CT1234"], farm=farm),
    "bench a device": lambda farm: api.bench([DATA / "digits.tflite"], on=["phone"], farm=farm),
    "gate": lambda farm: api.gate("plan.toml", baseline="as_is", candidate="as_is", farm=farm),
    "selftest": lambda farm: api.selftest("phone", farm=farm),
    "search": lambda farm: api.search("plan.toml", farm=farm),
    "setup": lambda farm: api.setup("phone", farm=farm),
    "add": lambda _: api.add("serial:R5CT1234"),
    "doctor": lambda farm: api.doctor(["phone"], farm=farm),
    "devices": lambda farm: api.devices(["phone"], farm=farm),
}


@pytest.mark.parametrize("asked", list(ASKED))
def test_an_address_that_cannot_be_reached_is_refused_before_anything_is_built(
    asked: str, mixed: farms.Farm, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no transport for serial: yet"):
        ASKED[asked](mixed)
    assert not list(tmp_path.rglob("run.json"))
    assert not (tmp_path / "cache" / "build").exists()


def test_layers_of_a_device_that_cannot_be_reached_any_more(
    mixed: farms.Farm, tmp_path: Path
) -> None:
    before = farms.with_device(mixed, dataclasses.replace(mixed.devices["here"], name="phone"))
    with api.run("plan.toml", farm=before, results=tmp_path / "runs") as going:
        for _ in going:
            pass
    with pytest.raises(ConfigError, match="phone: .*no transport for serial: yet"):
        api.layers([going.id], farm=mixed, results=tmp_path / "runs")


def test_among_others_such_a_device_is_a_row_of_its_own(mixed: farms.Farm) -> None:
    phone, here = api.devices(["phone", "here"], farm=mixed)
    assert (phone["status"], here["status"]) == ("config", "ready")
    assert "no transport for serial: yet" in phone["reason"]
    checks = api.doctor(["phone", "here"], farm=mixed)
    (reachable, *rest) = checks["phone"]
    assert (reachable.name, reachable.status) == ("reachable", "fail")
    assert {check.status for check in rest} == {"skip"}
    assert {check.name: check.status for check in checks["here"]}["agent"] == "ok"


def test_the_shipped_profiles_leave_dialect_and_target_to_the_defaults() -> None:
    for profile in profiles.load_all().values():
        assert (profile.dialect, profile.default_target) == (None, "xnnpack")
