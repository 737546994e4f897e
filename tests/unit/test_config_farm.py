import platform
import re
from pathlib import Path

import pytest

from harness.config import farm
from harness.config.templates import TEMPLATE_FARM
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.ssh.options import SshOptions
from harness.errors import ConfigError

FARM = """
[device.pi-a]
profile = "raspberry_pi_5"
address = "ssh://pi@10.0.0.7:22"
identity = "keys/id_ed25519"
known_hosts = "~/known"
tags = ["lab-a", "fast"]

[device.pi-b]
profile = "raspberry_pi_5"
address = "ssh://[::1]"
tags = ["lab-a"]
meter = "ina219"
[device.pi-b.meter_options]
bus = 1
rails = ["5V"]

[device.old]
profile = "raspberry_pi_3"
address = "ssh://old"
"""


SMALL = '[device.a]\nprofile="linux_x86_64"\naddress="local:"\n'


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def written(folder: Path, text: str = FARM) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "farm.toml"
    path.write_text(text, encoding="utf-8")
    return path


def names(found: farm.Farm, *selectors: str, busy: tuple[str, ...] = ()) -> list[str]:
    return [device.name for device in farm.select(found, selectors, busy)]


def test_this_machine_exists_without_any_file(tmp_path: Path) -> None:
    found = farm.load()
    assert found.path is None
    device = found.devices["this-machine"]
    assert device.address == "local:"
    assert device.profile == f"linux_{platform.machine()}"
    assert AgentOptions.of(device).workdir == str(tmp_path / "cache" / "device")


def test_a_farm_is_found_in_the_promised_order(tmp_path: Path) -> None:
    own = written(tmp_path / "config" / "edge-harness")
    assert farm.load(beside=tmp_path / "nowhere" / "plan.toml").path == own
    beside = written(tmp_path / "project")
    assert farm.load(beside=tmp_path / "project" / "plan.toml").path == beside
    assert farm.load(beside=tmp_path / "project").path == beside
    explicit = written(tmp_path / "other")
    assert farm.load(explicit, tmp_path / "project").path == explicit
    with pytest.raises(ConfigError, match="there is no such file"):
        farm.load(tmp_path / "none.toml", tmp_path / "project")
    here = written(tmp_path / "here")
    assert farm.load().path == here
    assert farm.load(beside=tmp_path / "nowhere" / "plan.toml").path == here
    assert farm.load(beside=tmp_path / "project" / "plan.toml").path == beside


def test_a_file_without_devices_hides_no_other(tmp_path: Path) -> None:
    own = written(tmp_path / "config" / "edge-harness")
    empty = written(tmp_path / "here", TEMPLATE_FARM)
    assert farm.load().path == own
    assert farm.load(beside=tmp_path / "here").path == own
    assert farm.file_to_write() == own
    own.unlink()
    assert farm.load().path == empty
    assert farm.file_to_write() == empty
    empty.unlink()
    assert farm.file_to_write() == own


def test_only_the_file_that_is_found_must_be_valid(tmp_path: Path) -> None:
    written(tmp_path / "config" / "edge-harness", "not toml")
    here = written(tmp_path / "here", SMALL)
    assert farm.load().path == here
    here.unlink()
    with pytest.raises(ConfigError, match="edge-harness/farm.toml: not valid TOML"):
        farm.load()


def test_an_unknown_device_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as none:
        farm.select(farm.load(), ["pi"])
    looked = (tmp_path / "here" / "farm.toml", tmp_path / "config" / "edge-harness" / "farm.toml")
    assert all(str(path) in str(none.value) for path in looked)
    own = written(tmp_path / "config" / "edge-harness")
    here = written(tmp_path / "here", SMALL)
    with pytest.raises(ConfigError) as found:
        farm.select(farm.load(), ["pi-a"])
    assert str(found.value).startswith(f"{here}: unknown device")
    assert f"{own} has it, but {here} comes first: use --farm {own}" in str(found.value)


def test_devices_are_read_whole(tmp_path: Path) -> None:
    found = farm.load(written(tmp_path))
    assert list(found.devices) == ["pi-a", "pi-b", "old", "this-machine"]
    device = found.devices["pi-a"]
    assert SshOptions.of(device).identity == tmp_path / "keys" / "id_ed25519"
    assert SshOptions.of(device).known_hosts == tmp_path / "home" / "known"
    assert AgentOptions.of(device).python == "python3"
    assert AgentOptions.of(device).workdir == "/var/tmp/edge-harness-pi", "one per account"
    assert found.devices["pi-b"].meter_options == {"bus": 1, "rails": ["5V"]}


def test_this_machine_can_be_described_in_the_file(tmp_path: Path) -> None:
    text = '[device.this-machine]\nprofile = "linux_x86_64"\naddress = "local:"\nworkdir = "~/w"'
    device = farm.load(written(tmp_path, text)).devices["this-machine"]
    assert AgentOptions.of(device).workdir == str(tmp_path / "home" / "w")


def test_selectors_unite_and_name_a_device_once(tmp_path: Path) -> None:
    found = farm.load(written(tmp_path))
    assert names(found, "old") == ["old"]
    assert names(found, "profile:raspberry_pi_5", "pi-a") == ["pi-a", "pi-b"]
    assert names(found, "tag:fast", "tag:lab-a") == ["pi-a", "pi-b"]
    assert names(found, "any:1 of tag:lab-a", "this-machine") == ["pi-a", "this-machine"]


def test_any_takes_those_that_are_not_busy_first(tmp_path: Path) -> None:
    found = farm.load(written(tmp_path))
    assert names(found, "any:1 of tag:lab-a", busy=("pi-a",)) == ["pi-b"]
    assert names(found, "any:2 of tag:lab-a", busy=("pi-a",)) == ["pi-b", "pi-a"]


def test_matching_keeps_the_order_of_the_devices_and_needs_no_match(tmp_path: Path) -> None:
    devices = list(farm.load(written(tmp_path)).devices.values())
    found = farm.matching(devices, ["old", "any:1 of tag:lab-a", "tag:none"])
    assert [device.name for device in found] == ["pi-a", "old"]


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("pi-c", 'unknown device "pi-c"; did you mean "pi-'),
        ("profile:raspbery_pi_5", 'did you mean "profile:raspberry_pi_5"'),
        ("tag:lab-b", 'did you mean "tag:lab-a"'),
        ("any:1 of tag:none", 'unknown device "tag:none"'),
        ("any:3 of tag:lab-a", '"any:3 of tag:lab-a": only 2 match: pi-a, pi-b'),
        ("any:0 of tag:lab-a", "is not a selector; write any:2 of"),
        ("any:two of tag:lab-a", "is not a selector"),
        ("any:1 of any:1 of tag:lab-a", "is not a selector"),
        ("pi@10.0.0.7", "an address is written ssh://pi@10.0.0.7"),
    ],
)
def test_a_selector_that_matches_nothing_is_refused(
    selector: str, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(message)):
        farm.select(farm.load(path), [selector])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[devices.a]", 'unknown key "devices"; did you mean "device"'),
        ("device = 3", "device: must be tables [device.NAME]"),
        ("[device]\na = 3", "device.a: must be a table"),
        ('[device.a]\nprofile="linux_x86_64"\nadress="local:"', 'device.a: unknown key "adress"; '),
        ('[device.a]\nprofile="linux_x86_64"', 'device.a: the key "address" is missing'),
        ('[device.a]\nname="b"', 'device.a: unknown key "name"; the name is written as'),
        ('[device."a b"]\nprofile="x"', '"a b" is not a name of a device'),
        (
            '[device.a]\nprofile="raspberrypi_5"\naddress="local:"',
            'device.a.profile: unknown profile "raspberrypi_5"; did you mean "raspberry_pi_5"',
        ),
        (
            '[device.a]\nprofile="linux_x86_64"\naddress="ssh://h:99999"',
            "device.a.address: not of the form ssh://user@host:port",
        ),
        (
            '[device.a]\nprofile="linux_x86_64"\naddress="local:"\ntags="lab"',
            'device.a.tags: must be an array, not "lab"',
        ),
        (
            SMALL + 'delegate_options={edgetpu={device="usb1"}}',
            'device.a.delegate_options.edgetpu.device: "usb1" is not an Edge TPU; write usb:0',
        ),
        (
            SMALL + "delegate_options={edgetpu={device=1}}",
            "device.a.delegate_options.edgetpu.device: must be text in quotes, not 1",
        ),
        ("[device.a", "not valid TOML"),
    ],
)
def test_a_bad_farm_is_one_line_with_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        farm.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pi@10.0.0.7", 'did you mean "ssh://pi@10.0.0.7"?'),
        ("nonsense", "is not an address; write local:"),
        ("local:here", 'nothing may follow "local:"'),
        ("ssh:", 'the device must follow "ssh:"'),
        ("ssh://", "the device must follow"),
        ("ssh:pi@host", 'a host must follow "ssh://"'),
        ("ssh://pi@", 'a host must follow "ssh://"'),
        ("ssh://pi@host:0", "the port must be 1 to 65535"),
        ("ssh://pi@host:x", "port 1 to 65535"),
        ("ssh://[::1", "not of the form"),
        ("ssh://pi@host/home", "nothing may follow the port"),
    ],
)
def test_a_bad_address_is_explained(uri: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        farm.from_uri(uri)


def test_a_password_is_refused_and_never_printed() -> None:
    with pytest.raises(ConfigError, match="no password in an address") as caught:
        farm.from_uri("ssh://pi:geheim@host")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("local:", "this-machine"),
        ("ssh://pi@10.0.0.7", "10.0.0.7"),
        ("ssh://pi@10.0.0.7:22", "10.0.0.7"),
        ("ssh://pi@127.0.0.1:2222", "127.0.0.1-2222"),
        ("ssh://[fe80::1]", "fe80-1"),
        ("adb:R5CT1234", "R5CT1234"),
        ("adb:", "phone"),
        ("adb:10.0.0.9:5555", "10.0.0.9-5555"),
        ("serial:/dev/ttyACM0?baud=115200", "dev-ttyACM0"),
    ],
)
def test_an_address_alone_is_a_device(uri: str, name: str) -> None:
    device = farm.from_uri(uri)
    assert device.name == name
    assert device.address == uri
    assert farm.from_uri(uri, "mine").name == "mine"


def test_a_device_of_an_address_can_join_a_farm(tmp_path: Path) -> None:
    device = farm.from_uri("ssh://pi@host")
    assert device.profile == farm.UNKNOWN_PROFILE
    found = farm.with_device(farm.load(written(tmp_path)), device)
    assert names(found, "host", "pi-a") == ["host", "pi-a"]


def test_the_users_own_file_is_in_the_configuration_folder(tmp_path: Path) -> None:
    assert farm.default_file() == tmp_path / "config" / "edge-harness" / "farm.toml"
