from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.assets import install_command
from harness.devices import opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.local import LocalTransport, open_local
from harness.errors import AgentError, HarnessError, ModelRejected, Unreachable
from harness.farm import checks_runtime
from harness.farm.checks import Check, CheckResult
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.doctor import examine
from harness.farm.linux import checks as linux
from harness.farm.linux.survey import Mount, System
from harness.farm.probe import Probe
from harness.protocols import Channel, OpenDialect, Transport
from harness.testing import FakeDialect
from harness.types import Delegation, Device, DeviceFacts, Launch, LaunchOrder, Profile, Runtime

LITERT = Runtime(name="ai_edge_litert", version="2.3.0", numpy="2.4.6")
PROBE = Probe(
    version=(3, 11, 2),
    bits=64,
    free_bytes=10**10,
    noexec=False,
    machine="aarch64",
    libc="glibc 2.36",
)
SYSTEM = System(
    kernel="Linux",
    release="6.6",
    machine="aarch64",
    os_ids=("debian",),
    tools=frozenset({"apt-get", "sudo", "systemd", "timedatectl"}),
    uid=1000,
    user="pi",
    cores=4,
    free_bytes=10**10,
    swap_used_bytes=0,
    mount=Mount(point="/", read_only=False, noexec=False, kind="ext4"),
    governors=("performance",),
    load_1m=0.1,
    libc="glibc 2.36",
)


@pytest.fixture
def here(tmp_path: Path) -> Device:
    return Device(
        name="here",
        profile="linux_x86_64",
        address="local:",
        dialect_options={"python": sys.executable, "workdir": str(tmp_path / "it's work")},
    )


@pytest.fixture
def own_python(here: Device, tmp_path: Path) -> Device:
    """The agent runs in another Python than this one."""
    (tmp_path / "python").symlink_to(sys.executable)
    options = {**here.dialect_options, "python": str(tmp_path / "python")}
    return dataclasses.replace(here, dialect_options=options)


def facts(device: Device, **changes: object) -> DeviceFacts:
    usual = FakeDialect(device).hello()
    usual = dataclasses.replace(
        usual,
        machine="aarch64",
        libc="glibc 2.36",
        runtimes=(LITERT,),
        cores=4,
        clock_offset_seconds=0.01,
        governor="performance",
        load_1m=0.1,
    )
    return dataclasses.replace(usual, **changes)


def dut(address: str = "ssh://pi@10.0.0.7:2222", **changes: object) -> DeviceUnderTest:
    device = Device(
        name="pi",
        profile="raspberry_pi_5",
        address=address,
        transport_options={"identity": "/k y"} if address.startswith("ssh") else {},
    )
    probe = changes.pop("probe", PROBE)
    assert isinstance(probe, Probe)
    of_system = {one.name for one in dataclasses.fields(System)} - {"clock_offset_seconds", "libc"}
    given = {name: changes.pop(name) for name in of_system & set(changes)}
    system = dataclasses.replace(SYSTEM, **given)
    if "libc" in changes:
        probe = dataclasses.replace(probe, libc=changes["libc"])
    return DeviceUnderTest(
        device=device, system=system, probe=probe, facts=facts(device, **changes)
    )


class FakeAgent(FakeDialect):
    """An agent that reports the given facts, or fails with the given fault."""

    facts: DeviceFacts
    delegate = "xnnpack"
    fault: HarnessError | None = None

    def hello(self) -> DeviceFacts:
        if isinstance(self.fault, AgentError):
            raise self.fault
        return self.facts

    def launch(self, order: LaunchOrder) -> Launch:
        return dataclasses.replace(
            super().launch(order), delegation=Delegation(delegate=self.delegate)
        )


def reporting(reported: DeviceFacts, **answers: object) -> OpenDialect:
    def open_fake(transport: Transport, device: Device) -> FakeAgent:
        dialect = FakeAgent(device)
        dialect.facts = reported
        for name, answer in answers.items():
            setattr(dialect, name, answer)
        return dialect

    return open_fake


def by_name(checks: list[CheckResult]) -> dict[str, CheckResult]:
    found = {check.name: check for check in checks}
    assert len(found) == len(checks)
    for check in checks:
        assert check.found
        assert (check.fix_text is not None) == (check.status in {"warn", "fail"}), check
    return found


def test_a_device_in_order_passes_every_check(here: Device, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"x")
    checks = by_name(examine(here, open_local, reporting(facts(here)), None, model))
    # This machine may swap and be busy, and it is not a Raspberry Pi.
    others = {"host_key", "swap", "processors", "under_voltage", "throttled", "usb"}
    others |= {"governor", "temperature", "load", "disk", "device_nodes", "round_trip"}
    others |= {"delegates", "compiler", "gpu"}  # and it has no accelerator
    assert {name for name, check in checks.items() if check.status != "ok"} <= others
    assert checks["host_key"].status == "skip"
    assert list(Path(AgentOptions.of(here).workdir).iterdir()) == []


def test_an_unreachable_device_is_one_failure_and_the_rest_is_skipped(here: Device) -> None:
    def refuse(device: Device) -> Transport:
        raise Unreachable(f"{device.name}: connection refused")

    checks = by_name(examine(here, refuse, reporting(facts(here))))
    assert checks["reachable"].status == "fail"
    assert checks["reachable"].found == "here: connection refused"
    assert {check.status for name, check in checks.items() if name != "reachable"} == {"skip"}
    names = list(by_name(examine(here, open_local, reporting(facts(here)))))
    assert list(checks) == names


def test_missing_python_is_a_failed_check(here: Device) -> None:
    device = opening.with_options(here, python="no-python-3")
    checks = by_name(examine(device, open_local, reporting(facts(device))))
    assert checks["python"].status == "fail"
    assert "no-python-3" in checks["python"].found
    assert checks["agent"].status == "skip"
    assert checks["files"].status == "ok"


def test_checks_that_need_no_python_run_without_it(here: Device) -> None:
    device = opening.with_options(here, python="no-python-3")
    checks = by_name(examine(device, open_local, reporting(facts(device))))
    made = "system files disk read_only noexec swap processors libc clock load round_trip"
    assert {checks[name].status for name in made.split()} <= {"ok", "warn"}
    waiting = {name for name, check in checks.items() if check.waits_for}
    assert waiting == {"agent", "runtime", "numpy"}
    assert {checks[name].found for name in waiting} == {"waits for python: it failed"}


class Line:
    """A transport like a serial line: a channel to one program, without commands and files."""

    def talk(self, argv: Sequence[str]) -> Channel:
        raise NotImplementedError

    def close(self) -> None:
        pass


class FilesOnly(Line):
    """A transport that also copies files, but runs no commands."""

    def __init__(self) -> None:
        self.real = LocalTransport()

    def put(self, source: Path, destination: str) -> None:
        self.real.put(source, destination)

    def get(self, source: str, destination: Path, most_bytes: int = 1 << 20) -> None:
        self.real.get(source, destination, most_bytes)


@pytest.mark.parametrize(("transport", "files"), [(Line, "skip"), (FilesOnly, "ok")])
def test_a_transport_that_runs_no_commands(
    here: Device, tmp_path: Path, transport: type[Line], files: str
) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"x")

    def open_line(device: Device) -> Transport:
        return transport()  # type: ignore[return-value]

    checks = by_name(examine(here, open_line, reporting(facts(here)), None, model))
    assert (checks["commands"].status, checks["files"].status) == ("skip", files)
    assert checks["commands"].found == "the transport carries no commands"
    for name in ("reachable", "agent", "runtime", "numpy", "xnnpack"):
        assert checks[name].status == "ok", checks[name]
    assert checks["python"].found == "waits for commands: the transport carries no commands"
    assert {one.status for one in checks.values()} <= {"ok", "skip"}


def test_printed_commands_name_the_farm_file_of_the_command_line(own_python: Device) -> None:
    farm = Path("/some where/farm.toml")
    open_bare = reporting(facts(own_python, runtimes=()))
    checks = by_name(examine(own_python, open_local, open_bare, farm=farm, is_farm_named=True))
    assert checks["runtime"].fix_text == "edge-harness setup here --farm '/some where/farm.toml'"


def test_the_json_of_a_check_keeps_its_keys(own_python: Device) -> None:
    checks = by_name(examine(own_python, open_local, reporting(facts(own_python, runtimes=()))))
    assert checks["runtime"].plain() == {
        "name": "runtime",
        "status": "fail",
        "detail": checks["runtime"].found,
        "mend": "edge-harness setup here",
        "needs": ["agent"],
        "fix": {
            "id": "setup",
            "command": "edge-harness setup here",
            "root_command": None,
            "setting": {},
        },
    }


@pytest.mark.parametrize("installed", [True, False])
def test_this_python_needs_the_runtime_itself(
    here: Device, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    """`setup` installs for the agent only; edge-harness reads models with its own."""
    monkeypatch.setattr(checks_runtime, "_has_runtime_here", lambda: installed)
    command = install_command("light")
    checks = by_name(examine(here, open_local, reporting(facts(here, runtimes=()))))
    fix = checks["runtime"].fix
    assert fix is not None
    assert (checks["runtime"].status, fix.command) == ("fail", command)
    checks = by_name(examine(here, open_local, reporting(facts(here))))
    fix = checks["runtime"].fix
    assert checks["runtime"].status == ("ok" if installed else "warn")
    assert (fix.command if fix else None) == (None if installed else command)


@pytest.mark.parametrize(
    ("changes", "command", "root_command"),
    [
        ({"uid": 0}, "swapoff -a", None),
        ({"uid": 1000}, "sudo swapoff -a", None),
        ({"uid": 1000, "tools": frozenset()}, None, "swapoff -a"),
    ],
)
def test_sudo_is_printed_only_for_an_account_that_needs_and_has_it(
    changes: dict[str, object], command: str | None, root_command: str | None
) -> None:
    fix = linux.swap(dut("local:", swap_used_bytes=10**8, **changes)).fix
    assert fix is not None
    assert (fix.command, fix.root_command) == (command, root_command)


def test_a_python_that_is_too_old_is_named_with_its_version(here: Device, tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text(
        "#!/bin/sh\necho 'login noise'\n"
        """echo 'edge-harness-probe {"version": [3, 7, 3], "bits": 32, "home": "/", "machine": "armv7l"}'\n"""
    )
    old.chmod(0o700)
    checks = by_name(
        examine(opening.with_options(here, python=str(old)), open_local, reporting(facts(here)))
    )
    assert checks["python"].status == "fail"
    assert "3.7.3" in checks["python"].found
    assert "3.9" in checks["python"].found


def test_a_workdir_that_cannot_be_written(here: Device) -> None:
    device = opening.with_options(here, workdir="/proc/nowhere")
    checks = by_name(examine(device, open_local, reporting(facts(device))))
    assert checks["files"].status == "fail"
    assert "/proc/nowhere" in checks["files"].found


def test_an_agent_that_does_not_start(here: Device) -> None:
    checks = by_name(examine(here, open_local, reporting(facts(here), fault=AgentError("no zlib"))))
    assert (checks["agent"].status, checks["agent"].found) == ("fail", "no zlib")
    assert checks["runtime"].status == "skip"


@pytest.mark.parametrize(("promised", "status"), [(True, "fail"), (False, "warn")])
def test_a_delegate_that_was_not_made(
    here: Device, tmp_path: Path, *, promised: bool, status: str
) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"x")
    profile = Profile(name="p", title="P", arch="x", xnnpack=promised)
    dialect = reporting(facts(here), delegate="none")
    checks = by_name(examine(here, open_local, dialect, profile, model))
    assert checks["xnnpack"].status == status
    assert "cpuinfo" in str(checks["xnnpack"].fix_text)


def test_a_launch_that_fails_is_a_failed_check(here: Device, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"x")
    fault = {"doctor-timed-0-0": [ModelRejected("op 7 is not known")]}
    checks = by_name(examine(here, open_local, reporting(facts(here), faults=fault), None, model))
    assert (checks["xnnpack"].status, checks["xnnpack"].found) == ("fail", "op 7 is not known")


@pytest.mark.parametrize(
    ("check", "changes", "status", "found", "fix"),
    [
        (linux.clock, {"clock_offset_seconds": 86400.0}, "warn", "+86400", "set-ntp"),
        (linux.clock, {"clock_offset_seconds": None}, "skip", "time", None),
        (linux.governor, {"governors": ("ondemand",)}, "warn", "ondemand", "scaling_governor"),
        (linux.governor, {"governors": ()}, "skip", "cpufreq", None),
        (linux.governor, {"governors": ("performance",)}, "ok", "performance", None),
        (
            linux.governor,
            {"governors": ("performance", "powersave")},
            "warn",
            "performance, powersave: not pinned",
            "sudo tee",
        ),
        (
            linux.governor,
            {"governors": ("schedutil",), "governor_choices": ("schedutil", "userspace")},
            "warn",
            "schedutil",
            "a kernel with the governor performance",
        ),
        (linux.temperature, {"temperature_c": 84.5}, "warn", "84.5", "heatsink"),
        (linux.temperature, {"temperature_c": 48.0}, "ok", "48.0", None),
        (linux.temperature, {"temperature_c": None}, "skip", "thermal zone", None),
        (linux.under_voltage, {"throttled": 0x50005}, "fail", "now", "supply"),
        (linux.under_voltage, {"throttled": 0x10000}, "warn", "boot", "supply"),
        (linux.under_voltage, {"throttled": 0xE000E}, "ok", "0xe000e", None),
        (linux.under_voltage, {"throttled": None}, "skip", "vcgencmd", None),
        (linux.throttled, {"throttled": 0x4}, "fail", "0x4", "heatsink"),
        (linux.throttled, {"throttled": 0x80000}, "warn", "boot", "reboot"),
        (linux.throttled, {"throttled": 0x10001}, "ok", "0x10001", None),
        (linux.throttled, {"throttled": None}, "skip", "vcgencmd", None),
        (linux.load, {"load_1m": 3.0}, "warn", "3.00", "top"),
        (linux.load, {"load_1m": 0.9}, "ok", "0.90", None),
        (linux.load, {"load_1m": None}, "skip", "load", None),
        (checks_runtime.libc, {"libc": "glibc 2.24", "runtimes": ()}, "fail", "2.27", "image"),
        (checks_runtime.libc, {"libc": "musl", "runtimes": ()}, "fail", "musl", "image"),
        (checks_runtime.libc, {"libc": "glibc 2.24"}, "ok", "works", None),
        (checks_runtime.numpy, {"runtimes": ()}, "skip", "no runtime", None),
        (
            checks_runtime.numpy,
            {"runtimes": (Runtime(name="tflite_runtime", version="2.14.0", numpy="2.1.0"),)},
            "fail",
            "numpy 2.1.0",
            "edge-harness setup pi",
        ),
        (
            checks_runtime.numpy,
            {"runtimes": (Runtime(name="tflite_runtime", version="2.14.0", numpy="1.26.4"),)},
            "ok",
            "1.26.4",
            None,
        ),
    ],
)
def test_a_check_judges_the_facts(
    check: Check,
    changes: dict[str, object],
    status: str,
    found: str,
    fix: str | None,
) -> None:
    made = check(dut(**changes))
    assert made.status == status
    assert found in made.found
    assert (made.fix_text is None) == (fix is None)
    if fix:
        assert fix in str(made.fix_text)


@pytest.mark.parametrize("check", [linux.under_voltage, linux.throttled])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"board": "Raspberry Pi 4 Model B Rev 1.4"},
            "Raspberry Pi 4 Model B Rev 1.4: its vcgencmd, which reads the bits, is not installed",
        ),
        (
            {"board": "Raspberry Pi 5 Model B Rev 1.0", "has_vcgencmd": True, "user": "jo"},
            "Raspberry Pi 5 Model B Rev 1.0: vcgencmd gives no bits; may jo open /dev/vcio",
        ),
        (
            {"board": "Google Coral Dev Board"},
            "only a Raspberry Pi has the bits of vcgencmd: this is",
        ),
        ({"board": ""}, "only a Raspberry Pi has the bits of vcgencmd, and no device tree says"),
    ],
)
def test_a_raspberry_pi_is_one_by_its_device_tree(
    check: Check, changes: dict[str, object], words: str
) -> None:
    made = check(dut(**{"throttled": None, **changes}))
    assert made.status == "skip"
    assert words in made.found


@pytest.mark.parametrize(
    ("check", "changes", "status"),
    [
        (linux.disk, {"free_bytes": 10**10}, "ok"),
        (linux.disk, {"free_bytes": 10**8}, "warn"),
        (linux.disk, {"free_bytes": 10**6}, "fail"),
        (linux.disk, {"free_bytes": None}, "skip"),
        (linux.read_only, {"mount": Mount(point="/", read_only=True, noexec=False)}, "fail"),
        (linux.read_only, {"mount": Mount(point="/", read_only=False, noexec=True)}, "ok"),
        (linux.read_only, {"mount": None}, "skip"),
        (linux.noexec, {"mount": Mount(point="/", read_only=False, noexec=True)}, "warn"),
        (linux.noexec, {"mount": None}, "skip"),
        (linux.swap, {"swap_used_bytes": 10**8}, "warn"),
        (linux.swap, {"swap_used_bytes": None}, "skip"),
    ],
)
def test_a_check_judges_the_survey(check: Check, changes: dict[str, object], status: str) -> None:
    made = check(dut(**changes))
    assert made.status == status
    assert (made.fix_text is not None) == (status in {"warn", "fail"})


@pytest.mark.parametrize(
    ("probed", "advice"),
    [
        ({}, "edge-harness setup pi"),
        ({"machine": "armv7l", "bits": 32, "numpy": "1.24.2"}, "edge-harness setup pi"),
        ({"bits": 32}, "apt-get install -y python3-numpy"),
        ({"bits": 32, "numpy": "2.0.1"}, "apt-get install -y python3-numpy"),
        ({"version": (3, 9, 2)}, "edge-harness setup pi"),
        ({"machine": "armv7l", "bits": 32, "version": (3, 13, 1)}, "no wheel of a runtime fits"),
        ({"libc": None}, "no wheel of a runtime fits"),
        ({"machine": "riscv64"}, "no wheel of a runtime fits"),
        ({"free_threaded": True}, "no wheel of a runtime fits"),
    ],
)
def test_the_fix_names_the_runtime_that_fits(probed: dict[str, object], advice: str) -> None:
    probe = dataclasses.replace(PROBE, **probed)
    made = checks_runtime.runtime(dut(runtimes=(), probe=probe))
    assert made.status == "fail"
    assert advice in str(made.fix_text)


def test_the_import_error_of_a_runtime_is_reported() -> None:
    problems = ("ai_edge_litert: libpython is missing",)
    made = checks_runtime.runtime(dut(runtimes=(), runtime_problems=problems))
    assert "libpython is missing" in made.found


def test_a_remote_command_is_an_ssh_command_for_this_host() -> None:
    command = dut().remote_command("echo 'a b'; echo $HOME")
    shown = subprocess.run(
        ["sh", "-c", f"ssh() {{ printf '%s\\n' \"$@\"; }}; {command}"],
        capture_output=True,
        check=True,
    )
    assert shown.stdout.decode().splitlines() == [
        "-t",
        "-i",
        "/k y",
        "-p",
        "2222",
        "pi@10.0.0.7",
        "echo 'a b'; echo $HOME",
    ]
    assert dut("local:").remote_command("true") == "true"
