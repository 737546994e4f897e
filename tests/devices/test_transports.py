"""The promises of protocols.Transport, tested on this machine and on a real sshd."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import missing

from harness.demo.loopback_sshd import INSTALL, SFTP, LoopbackSshd, available, loopback_sshd
from harness.devices.transports.adb.transport import open_adb
from harness.devices.transports.local import open_local
from harness.devices.transports.ssh.transport import open_ssh
from harness.errors import AgentSilent, ConfigError, TransferFailed, TransportError, Unreachable
from harness.protocols import Transport
from harness.types import Device

On = Callable[[LoopbackSshd], Device]
AWKWARD = "mödel 'one' \"two\" $HOME;`x`.part"


@pytest.fixture(scope="session")
def without_sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    """A server to which files travel by commands."""
    if not available():
        missing(INSTALL)
    with loopback_sshd(tmp_path_factory.mktemp("without sftp"), extra="") as server:
        yield server


@pytest.fixture(params=["local", "ssh", "ssh without sftp", "adb"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    before = set(threading.enumerate())
    if request.param == "ssh without sftp":
        device_on = request.getfixturevalue("device_on")
        opened: Transport = open_ssh(device_on(request.getfixturevalue("without_sftp")))
    elif request.param == "adb":
        opened = open_adb(request.getfixturevalue("pixel").device)
    elif request.param == "local":
        opened = open_local(Device(name="here", profile="linux_x86_64", address="local:"))
    else:
        opened = open_ssh(request.getfixturevalue("ssh_device"))
    yield opened
    opened.close()
    opened.close()
    assert set(threading.enumerate()) == before


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually_ended(pid: int) -> bool:
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        if not is_running(pid):
            return True
        time.sleep(0.02)
    return False


def test_arguments_arrive_as_they_are(transport: Transport) -> None:
    argv = ["printf", "%s|", "a b", "$HOME", "it's", '"', "*", "ü", "", "-n", "\n"]
    reply = transport.run(argv, 10.0)
    assert reply.stdout.decode() == "a b|$HOME|it's|\"|*|ü||-n|\n|"
    assert (reply.exit_code, reply.argv) == (0, tuple(argv))
    assert 0 < reply.seconds < 10


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 42", 42), ("kill -9 $$", 137), ("kill -11 $$", 139)]
)
def test_exit_codes_and_signals(transport: Transport, script: str, code: int) -> None:
    assert transport.run(["sh", "-c", script], 10.0).exit_code == code


def test_a_missing_program_is_127_with_words(transport: Transport) -> None:
    reply = transport.run(["no-such-program"], 10.0)
    assert reply.exit_code == 127
    assert b"no-such-program" in reply.stderr


def test_bytes_pass_unchanged_both_ways(transport: Transport) -> None:
    data = bytes(range(256)) * 16_000
    reply = transport.run(["cat"], 30.0, stdin=data)
    assert reply.stdout == data


def test_stdout_and_stderr_stay_apart_and_neither_blocks(transport: Transport) -> None:
    script = "head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; echo end"
    reply = transport.run(["sh", "-c", script], 30.0)
    assert len(reply.stderr) == 3_000_000
    assert reply.stdout.endswith(b"end\n")


def test_a_command_that_ignores_its_input_is_judged_by_its_exit_code(transport: Transport) -> None:
    assert transport.run(["sh", "-c", "exit 3"], 10.0, stdin=b"x" * 3_000_000).exit_code == 3


def test_a_deadline_ends_the_command_and_its_children(transport: Transport, tmp_path: Path) -> None:
    script = f"sleep 60 & echo $! > '{tmp_path}/child'; echo $$ > '{tmp_path}/leader'; wait"
    started = time.monotonic()
    with pytest.raises(AgentSilent, match="sh"):
        transport.run(["sh", "-c", script], 0.5)
    assert time.monotonic() - started < 3
    for name in ("leader", "child"):
        assert eventually_ended(int((tmp_path / name).read_text()))
    assert transport.run(["echo", "still", "there"], 10.0).stdout == b"still there\n"


def test_endless_output_is_ended(transport: Transport) -> None:
    with pytest.raises(TransportError, match="more than 8388608 bytes"):
        transport.run(["cat", "/dev/zero"], 30.0)


def test_a_file_goes_and_comes_back_by_an_awkward_name(
    transport: Transport, tmp_path: Path
) -> None:
    source, back = tmp_path / f"from {AWKWARD}", tmp_path / "new" / f"to {AWKWARD}"
    source.write_bytes(os.urandom(1_000_003))
    there = tmp_path / "a" / "b ü" / AWKWARD
    transport.put(source, str(there))
    assert there.read_bytes() == source.read_bytes()
    assert there.parent.stat().st_mode & 0o777 == 0o700
    transport.get(str(there), back)
    assert back.read_bytes() == source.read_bytes()
    assert list(back.parent.iterdir()) == [back]


def test_put_replaces_a_longer_file(transport: Transport, tmp_path: Path) -> None:
    source, there = tmp_path / "source", tmp_path / "there"
    source.write_bytes(b"short")
    there.write_bytes(b"something longer")
    transport.put(source, str(there))
    assert there.read_bytes() == b"short"


def test_an_empty_file_arrives(transport: Transport, tmp_path: Path) -> None:
    source = tmp_path / "empty"
    source.touch()
    transport.put(source, str(tmp_path / "x" / "empty"))
    assert (tmp_path / "x" / "empty").read_bytes() == b""


def test_a_file_that_is_not_there_is_named_and_nothing_appears(
    transport: Transport, tmp_path: Path
) -> None:
    with pytest.raises(TransferFailed, match="nowhere"):
        transport.get(str(tmp_path / "nowhere"), tmp_path / "out" / "file")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(TransferFailed, match="nowhere"):
        transport.put(tmp_path / "nowhere", str(tmp_path / "there"))
    assert transport.run(["true"], 10.0).exit_code == 0


def test_a_full_disk_is_said_and_the_transport_lives_on(
    transport: Transport, tmp_path: Path
) -> None:
    folder = tmp_path / "full"
    folder.mkdir()
    source = tmp_path / "big"
    source.write_bytes(bytes(8_000_000))
    root = os.geteuid() == 0
    if root:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
        assert transport.run(mount, 10.0).exit_code == 0
    destination = str(folder / "big.part") if root else "/dev/full"
    try:
        with pytest.raises(TransferFailed, match=r"big.*(bytes are free|No space left)"):
            transport.put(source, destination)
        assert transport.run(["echo", "on"], 10.0).stdout == b"on\n"
        small = tmp_path / "small"
        small.write_bytes(b"x")
        transport.put(small, str(tmp_path / "small.part"))
    finally:
        if root:
            assert transport.run(["umount", str(folder)], 10.0).exit_code == 0


def test_talk_is_a_conversation(transport: Transport) -> None:
    channel = transport.talk(["sh", "-c", "echo warned >&2; cat; exit 3"])
    for line in (b"one\n", bytes(range(256)), b"x" * 300_000):
        channel.send(line)
        received = b""
        while len(received) < len(line):
            received += channel.read(time.monotonic() + 10)
        assert received == line
    assert channel.errors() == b"warned\n"
    started = time.monotonic()
    with pytest.raises(AgentSilent):
        channel.read(time.monotonic() + 0.2)
    assert 0.15 < time.monotonic() - started < 2
    channel.close()
    channel.close()
    with pytest.raises(Unreachable):
        channel.send(b"x")


def test_the_end_of_a_process_is_the_end_of_the_stream(transport: Transport) -> None:
    channel = transport.talk(["sh", "-c", "echo output; echo errors >&2"])
    received = b""
    while data := channel.read(time.monotonic() + 10):
        received += data
    assert received == b"output\n"
    assert channel.read(time.monotonic() + 1) == b""
    assert channel.errors() == b"errors\n"


def test_a_missing_program_ends_the_stream_with_words(transport: Transport) -> None:
    channel = transport.talk(["no-such-program"])
    assert channel.read(time.monotonic() + 10) == b""
    assert b"no-such-program" in channel.errors()


def test_closing_ends_a_process_that_does_not_listen(transport: Transport, tmp_path: Path) -> None:
    script = f"trap '' HUP TERM; echo $$ > '{tmp_path}/pid'; echo up; exec sleep 60"
    channel = transport.talk(["sh", "-c", script])
    assert channel.read(time.monotonic() + 10) == b"up\n"
    transport.close()
    assert eventually_ended(int((tmp_path / "pid").read_text()))


def test_much_stderr_does_not_stop_a_talk(transport: Transport) -> None:
    script = "head -c 5000000 /dev/zero >&2; echo tail >&2; echo done"
    channel = transport.talk(["sh", "-c", script])
    assert channel.read(time.monotonic() + 20) == b"done\n"
    assert len(channel.errors()) <= 64 * 1024


def test_ten_megabytes_arrive_whole(transport: Transport, tmp_path: Path) -> None:
    source = tmp_path / "ten"
    source.write_bytes(os.urandom(10_000_000))
    transport.put(source, str(tmp_path / "there"))
    assert (
        hashlib.sha256((tmp_path / "there").read_bytes()).digest()
        == hashlib.sha256(source.read_bytes()).digest()
    )


def test_local_takes_only_its_own_address() -> None:
    with pytest.raises(ConfigError, match="local:"):
        open_local(Device(name="x", profile="p", address="local:/somewhere"))


def test_a_command_killed_as_it_begins_is_no_forced_command(tmp_path: Path, device_on: On) -> None:
    """sshd runs a forced command by the account's shell, here one that is killed at once."""
    with loopback_sshd(tmp_path / "sshd", f"{SFTP}\nForceCommand kill -9 $$") as server:
        transport = open_ssh(device_on(server))
        try:
            with pytest.raises(Unreachable, match="was killed before it could start"):
                transport.run(["true"], timeout_seconds=10.0)
        finally:
            transport.close()
