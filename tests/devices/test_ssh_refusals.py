"""Every kind of failure of an SSH device, with a real sshd."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import missing

from harness import assets
from harness.demo.loopback_sshd import SFTP, LoopbackSshd, available, loopback_sshd, sessions
from harness.devices import opening
from harness.devices.transports.ssh.connect import host_key
from harness.devices.transports.ssh.keys import trust
from harness.devices.transports.ssh.options import SshOptions
from harness.devices.transports.ssh.transport import open_ssh
from harness.errors import (
    AgentSilent,
    ConfigError,
    HostKeyUnknown,
    TransportError,
    Unreachable,
)
from harness.types import Device

DeviceOn = Callable[[LoopbackSshd], Device]


def make_key(path: Path) -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return path


def keygen_fingerprint(public: Path) -> str:
    shown = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, check=True)
    return shown.stdout.decode().split()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_sshd_that_is_down_is_refused_at_once(
    own_sshd: LoopbackSshd, device_on: DeviceOn, capfd: pytest.CaptureFixture[str]
) -> None:
    device = device_on(own_sshd)
    os.kill(own_sshd.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    message = ""
    while "connection refused" not in message and time.monotonic() < deadline:
        with pytest.raises(Unreachable) as caught:
            open_ssh(device)
        message = str(caught.value)
    assert f"loopback: {own_sshd.user}@127.0.0.1:{own_sshd.port}: connection refused" in message
    assert "check that" in message
    assert capfd.readouterr().err == ""


def test_an_unknown_host_name(home: Path) -> None:
    device = Device(name="far", profile="p", address="ssh://pi@no-such-host.invalid")
    with pytest.raises(Unreachable, match="name cannot be resolved"):
        open_ssh(device)


def test_a_server_that_sends_nothing(home: Path, silent_port: int) -> None:
    config = home / "config"
    config.write_text("Host *\n  ConnectTimeout 1\n")
    address = f"ssh://pi@127.0.0.1:{silent_port}"
    device = Device(
        name="mute",
        profile="p",
        address=address,
        transport_options={"ssh_config": str(config)},
    )
    started = time.monotonic()
    with pytest.raises(Unreachable, match="no SSH server answered within 1 s"):
        open_ssh(device)
    assert time.monotonic() - started < 5
    with pytest.raises(Unreachable, match="no SSH server answered"):
        host_key(device)


def test_a_refused_key_names_the_user_and_the_keys_tried(
    ssh_device: Device, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = make_key(tmp_path / "wrong key")
    device = opening.with_options(ssh_device, identity=str(wrong))
    with pytest.raises(Unreachable) as caught:
        open_ssh(device)
    message = str(caught.value)
    assert "refused the login of" in message
    assert str(wrong) in message
    assert "ssh-copy-id" in message
    assert capfd.readouterr().err == ""


def test_keys_that_cannot_be_read_are_named_with_the_way_out(
    ssh_device: Device, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(locked)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    with pytest.raises(Unreachable, match=r"locked \(encrypted: `ssh-add"):
        open_ssh(opening.with_options(ssh_device, identity=str(locked)))
    with pytest.raises(Unreachable, match=r"nothing \(missing\)"):
        open_ssh(opening.with_options(ssh_device, identity=str(tmp_path / "nothing")))
    garbage = tmp_path / "garbage"
    garbage.write_text("not a key")
    with pytest.raises(Unreachable, match=r"garbage \(unreadable"):
        open_ssh(opening.with_options(ssh_device, identity=str(garbage)))


def test_an_unknown_host_key_names_file_and_fingerprint(
    sshd: LoopbackSshd, ssh_device: Device, tmp_path: Path
) -> None:
    device = opening.with_options(ssh_device, known_hosts=str(tmp_path / "none yet"))
    with pytest.raises(HostKeyUnknown) as caught:
        open_ssh(device)
    message = str(caught.value)
    assert keygen_fingerprint(sshd.folder / "host_key.pub") in message
    assert "(ED25519)" in message
    assert str(tmp_path / "none yet") in message
    assert f"edge-harness add {sshd.uri}" in message
    assert not (tmp_path / "none yet").exists()


def test_a_changed_host_key_names_both_fingerprints(
    sshd: LoopbackSshd, ssh_device: Device, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other")
    known = tmp_path / "known"
    public = " ".join((tmp_path / "other.pub").read_text().split()[:2])
    known.write_text(f"[127.0.0.1]:{sshd.port} {public}\n")
    device = opening.with_options(ssh_device, known_hosts=str(known))
    for attempt in (open_ssh, host_key):
        with pytest.raises(HostKeyUnknown) as caught:
            attempt(device)
        message = str(caught.value)
        assert "CHANGED" in message
        assert keygen_fingerprint(sshd.folder / "host_key.pub") in message
        assert keygen_fingerprint(other.with_suffix(".pub")) in message
        command = re.search(r"`(ssh-keygen -R .*?)`", message)
        assert command is not None
    subprocess.run(command[1], shell=True, check=True, capture_output=True)
    with pytest.raises(HostKeyUnknown, match="is not in"):
        open_ssh(device)


def test_a_key_is_shown_trusted_and_then_known(sshd: LoopbackSshd, ssh_device: Device) -> None:
    device = opening.with_options(ssh_device, known_hosts=None)
    key = host_key(device)
    assert not key.known
    assert not key.jump
    assert key.fingerprint == keygen_fingerprint(sshd.folder / "host_key.pub")
    store = trust(device, key)
    assert store == assets.config_folder() / "known_hosts"
    assert store.stat().st_mode & 0o777 == 0o600
    assert host_key(device).known
    open_ssh(device).close()


def test_the_users_own_known_hosts_count(
    home: Path, sshd: LoopbackSshd, ssh_device: Device
) -> None:
    (home / ".ssh").mkdir()
    hosts = home / ".ssh" / "known_hosts"
    hosts.write_text(sshd.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(hosts)], check=True, capture_output=True)
    assert "127.0.0.1" not in hosts.read_text()
    open_ssh(opening.with_options(ssh_device, known_hosts=None)).close()


@pytest.fixture
def behind_a_jump(
    home: Path, tmp_path: Path, sshd: LoopbackSshd
) -> Iterator[tuple[Device, LoopbackSshd, Path]]:
    """A device of ssh_config only, behind a second sshd whose host key is unknown."""
    if not available():
        missing("no sshd")
    with loopback_sshd(tmp_path / "jump") as jump:
        config = tmp_path / "ssh config"
        config.write_text(
            f"""
Host jump
  HostName 127.0.0.1
  Port {jump.port}
  User {jump.user}
  IdentityFile "{jump.identity}"
Host board
  HostName 127.0.0.1
  Port {sshd.port}
  User {sshd.user}
  IdentityFile "{sshd.identity}"
  ProxyJump jump
"""
        )
        known = tmp_path / "known"
        known.write_text(sshd.known_hosts.read_text())
        device = Device(
            name="board",
            profile="p",
            address="ssh://board",
            transport_options={"known_hosts": str(known), "ssh_config": str(config)},
        )
        yield device, jump, known


def test_an_unknown_jump_host_is_refused_until_trusted(
    behind_a_jump: tuple[Device, LoopbackSshd, Path],
) -> None:
    device, jump, _ = behind_a_jump
    with pytest.raises(HostKeyUnknown, match="jump host key") as caught:
        open_ssh(device)
    assert f"[127.0.0.1]:{jump.port}" in str(caught.value)
    assert keygen_fingerprint(jump.folder / "host_key.pub") in str(caught.value)
    key = host_key(device)
    assert key.jump
    trust(device, key)
    transport = open_ssh(device)
    assert transport.run(["echo", "through"], 10.0).stdout == b"through\n"
    transport.close()


def test_an_unknown_key_behind_a_known_jump_host_is_refused(
    behind_a_jump: tuple[Device, LoopbackSshd, Path], sshd: LoopbackSshd
) -> None:
    device, jump, known = behind_a_jump
    known.write_text(jump.known_hosts.read_text())
    with pytest.raises(HostKeyUnknown, match=f"127.0.0.1]:{sshd.port}: the host key"):
        open_ssh(device)
    assert not host_key(device).jump


def test_a_changed_jump_host_is_refused(
    behind_a_jump: tuple[Device, LoopbackSshd, Path], sshd: LoopbackSshd
) -> None:
    device, jump, known = behind_a_jump
    wrong = f"[127.0.0.1]:{jump.port} {sshd.host_key_public}\n"
    known.write_text(sshd.known_hosts.read_text() + wrong)
    with pytest.raises(HostKeyUnknown, match="jump host key has CHANGED"):
        open_ssh(device)


def test_a_board_that_is_down_behind_its_jump_host(
    behind_a_jump: tuple[Device, LoopbackSshd, Path], sshd: LoopbackSshd, tmp_path: Path
) -> None:
    device, jump, known = behind_a_jump
    known.write_text(known.read_text() + jump.known_hosts.read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config = Path(str(SshOptions.of(device).ssh_config))
        port = f"Port {free.getsockname()[1]}"
        config.write_text(config.read_text().replace(f"Port {sshd.port}", port))
        with pytest.raises(Unreachable, match="the jump host could not reach it"):
            open_ssh(device)


def test_a_connection_that_breaks_in_the_middle_of_a_push(
    own_sshd: LoopbackSshd, device_on: DeviceOn, tmp_path: Path
) -> None:
    source, there = tmp_path / "big", tmp_path / "there.part"
    with source.open("wb") as file:
        file.truncate(4_000_000_000)
    transport = open_ssh(device_on(own_sshd))

    def cut() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                if there.stat().st_size > 5_000_000:
                    break
            time.sleep(0.005)
        for pid in sessions(own_sshd.pid):
            os.kill(pid, signal.SIGKILL)

    cutter = threading.Thread(target=cut)
    cutter.start()
    started = time.monotonic()
    with pytest.raises(Unreachable) as caught:
        transport.put(source, str(there))
    cutter.join()
    assert time.monotonic() - started < 20
    assert re.search(r"about \d{7,} of 4000000000 bytes", str(caught.value))
    assert "the connection broke" in str(caught.value)
    assert 5_000_000 < there.stat().st_size < 4_000_000_000
    with pytest.raises(Unreachable):
        transport.run(["true"], 5.0)
    with pytest.raises(TransportError):
        transport.put(source, str(there))
    transport.close()


def test_a_process_on_a_connection_that_breaks(own_sshd: LoopbackSshd, device_on: DeviceOn) -> None:
    transport = open_ssh(device_on(own_sshd))
    channel = transport.talk(["sh", "-c", "echo oh >&2; echo up; sleep 60"])
    assert channel.read(time.monotonic() + 10) == b"up\n"
    for pid in sessions(own_sshd.pid):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(Unreachable, match="the connection broke; end of its stderr: oh"):
        channel.read(time.monotonic() + 10)
    transport.close()


def test_a_frozen_server_is_noticed_within_ten_seconds(
    own_sshd: LoopbackSshd, device_on: DeviceOn
) -> None:
    transport = open_ssh(device_on(own_sshd))
    transport.run(["true"], 5.0)
    frozen = sessions(own_sshd.pid)
    try:
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(Unreachable, match="the connection broke"):
            transport.run(["true"], 60.0)
        assert time.monotonic() - started < 10.5
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    transport.close()


def test_an_idle_connection_stays_up(ssh_device: Device) -> None:
    transport = open_ssh(ssh_device)
    channel = transport.talk(["cat"])
    with pytest.raises(AgentSilent):
        channel.read(time.monotonic() + 9.0)
    channel.send(b"still here")
    assert channel.read(time.monotonic() + 5) == b"still here"
    transport.close()


def test_a_server_without_sftp_takes_files_by_commands(
    tmp_path: Path, device_on: DeviceOn, sshd: LoopbackSshd
) -> None:
    with loopback_sshd(tmp_path / "no sftp", extra="") as server:
        transport = open_ssh(device_on(server))
        source = tmp_path / "file"
        source.write_bytes(b"x")
        transport.put(source, str(tmp_path / "there"))
        assert (tmp_path / "there").read_bytes() == b"x"
        assert "no SFTP there" in str(transport.no_sftp)
        assert transport.run(["echo", "on"], 5.0).stdout == b"on\n"
        transport.close()


def test_a_forced_command_is_told_from_the_command_asked_for(
    tmp_path: Path, device_on: DeviceOn, sshd: LoopbackSshd
) -> None:
    extra = f"{SFTP}\nForceCommand echo only backups here"
    with loopback_sshd(tmp_path / "forced", extra=extra) as server:
        transport = open_ssh(device_on(server))
        with pytest.raises(TransportError, match=r"'only backups here.*forced command"):
            transport.run(["true"], 5.0)
        transport.close()


def test_a_login_script_that_prints_does_not_disturb(
    tmp_path: Path, device_on: DeviceOn, sshd: LoopbackSshd
) -> None:
    extra = f'{SFTP}\nForceCommand echo Welcome to the board; eval "$SSH_ORIGINAL_COMMAND"'
    with loopback_sshd(tmp_path / "noisy", extra=extra) as server:
        transport = open_ssh(device_on(server))
        assert transport.run(["echo", "clean"], 5.0).stdout == b"clean\n"
        channel = transport.talk(["cat"])
        channel.send(b"x")
        assert channel.read(time.monotonic() + 5) == b"x"
        transport.close()


def test_too_many_sessions_say_so(tmp_path: Path, device_on: DeviceOn, sshd: LoopbackSshd) -> None:
    with loopback_sshd(tmp_path / "one", extra=f"{SFTP}\nMaxSessions 1") as server:
        transport = open_ssh(device_on(server))
        transport.talk(["cat"])
        with pytest.raises(Unreachable, match="MaxSessions"):
            transport.run(["true"], 5.0)
        transport.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ssh://", "not of the form"),
        ("ssh://pi@host:port", "write ssh://user@host:port"),
        ("ssh://pi:secret@host", "no password in an address"),
        ("ssh://pi@host/home/pi", "has more than"),
        ("http://host", "not of the form"),
    ],
)
def test_an_address_that_is_none(home: Path, address: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        open_ssh(Device(name="typo", profile="p", address=address))
    assert str(caught.value).startswith("typo: ")
    assert "secret" not in str(caught.value)


def test_an_ssh_config_that_cannot_be_used(ssh_device: Device, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ssh_config .* does not exist"):
        open_ssh(opening.with_options(ssh_device, ssh_config=str(tmp_path / "none")))
    broken = tmp_path / "broken"
    broken.write_text("Host a\n  ThisIsNotALine\n")
    with pytest.raises(ConfigError, match="ssh_config cannot be read"):
        open_ssh(opening.with_options(ssh_device, ssh_config=str(broken)))


def test_a_known_hosts_file_that_cannot_be_read(ssh_device: Device, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="known hosts cannot be read"):
        open_ssh(opening.with_options(ssh_device, known_hosts=str(tmp_path)))
