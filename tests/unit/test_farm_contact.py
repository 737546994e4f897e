from __future__ import annotations

import dataclasses
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import farm as farms
from harness.config import profiles
from harness.errors import ConfigError
from harness.farm import contact, toml_text
from harness.types import Detect, Device, DeviceFacts, Profile, Runtime

FACTS = DeviceFacts(
    identity="0" * 32,
    hostname="board",
    system="Linux",
    kernel="6.1",
    machine="aarch64",
    chip="brcm,bcm2711",
    board=None,
    cores=4,
    memory_total_bytes=3_980_000_000,
    libc="glibc 2.36",
    python="3.11.2",
    runtimes=(Runtime(name="ai_edge_litert", version="2.3.0"),),
    agent_digest="0" * 64,
    sensors=("thermal_zone", "cpufreq"),
    python_bits=64,
)


def reported(**changes: object) -> DeviceFacts:
    return dataclasses.replace(FACTS, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"board": "Raspberry Pi 4 Model B Rev 1.4"}, "raspberry_pi_4"),
        ({"board": "Raspberry Pi 5 Model B Rev 1.0"}, "raspberry_pi_5"),
        ({"board": "Raspberry Pi 3 Model B Plus Rev 1.3", "machine": "armv7l"}, "raspberry_pi_3"),
        ({"board": "Raspberry Pi Zero 2 W Rev 1.0"}, "raspberry_pi_zero_2w"),
        ({"board": "TI AM335x BeagleBone Black", "machine": "armv7l"}, "beaglebone"),
        ({"board": "Some Board"}, "linux_aarch64"),
        ({"machine": "x86_64", "board": None}, "linux_x86_64"),
        ({"machine": "x86_64", "usb": ("18d1:9302",)}, "coral_usb"),
        (
            {"board": "Raspberry Pi 5 Model B", "usb": ("1d6b:0002", "1a6e:089a")},
            "coral_usb",
        ),
        ({"machine": "riscv64", "board": "StarFive VisionFive V2"}, None),
    ],
)
def test_shipped_profiles_are_chosen_by_the_facts_of_a_device(
    tmp_path: Path, changes: dict[str, object], expected: str | None
) -> None:
    known = profiles.load_all(tmp_path / "none")
    assert contact.survey(reported(**changes), known) == expected


def test_a_profile_that_detects_nothing_is_never_chosen() -> None:
    known = {"any": Profile(name="any", title="Any", arch="any")}
    assert contact.survey(FACTS, known) is None


def test_the_longer_board_name_wins() -> None:
    def known(name: str, model: str) -> Profile:
        return Profile(name=name, title=name, arch="aarch64", detect=Detect(model=(model,)))

    found = {"short": known("short", "Pi 4"), "long": known("long", "Pi 4 Model B")}
    assert contact.survey(reported(board="Raspberry Pi 4 Model B Rev 1.4"), found) == "long"


def test_an_unknown_board_gets_a_profile_that_matches_it(tmp_path: Path) -> None:
    facts = reported(
        machine="riscv64",
        board='StarFive "VisionFive" V2 ü',
        chip="starfive,jh7110",
        memory_total_bytes=8_221_000_000,
    )
    profile = contact.new_profile(facts)
    assert profile.verified == "none"
    assert profile.name == "starfive_visionfive_v2"
    assert profile.memory_mb == (8221,)
    assert not profile.xnnpack
    path = contact.write_profile(tmp_path / "profiles", profile)
    assert profiles.load(path) == profile
    known = profiles.load_all(tmp_path / "profiles")
    assert contact.survey(facts, known) == profile.name
    with pytest.raises(ConfigError, match=r"does not match.*move it away"):
        contact.write_profile(tmp_path / "profiles", profile)


def test_a_32_bit_python_on_a_64_bit_kernel_is_a_32_bit_device(tmp_path: Path) -> None:
    facts = reported(board="Odd Board", python_bits=32, usb=("18d1:9302",))
    profile = contact.new_profile(dataclasses.replace(facts, accelerators=("edgetpu-usb",)))
    assert profile.arch == "armv7l"
    assert profile.targets == ("xnnpack", "edgetpu")
    shown = contact.new_profile(reported(accelerators=("vulkan-library", "gpu")))
    assert (shown.targets, shown.accelerators) == (("xnnpack", "gpu"), ())
    assert profiles.load(contact.write_profile(tmp_path, profile)) == profile


PI = Device(
    name="bench-pi",
    profile="raspberry_pi_5",
    address="ssh://pi@10.0.0.7",
    transport_options={"identity": "/home/me/my 'keys'/id"},
    dialect_options={"workdir": '/data/"work"'},
)

FARM = """\
# My lab, shelf 2.

[device.first]   # the old one
profile = "raspberry_pi_4"
address = "ssh://pi@10.0.0.6"

# The one on the bench.
[device.bench-pi]
# moved in spring
profile = "raspberry_pi_4"  # was a 4
address = "ssh://pi@10.0.0.9"
tags = ["lab-a"]
meter = "ina219"

[device.bench-pi.meter_options]
bus = 1

# The last one.
[device."third.one"]
profile = "linux_x86_64"
address = "ssh://third"
"""


def test_a_missing_farm_file_is_created(tmp_path: Path) -> None:
    path = tmp_path / "new" / "farm.toml"
    contact.write_device(path, PI)
    assert farms.load(path).devices["bench-pi"] == PI


def test_a_new_device_is_added_and_other_bytes_stay(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(FARM)
    path.chmod(0o600)
    device = dataclasses.replace(PI, name="10.0.0.8")
    contact.write_device(path, device)
    assert path.read_text().startswith(FARM)
    assert farms.load(path).devices["10.0.0.8"] == device
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["farm.toml"]


def test_a_known_device_is_updated_in_place(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(FARM)
    contact.write_device(path, PI)
    device = farms.load(path).devices["bench-pi"]
    assert (device.profile, device.address) == (PI.profile, PI.address)
    assert (device.tags, device.meter, dict(device.meter_options)) == (
        ("lab-a",),
        "ina219",
        {"bus": 1},
    )
    kept = [line for line in FARM.splitlines() if line not in path.read_text().splitlines()]
    assert kept == ['profile = "raspberry_pi_4"  # was a 4', 'address = "ssh://pi@10.0.0.9"']
    before = path.read_text()
    contact.write_device(path, PI)
    assert path.read_text() == before


def test_this_machine_is_written_without_its_default_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "farm.toml"
    contact.write_device(path, farms.this_machine())
    table = tomllib.loads(path.read_text())["device"]["this-machine"]
    assert sorted(table) == ["address", "profile"]


def test_an_option_is_updated_in_the_table_that_has_it(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(
        '[device.bench-pi]\nprofile = "raspberry_pi_4"\naddress = "ssh://old"\n'
        '[device.bench-pi.dialect_options]\nworkdir = "/old"\npython = "/opt/python3"\n'
    )
    contact.write_device(path, PI)
    device = farms.load(path).devices["bench-pi"]
    assert device.dialect_options == {"workdir": '/data/"work"', "python": "/opt/python3"}
    assert device.transport_options == {"identity": "/home/me/my 'keys'/id"}
    assert "dialect_options" in tomllib.loads(path.read_text())["device"]["bench-pi"]


@pytest.mark.parametrize(
    "text",
    [
        'device.bench-pi = { profile = "linux_x86_64", address = "local:" }\n',
        '[device.bench-pi]\nprofile = """\nlinux"""\naddress = "local:"\n',
    ],
)
def test_a_device_in_another_form_is_changed_too(tmp_path: Path, text: str) -> None:
    path = tmp_path / "farm.toml"
    path.write_text(text)
    contact.write_device(path, PI)
    assert farms.load(path).devices["bench-pi"] == PI
    assert path.read_text().startswith(text.partition("profile")[0])


def test_a_form_that_only_a_person_can_edit_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    text = 'device.bench-pi = "local:"\n'
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"only a person can edit.*\[device.bench-pi\]"):
        contact.write_device(path, PI)
    assert path.read_text() == text


def test_a_farm_file_with_invalid_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "farm.toml"
    path.write_text("[device")
    with pytest.raises(ConfigError, match=r"farm\.toml: cannot be read"):
        contact.write_device(path, PI)


VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES)
def test_every_value_survives_a_toml_round_trip(item: object) -> None:
    assert tomllib.loads(f"x = {toml_text.value(item)}\n") == {"x": item}
