"""Stable conditions: temperature, plateau, processors, governor, with real shells and plain files."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.devices.transports.local import open_local
from harness.measure import pinning, thermal
from harness.testing import FakeDialect, FakeTransport
from harness.types import Device, DeviceFacts, ThermalPolicy


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def cooling(readings: list[float | None], clock: Clock, **policy: Any) -> thermal.Cooling:
    values: Iterator[float | None] = iter([*readings, *[readings[-1]] * 1000])
    return thermal.Cooling(
        lambda: next(values), ThermalPolicy(**policy), clock=clock, sleep=clock.sleep
    )


def test_a_launch_waits_until_the_device_is_near_its_idle_temperature() -> None:
    clock = Clock()
    assert cooling([40.0, 55.0, 50.0, 45.0, 41.9], clock).wait() == ()
    assert clock.now == 3.0


def test_a_device_that_stays_hot_is_flagged_after_the_policy_time() -> None:
    clock = Clock()
    assert cooling([40.0, 55.0], clock, max_wait_seconds=30).wait() == ("hot_start",)
    assert 29 <= clock.now <= 31
    assert cooling([40.0, 55.0], Clock()).wait(until=5.0) == ("hot_start",)


def test_no_wait_without_a_sensor_or_if_the_policy_forbids_it() -> None:
    clock = Clock()
    assert cooling([None, 90.0], clock).wait() == ()
    assert cooling([40.0, 90.0], clock, gate=False).wait() == ()
    assert clock.now == 0


def test_a_lower_temperature_later_becomes_the_idle_temperature() -> None:
    one = cooling([60.0, 48.0, 52.0, 51.0, 49.0], Clock())
    assert one.wait() == ()
    assert one.idle == 48.0
    assert one.wait() == ()


def test_the_hottest_plausible_zone_is_read() -> None:
    class Zones(FakeTransport):
        def run(self, argv: Any, timeout_seconds: float, stdin: bytes | None = None) -> Any:
            reply = super().run(argv, timeout_seconds)
            return dataclasses.replace(reply, stdout=b"45123\n-274000\n0\n51000\n")

    device = Device(name="d", profile="fake", address="fake:")
    assert thermal.celsius(Zones(device)) == 51.0
    assert thermal.celsius(FakeTransport(device)) is None


def test_a_plateau_is_a_minute_under_one_per_cent() -> None:
    flat = [(float(second), 100.0) for second in range(0, 90, 2)]
    rising = [(second, 100.0 * math.exp(0.02 * second / 60)) for second, _ in flat]
    settled = [(second, 100.0 + (second < 25) * 8) for second, _ in flat]
    assert thermal.on_plateau(flat)
    assert thermal.on_plateau(settled)
    assert not thermal.on_plateau(rising)
    assert not thermal.on_plateau(flat[:20])
    assert not thermal.on_plateau([])


def facts(**changes: Any) -> DeviceFacts:
    device = Device(name="d", profile="fake", address="fake:")
    return dataclasses.replace(FakeDialect(device).hello(), **changes)


def test_processors_are_the_first_ones_in_the_devices_list() -> None:
    assert pinning.processors(facts(processors=(7, 6, 0, 1)), 2) == (7, 6)
    assert pinning.processors(facts(processors=(1, 0)), 2) == (1, 0)
    assert pinning.processors(facts(processors=(1, 0)), 3) == ()
    assert pinning.processors(facts(processors=(0,)), 1) == ()
    assert pinning.processors(facts(), 1) == ()


@pytest.fixture(name="cpufreq")
def _cpufreq(tmp_path: Path) -> Path:
    for number, governor in enumerate(("schedutil", "performance")):
        policy = tmp_path / f"policy{number}"
        policy.mkdir()
        (policy / "scaling_governor").write_text(governor + "\n")
        (policy / "scaling_cur_freq").write_text("1500000\n")
        (policy / "scaling_max_freq").write_text("1500000\n")
    return tmp_path


def governors(folder: Path) -> list[str]:
    return [(folder / f"policy{n}/scaling_governor").read_text().strip() for n in range(2)]


@pytest.fixture(name="transport")
def _transport(tmp_path: Path) -> Iterator[Any]:
    device = Device(
        name="d",
        profile="linux_x86_64",
        address="local:",
        dialect_options={"workdir": str(tmp_path / "work")},
    )
    opened = open_local(device)
    yield opened
    opened.close()


def test_the_governor_is_pinned_and_restored(cpufreq: Path, transport: Any) -> None:
    pin = pinning.GovernorPin(transport, str(cpufreq))
    assert governors(cpufreq) == ["performance", "performance"]
    assert pin.pinned_mhz == 1500.0
    pin.close()
    assert governors(cpufreq) == ["schedutil", "performance"]
    pin.close()


def test_the_governor_is_restored_if_the_controller_dies(cpufreq: Path, transport: Any) -> None:
    """On the device, kill -9 and a lost link are the end of the shell's stdin."""
    done = transport.run(["sh", "-c", pinning._SCRIPT, "sh", str(cpufreq)], 10.0, b"")
    assert b"ready" in done.stdout
    assert governors(cpufreq) == ["schedutil", "performance"]


def test_androids_fixed_performance_mode_is_switched_on_and_off_again(
    tmp_path: Path, transport: Any
) -> None:
    """A stand-in replaces Android's `cmd`; it only logs its arguments."""
    cmd, calls = tmp_path / "cmd", tmp_path / "calls"
    cmd.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    cmd.chmod(0o755)
    notes = str(tmp_path / "notes")
    pin = pinning.GovernorPin(transport, str(tmp_path / "none"), str(cmd), notes)
    assert pin.fixed_performance
    mode = "power set-fixed-performance-mode-enabled"
    assert calls.read_text().splitlines() == [f"{mode} true"]
    pin.close()
    assert calls.read_text().splitlines() == [f"{mode} true", f"{mode} false"]
    cmd.write_text("#!/bin/sh\nexit 255\n")  # an Android without the mode
    pin = pinning.GovernorPin(transport, str(tmp_path / "none"), str(cmd), notes)
    assert not pin.fixed_performance
    pin.close()


def test_what_a_killed_connection_left_changed_on_a_phone_is_restored_at_the_next_contact(
    cpufreq: Path, tmp_path: Path, transport: Any
) -> None:
    cmd, calls, notes = tmp_path / "cmd", tmp_path / "calls", tmp_path / "work" / "notes"
    cmd.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    cmd.chmod(0o755)
    pin = pinning.GovernorPin(transport, str(cpufreq), str(cmd), str(notes))
    changed = notes.read_text()
    assert changed == f"governor {cpufreq}/policy0/scaling_governor schedutil\nfixed - -\n"
    pin.close()
    assert not notes.exists()
    # A phone whose shell was killed with the cable: changed, and the note is still there.
    (cpufreq / "policy0/scaling_governor").write_text("performance\n")
    notes.write_text(changed)
    calls.unlink()
    pin = pinning.GovernorPin(transport, str(tmp_path / "none"), str(cmd), str(notes))
    assert governors(cpufreq)[0] == "schedutil"
    assert calls.read_text().splitlines()[0].endswith("false")
    pin.close()
    assert not notes.exists()


def test_a_processor_with_a_turbo_has_no_pinned_frequency(cpufreq: Path, transport: Any) -> None:
    (cpufreq / "policy1/scaling_cur_freq").write_text("800000\n")
    pin = pinning.GovernorPin(transport, str(cpufreq))
    assert pin.pinned_mhz is None
    pin.close()


def test_nothing_is_pinned_without_governors_or_a_shell(tmp_path: Path, transport: Any) -> None:
    for one in (transport, FakeTransport(_device())):
        pin = pinning.GovernorPin(one, str(tmp_path / "none"))
        assert pin.pinned_mhz is None
        pin.close()


def _device() -> Device:
    return Device(name="d", profile="fake", address="fake:")
