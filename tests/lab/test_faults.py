"""Faults of a device look like those of a real network, and can be removed."""

from __future__ import annotations

import socket
import subprocess
import time

import pytest

from .device import Hosted, LabDevice
from .machine import Machine
from .tools import LabError


@pytest.fixture
def host(x86_hosts: list[Hosted]) -> Hosted:
    return x86_hosts[0]


def greeting(host: LabDevice, seconds: float = 2.0) -> bytes:
    with socket.create_connection((host.box.subnet.device, 22), timeout=seconds) as connection:
        return connection.recv(4)


def round_trip(host: LabDevice) -> float:
    with socket.create_connection((host.box.subnet.device, 22), timeout=5.0):
        begin = time.monotonic()
    begin = time.monotonic()
    with socket.create_connection((host.box.subnet.device, 22), timeout=5.0):
        return time.monotonic() - begin


def push(host: Hosted, size: int) -> float:
    begin = time.monotonic()
    argv = [*host.ssh_command(), "cat > /dev/null"]
    subprocess.run(argv, input=bytes(size), check=True, timeout=60.0)
    return time.monotonic() - begin


def test_a_link_that_is_down_is_silent_and_comes_back(host: Hosted) -> None:
    with socket.create_connection((host.box.subnet.device, 22), timeout=5.0) as held:
        assert held.recv(4) == b"SSH-"
        host.link_down()
        with pytest.raises(OSError):
            greeting(host, seconds=0.3)
        host.link_up()
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            try:
                assert greeting(host) == b"SSH-"
                break
            except OSError:
                time.sleep(0.05)
        # Silence does not close a connection.
        held.sendall(b"SSH-2.0-test\r\n")
        held.settimeout(5.0)
        assert held.recv(4096)


def test_a_slow_link_limits_the_rate(host: Hosted) -> None:
    size = 1_500_000
    host.rate(10)
    assert push(host, size) > size * 8 / 10e6 * 0.8
    host.heal()
    assert push(host, size) < size * 8 / 10e6


def test_a_far_device_answers_late(host: Hosted) -> None:
    host.delay(200)
    assert 0.4 <= round_trip(host) < 1.0
    host.heal()
    assert round_trip(host) < 0.1


def test_lost_packets_are_lost_and_sent_again(host: Hosted) -> None:
    host.loss(5)
    push(host, 2_000_000)
    rules = host.box.in_network(["nft", "list", "ruleset"])
    lost = [
        int(line.split("packets ")[1].split()[0])
        for line in rules.splitlines()
        if "packets" in line
    ]
    assert len(lost) == 2
    assert sum(lost) > 0
    host.heal()
    assert host.box.in_network(["nft", "list", "ruleset"]) == ""


def test_a_reset_ends_open_connections(host: Hosted) -> None:
    with socket.create_connection((host.box.subnet.device, 22), timeout=5.0) as held:
        assert held.recv(4) == b"SSH-"
        held.settimeout(5.0)
        assert host.reset() >= 1
        held.recv(4096)
        with pytest.raises(ConnectionResetError):
            held.recv(4096)
    assert greeting(host) == b"SSH-"


def test_a_killed_sshd_refuses_until_it_is_started(host: Hosted) -> None:
    session = subprocess.Popen([*host.ssh_command(), "sleep 600"])
    deadline = time.monotonic() + 10.0
    while "sleep" not in host.processes().values() and time.monotonic() < deadline:
        time.sleep(0.02)
    host.sshd_kill()
    assert session.wait(10.0) == 255
    with pytest.raises(ConnectionRefusedError):
        greeting(host)
    host.sshd_start()
    assert greeting(host) == b"SSH-"
    # Processes that sshd had started keep running, as on any machine, and are no zombies.
    assert host.kill("sleep") == 1


def test_a_power_cut_is_silent_and_the_disk_stays(host: Hosted) -> None:
    host.ssh("sh", "-c", "echo kept > /var/tmp/kept; echo lost > /tmp/lost")
    boot = host.ssh("cat", "/proc/sys/kernel/random/boot_id")
    with socket.create_connection((host.box.subnet.device, 22), timeout=5.0) as held:
        assert held.recv(4) == b"SSH-"
        held.settimeout(0.5)
        held.recv(4096)
        host.power_cut()
        with pytest.raises(OSError):
            held.recv(4096)
    with pytest.raises(LabError, match="switched off"):
        host.processes()
    host.power_on()
    assert host.ssh("cat", "/var/tmp/kept") == "kept\n"
    with pytest.raises(LabError):
        host.ssh("cat", "/tmp/lost")
    assert host.ssh("cat", "/proc/sys/kernel/random/boot_id") != boot


def test_a_board_fails_like_a_host(arm64_board: Hosted) -> None:
    arm64_board.sshd_kill()
    with pytest.raises(ConnectionRefusedError):
        greeting(arm64_board)
    arm64_board.sshd_start()
    arm64_board.power_cut()
    arm64_board.power_on()
    assert arm64_board.ssh("uname", "-m") == "aarch64\n"


@pytest.mark.lab
def test_a_machine_that_loses_its_power_boots_again_from_its_disk(vm: Machine) -> None:
    boot = vm.ssh("cat", "/proc/sys/kernel/random/boot_id")
    assert vm.ssh("uname", "-sm") == "Linux aarch64\n"
    vm.ssh("sh", "-c", "echo kept > /var/tmp/kept; sync; echo lost > /var/tmp/lost")
    vm.power_cut()
    with pytest.raises(OSError):
        greeting(vm, seconds=1.0)
    vm.power_on()
    assert vm.ssh("cat", "/var/tmp/kept") == "kept\n"
    assert vm.ssh("cat", "/proc/sys/kernel/random/boot_id") != boot
    with pytest.raises(LabError):
        vm.ssh("cat", "/var/tmp/lost")


@pytest.mark.lab
def test_a_machine_has_the_faults_of_every_device(vm: Machine) -> None:
    vm.link_down()
    with pytest.raises(OSError):
        greeting(vm, seconds=1.0)
    vm.heal()
    vm.delay(100)
    assert round_trip(vm) >= 0.2
    vm.heal()
    session = subprocess.Popen([*vm.ssh_command(), "sleep 600"], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    assert vm.reset() >= 1
    assert session.wait(10.0) == 255
    vm.sshd_kill()
    vm.sshd_start()
    assert "sshd" in vm.processes().values()
