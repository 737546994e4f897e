"""Devices of the lab are separate machines, and they end with the lab."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from .box import Box, Spec
from .device import Hosted
from .lab import Lab
from .subnets import take
from .tools import LabError, own_namespace, why_not


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_three_hosts_are_three_machines(x86_hosts: list[Hosted]) -> None:
    output = [
        host.ssh("sh", "-c", "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id")
        for host in x86_hosts
    ]
    assert [text.split()[0] for text in output] == [host.name for host in x86_hosts]
    assert len({item for text in output for item in text.split()}) == 9
    first, second, _ = x86_hosts
    first.ssh("touch", "/var/tmp/mine")
    assert first.path("/var/tmp/mine").exists()
    assert not second.path("/var/tmp/mine").exists()
    assert not Path("/var/tmp/mine").exists()
    assert first.ssh("id", "-un").strip() == "pi"
    listed = first.ssh("ps", "-e", "-o", "comm=").split()
    assert len(listed) < 10
    assert set(first.processes().values()) == {"sshd"}


def test_three_hosts_are_up_within_two_seconds(lab: Lab, tmp_path: Path) -> None:
    began = time.monotonic()
    with Lab(tmp_path / "another lab") as another:
        another.x86_hosts(["one", "two", "three"])
        assert time.monotonic() - began < 2.0
    assert not (tmp_path / "another lab").exists()


def test_nothing_of_a_lab_outlives_a_killed_session(lab: Lab, tmp_path: Path) -> None:
    before = interfaces()
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from lab.lab import Lab\n"
        "with Lab(Path(sys.argv[2])) as made:\n"
        "    (host,) = made.x86_hosts(['doomed']); host.delay(1)\n"
        "    print(host.box.pid, flush=True); time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", script, str(Path(__file__).parents[1]), str(tmp_path / "lab")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        device = int(session.stdout.readline())
        session.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        with suppress(OSError):
            os.kill(device, 0)
            time.sleep(0.02)
            continue
        if interfaces() <= before:
            break
        time.sleep(0.02)
    assert not Path(f"/proc/{device}").exists()
    assert interfaces() <= before


def test_what_is_missing_is_named() -> None:
    assert why_not(["sh"]) is None
    assert why_not(["sh", "no-such-tool"]) == "not installed: no-such-tool (`make lab-system`)"


def test_a_box_that_cannot_start_reports_the_reason(lab: Lab, tmp_path: Path) -> None:
    subnet = take()
    spec = Spec(hostname="broken", program=["true"], inside="echo no such thing >&2; exit 3\n")
    try:
        with pytest.raises(LabError, match="broken does not start.*no such thing"):
            Box(spec, subnet, tmp_path / "log").switch_on()
        assert subnet.interface not in interfaces()
    finally:
        subnet.give_back()


def test_a_board_is_arm_through_and_through(arm64_board: Hosted) -> None:
    output = arm64_board.ssh("sh", "-c", "uname -m; grep -m1 Model /proc/cpuinfo; nproc")
    assert output.startswith("aarch64\nModel\t\t: Raspberry Pi 4 Model B")
    pid = next(iter(arm64_board.processes()))
    assert b"/usr/sbin/sshd" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert Path(f"/proc/{pid}/exe").readlink().name == "qemu-aarch64-static"
    # The machine itself cannot run programs of other architectures.
    assert not list(Path("/proc/sys/fs/binfmt_misc").glob("qemu-aarch64-static"))


def test_a_fresh_board_has_no_runtime(fresh_arm64_board: Hosted) -> None:
    look = "import importlib.util as u; print(u.find_spec('ai_edge_litert'), u.find_spec('numpy'))"
    assert fresh_arm64_board.ssh("python3", "-c", look) == "None None\n"


@pytest.mark.lab
def test_the_32_bit_board_is_one(armv7_board: Hosted) -> None:
    look = "import platform, sys, numpy; print(platform.machine(), sys.maxsize > 2**32, numpy.__version__)"
    assert armv7_board.ssh("python3", "-c", look) == "armv7l False 1.24.2\n"


def test_nothing_is_changed_in_the_network_of_the_machine(lab: Lab, tmp_path: Path) -> None:
    """A fault in the moment of a start would otherwise switch off the machine's own interface."""
    before = interfaces()
    box = Box(Spec(hostname="late", program=["sleep", "60"]), take(), tmp_path / "log")
    try:
        with pytest.raises(LabError, match="has no network"):
            box.in_network(["ip", "link", "set", "eth0", "down"])
        box.begin()
        with pytest.raises(LabError, match="has no network"):
            box.in_network(["ip", "link", "set", "eth0", "down"])
        box.finish()
        listed = box.in_network(["ip", "-brief", "link"])
        assert {line.split("@")[0].split()[0] for line in listed.splitlines()} >= {"lo", "eth0"}
        box.kill()
        box.in_network(["ip", "link", "set", "eth0", "down"])
    finally:
        box.switch_off()
        box.subnet.give_back()
    with pytest.raises(LabError, match="has no network"):
        box.in_network(["ip", "link", "set", "eth0", "down"])
    with pytest.raises(LabError, match="the machine's own net namespace"):
        own_namespace(os.getppid(), "net")
    assert interfaces() == before
