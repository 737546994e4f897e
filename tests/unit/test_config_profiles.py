import re
from pathlib import Path

import pytest

from harness import assets
from harness.config import profiles, schema
from harness.errors import ConfigError

SHIPPED = [
    "beaglebone",
    "coral_dev_board",
    "coral_usb",
    "galaxy_s23",
    "galaxy_s24",
    "galaxy_s25",
    "jetson_orin_nano",
    "linux_aarch64",
    "linux_x86_64",
    "pixel_10",
    "pixel_6",
    "pixel_7",
    "pixel_8",
    "pixel_9",
    "raspberry_pi_3",
    "raspberry_pi_4",
    "raspberry_pi_5",
    "raspberry_pi_zero_2w",
    "redmi_6a",
    "redmi_note_12",
]
SMALL = 'title = "A board"\narch = "riscv64"\n'


def write(folder: Path, text: str, name: str = "board") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_shipped_profile_loads(tmp_path: Path) -> None:
    assert set(SHIPPED) <= set(profiles.load_all(tmp_path))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_fact_of_hardware_has_its_source(name: str, tmp_path: Path) -> None:
    profile = profiles.get(name, profiles.load_all(tmp_path))
    for fact in ("chip", "cores", "memory_mb", "accelerators"):
        if getattr(profile, fact):
            assert profile.sources.get(fact), f"{name}: {fact} has no source"
    assert profile.runtimes
    assert "xnnpack" in profile.targets
    assert profile.detect.machine or profile.detect.usb


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_names_the_schema_for_editors(name: str) -> None:
    text = (assets.profiles() / f"{name}.toml").read_text(encoding="utf-8")
    assert text.startswith("#:schema schema.json\n")


def test_32_bit_raspberry_pi_3_is_known_by_either_machine(tmp_path: Path) -> None:
    assert set(profiles.get("raspberry_pi_3").detect.machine) == {"aarch64", "armv7l"}


def test_the_schema_is_current() -> None:
    committed = (assets.profiles() / schema.FILE_NAME).read_text(encoding="utf-8")
    assert committed == schema.text(), "run: python -m harness.config.schema"


def test_the_schema_can_be_written(tmp_path: Path) -> None:
    assert schema.write(tmp_path).read_text(encoding="utf-8") == schema.text()


def test_a_profile_of_the_user_is_added_and_replaces_ours(tmp_path: Path) -> None:
    write(tmp_path, SMALL)
    write(tmp_path, SMALL, "raspberry_pi_5")
    known = profiles.load_all(tmp_path)
    assert known["board"].title == "A board"
    assert known["board"].name == "board"
    assert known["raspberry_pi_5"].arch == "riscv64"
    assert list(known) == sorted(known)


def test_the_users_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "edge-harness" / "profiles"
    folder.mkdir(parents=True)
    write(folder, SMALL)
    assert profiles.get("board").arch == "riscv64"


def test_an_unknown_profile_says_which_was_meant() -> None:
    with pytest.raises(ConfigError, match='unknown profile "raspbery_pi_5"; did you mean "ras'):
        profiles.get("raspbery_pi_5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL + "tragets = []", 'unknown key "tragets"; did you mean "targets"? (known: acc'),
        (SMALL + "[[cores]]\ncount = 4\nname = 'A'\nmhz = 3", 'cores[0]: unknown key "mhz"'),
        (SMALL + "[thermal]\nwithin = 1", 'thermal: unknown key "within"; did you mean "within_c'),
        (SMALL + "memory_mb = [1.5]", "memory_mb[0]: "),
        (SMALL + "memory_mb = 1074", "memory_mb: must be an array, not 1074"),
        (SMALL + "xnnpack = 1", "xnnpack: must be true or false, not 1"),
        (SMALL + "verified = 'yes'", "verified: must be none, emulated or hardware (RUN, YYYY"),
        (SMALL + "verified = 'hardware'", "verified: must be"),
        (SMALL + "verified = 2020-01-01", "verified: must not be a date or time"),
        (SMALL + "name = 'other'", 'name: must be the name of the file, "board"'),
        (SMALL + "[sources]\nchipp = 'x'", 'sources: unknown field "chipp"; did you mean "chip"'),
        (SMALL + "[[accelerators]]\nname='N'\ntarget='npu'", "accelerators[0].target: "),
        (
            SMALL + "[[accelerators]]\nname='N'\ntarget='xnnpack'\ndelegate='x.so'",
            'accelerators[0]: unknown key "delegate"; did you mean "external_delegate"',
        ),
        (
            SMALL + "[[accelerators]]\nname='N'\ntarget='xnnpack'\noptions={a=1}",
            "accelerators[0].options.a: must be text in quotes, not 1",
        ),
        ("arch = 'x'", 'the key "title" is missing'),
        ("title = ", "not valid TOML: Invalid value (at line 1, the end of the file)"),
        ("title = 'x'\narch = [", "(at line 2"),
    ],
)
def test_a_bad_profile_is_one_line_with_file_key_and_way_out(
    text: str, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        profiles.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_verified_on_hardware_names_run_and_date(tmp_path: Path) -> None:
    text = SMALL + 'verified = "hardware (20261122-kws-1a2b3c, 2026-11-22)"'
    assert profiles.load(write(tmp_path, text)).verified.startswith("hardware (")


def test_a_profile_that_is_not_utf_8_or_not_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(b'title = "\xff"')
    with pytest.raises(ConfigError, match="not UTF-8 text \\(byte 9\\)"):
        profiles.load(path)
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        profiles.load(folder)
    with pytest.raises(ConfigError, match="there is no such file"):
        profiles.load(tmp_path / "none.toml")


def test_profiles_by_name_are_read_alone(tmp_path: Path) -> None:
    write(tmp_path, SMALL, "mine")
    write(tmp_path, "title = 3", "broken")
    found = profiles.load_named({"mine", "raspberry_pi_5", "nonesuch", "../mine"}, tmp_path)
    assert sorted(found) == ["mine", "raspberry_pi_5"]
    assert found["raspberry_pi_5"] == profiles.load(assets.profiles() / "raspberry_pi_5.toml")
    with pytest.raises(ConfigError, match="broken"):
        profiles.load_named({"broken"}, tmp_path)
    with pytest.raises(ConfigError, match="broken"):
        profiles.load_all(tmp_path)


def test_an_own_profile_replaces_the_shipped_one(tmp_path: Path) -> None:
    write(tmp_path, SMALL, "raspberry_pi_5")
    for known in (profiles.load_all(tmp_path), profiles.load_named({"raspberry_pi_5"}, tmp_path)):
        assert known["raspberry_pi_5"].arch == "riscv64"
