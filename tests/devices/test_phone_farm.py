"""add, doctor and a run on a phone behind a real adbd."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import phones
from standins.boards import EXECUTED, executes
from standins.phones import BATTERY, THERMAL, Phone, Server

from harness.devices.by_shell import android
from harness.devices.transports.adb.transport import open_adb
from harness.farm import adding, checks, doctor
from harness.farm.android import checks as phone_checks
from harness.farm.checks import CheckResult
from harness.farm.device_under_test import DeviceUnderTest
from harness.protocols import Channel, Reply
from harness.types import Device

sys.path.insert(0, str(ROOT / "tests" / "integration"))
from edge_command import edge


def examined(phone: Phone, *names: str) -> Mapping[str, CheckResult]:
    dut = DeviceUnderTest(device=phone.device, open_transport=open_adb)
    chosen = [
        one for one in doctor.CHECKS if one.name in {"reachable", "commands", "files", *names}
    ]
    try:
        return {one.name: one for one in checks.run(chosen, dut)}
    finally:
        if dut.transport is not None:
            dut.transport.close()


PHONE = ("adb", *(one.name for one in doctor.PHONE))


def test_a_phone_in_order(pixel: Phone) -> None:
    found = examined(pixel, *PHONE)
    assert {name: one.status for name, one in found.items() if one.status != "ok"} == {}
    assert "Google Pixel 6, Tensor, Android 14 (API level 34)" in found["api_level"].found
    assert "arm64-v8a" in found["abi"].found
    assert "pages of 4096 bytes" in found["abi"].found
    # The cached block above says 61 degrees.
    assert found["heat"].found == "thermal status none, skin 31.5 °C"
    assert found["charge"].found == "83 %, charging, 27.1 °C"


@pytest.fixture
def changed(pixel: Phone) -> Any:
    """Change files of the phone for one test."""
    before: dict[Path, str] = {}

    def change(name: str, **words: str) -> None:
        path = pixel.root / name
        before.setdefault(path, path.read_text())
        text = path.read_text()
        for old, new in words.values():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    yield change
    for path, text in before.items():
        path.write_text(text)


@pytest.mark.parametrize(
    ("check", "change", "status", "found"),
    [
        ("heat", ("Thermal Status: 0", "Thermal Status: 3"), "warn", "severe"),
        ("heat", ("Thermal Status", "No Status"), "skip", "not known"),
        ("charge", ("level: 83", "level: 9"), "warn", "9 %"),
        ("charge", ("temperature: 271", "temperature: 402"), "warn", "40.2"),
        ("charge", ("level: 83", "nothing: 1"), "skip", "not known"),
    ],
)
def test_what_dumpsys_says(  # noqa: PLR0917 - parameters of pytest
    pixel: Phone, changed: Any, check: str, change: tuple[str, str], status: str, found: str
) -> None:
    file = {"heat": "thermalservice", "charge": "battery"}[check]
    changed(f"system/etc/standin-dumpsys-{file}", one=change)
    result = examined(pixel, "api_level", check)[check]
    assert (result.status, found in result.found) == (status, True)
    assert (result.fix is not None) == (status == "warn")


def test_an_old_android_and_another_processor(pixel: Phone, changed: Any) -> None:
    properties = {"one": ("sdk=34", "sdk=29"), "two": ("arm64-v8a", "armeabi-v7a")}
    changed("system/build.prop", **properties)
    found = examined(pixel, "api_level", "abi")
    assert (found["api_level"].status, found["api_level"].fix is not None) == ("fail", True)
    changed("system/build.prop", one=("sdk=29", "sdk=34"))
    assert examined(pixel, "api_level", "abi")["abi"].status == "warn"


def test_a_folder_that_runs_no_programs(pixel: Phone) -> None:
    with_mount = ["mount", "-t", "tmpfs", "-o", "noexec", "none", phones.WORKDIR]
    transport = open_adb(pixel.device)
    try:
        transport.run(["mkdir", "-p", phones.WORKDIR], 10)
        assert transport.run(with_mount, 10).exit_code == 0
        try:
            result = examined(pixel, "api_level", "runs_programs")["runs_programs"]
        finally:
            transport.run(["umount", phones.WORKDIR], 10)
    finally:
        transport.close()
    assert result.status == "fail"
    assert "no program runs from" in result.found
    assert "SELinux" in result.found


@executes("own-adb-server")
def test_a_server_of_another_version_gets_a_setting_that_works(
    pixel: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phone_checks, "_program_version", lambda: 40)
    result = examined(pixel, "adb")["adb"]
    assert (result.status, "`adb` here is version 40" in result.found) == ("warn", True)
    assert result.fix is not None
    port = result.fix.setting["adb_server"].rpartition(":")[2]
    monkeypatch.undo()
    EXECUTED.add(result.fix.kind.id)
    server = Server(port=int(port), home=pixel.server.home)
    again = Phone(port=pixel.port, folder=pixel.folder, server=server)
    try:
        assert examined(again, "adb")["adb"].status == "ok"
    finally:
        server.stop()


def test_a_phone_is_added_by_its_shell_alone(pixel: Phone, home: Path, tmp_path: Path) -> None:
    farm = tmp_path / "farm.toml"
    entry = f'[device.pixel]\nprofile = "unknown"\naddress = "{pixel.address}"\n'
    farm.write_text(f'{entry}adb_server = "127.0.0.1:{pixel.server.port}"\n')
    added = adding.add(pixel.address, name="pixel", farm=farm)
    assert added.facts["board"] == "Google Pixel 6"
    assert "Google Pixel 6" in added.text()
    assert added.device.profile != "linux_x86_64"
    written = tomllib.loads(farm.read_text())["device"]["pixel"]
    assert written["address"] == pixel.address
    assert written["profile"] == added.device.profile
    again = adding.add(pixel.address, name="pixel", farm=farm)
    assert again.device.profile == added.device.profile


def test_a_run_on_a_phone_with_python_gives_a_row(pixel: Phone, tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text(f"""
[device.pixel]
profile = "linux_x86_64"
address = "{pixel.address}"
adb_server = "127.0.0.1:{pixel.server.port}"
dialect = "json_lines"
python = {json.dumps(sys.executable)}
""")
    (tmp_path / "plan.toml").write_text(f"""
[model]
path = "{ROOT / "harness/demo/data/digits.tflite"}"
[run]
recipes = ["as_is"]
devices = ["pixel"]
[dose]
launches = 1
min_inferences = 5
min_seconds = 0.01
warmup_seconds = 0.0
""")
    found = edge(tmp_path, "run", "plan.toml", "--json", cwd=tmp_path)
    (row,) = found["rows"]
    assert (row["device"], row["status"]) == ("pixel", "ok")
    assert row["latency_p50_ms"] > 0


@given(st.binary(max_size=600))
@settings(max_examples=200)
def test_any_bytes_are_a_phone_or_none(data: bytes) -> None:
    lead = b"edge-harness-phone properties\nro.serialno=X\nedge-harness-phone end\n"
    assert android.read(data) is None or b"ro.serialno" in data
    parts = (b"space", b"cores", b"memory", b"thermal", b"battery", b"page", b"uname")
    for part in parts:
        found = android.read(lead + b"edge-harness-phone " + part + b"\n" + data)
        assert found is not None
        assert found.facts().identity == android.read(lead).identity  # type: ignore[union-attr]


@given(st.binary(max_size=200), st.integers(0, 255))
def test_whatever_a_program_that_may_not_run_prints_is_shown_plainly(
    data: bytes, code: int
) -> None:
    class Saying:
        def run(
            self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None
        ) -> Reply:
            return Reply(argv=tuple(argv), exit_code=code, stdout=data, stderr=data, seconds=0.1)

        def talk(self, argv: Sequence[str]) -> Channel:
            raise NotImplementedError

        def close(self) -> None: ...

    device = Device(name="p", profile="p", address="adb:S")
    dut = DeviceUnderTest(device=device, transport=Saying())
    dut.android = android.Android(serial="S", model="M")
    found = phone_checks.runs_programs.examine(dut)
    assert (found.status == "ok") == (code == 42)
    assert found.found.isprintable()


@given(st.lists(st.sampled_from([*THERMAL.splitlines(), *BATTERY.splitlines()]), max_size=40))
def test_lines_in_any_order_give_only_temperatures_that_can_be(lines: list[str]) -> None:
    for one in android.temperatures(lines):
        assert -50 < one.celsius < 100
