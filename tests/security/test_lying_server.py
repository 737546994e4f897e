"""SSH servers that lie: every call ends in time, in bounded memory, with one of our errors."""

from __future__ import annotations

import resource
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest
from lying_sshd import Files, Lies, honest, lying_sshd, marked

from harness.devices.transports.ssh import (
    bounds as ssh_bounds,
)
from harness.devices.transports.ssh import (
    channel as ssh_channel,
)
from harness.devices.transports.ssh import (
    sftp as ssh_sftp,
)
from harness.devices.transports.ssh import (
    transfers,
)
from harness.devices.transports.ssh.transport import SshTransport, open_ssh
from harness.errors import (
    AgentSilent,
    HarnessError,
    TransferFailed,
    TransportError,
    Unreachable,
)
from harness.farm.doctor import examine
from harness.types import Device

MEGABYTES = 1 << 10


@pytest.fixture(autouse=True)
def _impatient(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the user's own SSH configuration; give up soon on a kill without an answer."""
    monkeypatch.setattr(ssh_channel, "_KILL_SECONDS", 0.3)


@pytest.fixture
def small() -> Iterator[Callable[[], int]]:
    """Return by how many kB the peak of our memory rose."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def flood(channel: paramiko.Channel, command: str) -> None:
    with suppress(OSError):
        while True:
            channel.sendall(b"y" * 32_000)


def flood_stderr(channel: paramiko.Channel, command: str) -> None:
    with suppress(OSError):
        while True:
            channel.sendall_stderr(b"y" * 32_000)


def flood_beyond_the_window(channel: paramiko.Channel, command: str) -> None:
    channel.out_window_size = 1 << 40
    flood(channel, command)


def say(data: bytes) -> Callable[[paramiko.Channel, str], None]:
    return lambda channel, _command: channel.sendall(data)


def drip(channel: paramiko.Channel, command: str) -> None:
    with suppress(OSError):
        while True:
            channel.sendall(b"\0")
            time.sleep(0.05)


COMMANDS = {
    "endless output": (marked(flood), TransportError, "wrote more than"),
    "endless output without a mark": (flood, TransportError, "login script runs instead"),
    "endless output on stderr": (marked(flood_stderr), HarnessError, "deadline|wrote more"),
    "no exit status": (marked(say(b"done\n")), Unreachable, "the process ended"),
    "a process number without end": (
        say(b"edge-harness-pid " + b"9" * 60_000 + b"\n"),
        TransportError,
        "did not run",
    ),
    "the number of every process": (
        say(b"edge-harness-pid 1\n"),
        TransportError,
        "did not run",
    ),
    "nothing": (
        lambda _channel, _command: None,
        TransportError,
        "was killed before it could start",
    ),
    "silence": (marked(lambda c, _: c.status_event.wait(3) and None), AgentSilent, "deadline"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_does_not_answer_honestly(
    name: str, tmp_path: Path, small: Callable[[], int]
) -> None:
    lie, error, reason = COMMANDS[name]
    with lying_sshd(tmp_path, Lies(exec=lie)) as device:
        transport = open_ssh(device)
        began = time.monotonic()
        with pytest.raises(error, match=reason):
            transport.run(["true"], 1.0)
        assert time.monotonic() - began < 8
        transport.close()
    assert small() < 96 * MEGABYTES


def test_who_sends_more_than_there_is_room_for_is_cut_off(
    tmp_path: Path, small: Callable[[], int]
) -> None:
    with lying_sshd(tmp_path, Lies(exec=marked(flood_beyond_the_window))) as device:
        transport = open_ssh(device)
        channel = transport.talk(["agent"])
        # No reader: the data must not be kept without a limit.
        deadline = time.monotonic() + 10
        while transport._connection.transport.is_active() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not transport._connection.transport.is_active()
        with pytest.raises((Unreachable, TransportError)):  # noqa: PT012
            while channel.read(time.monotonic() + 5):
                pass
        transport.close()
    assert small() < 96 * MEGABYTES


def test_a_request_that_is_never_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_channel, "_OPEN_SECONDS", 1.0)
    monkeypatch.setattr(ssh_sftp, "CHANNEL_SECONDS", 1.0)
    lies = Lies(
        exec=lambda c, _: c.status_event.wait(30) and None, answers_requests=False, sftp=Files
    )
    with lying_sshd(tmp_path, lies) as device:
        transport = open_ssh(device)
        with pytest.raises(AgentSilent, match="no answer to the request"):
            transport.run(["true"], 5.0)
        with pytest.raises(TransportError, match="no SFTP"):
            transport.get("/etc/hostname", tmp_path / "back")
        transport.close()


def test_a_banner_without_end(tmp_path: Path, home: Path, small: Callable[[], int]) -> None:
    config = home / "config"
    config.write_text("Host *\n  ConnectTimeout 5\n")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            with suppress(OSError):
                client, _ = server.accept()
                with client:
                    while True:
                        client.sendall(b"B" * 65536)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        address = f"ssh://pi@127.0.0.1:{server.getsockname()[1]}"
        device = Device(
            name="liar",
            profile="p",
            address=address,
            transport_options={"ssh_config": str(config)},
        )
        began = time.monotonic()
        with pytest.raises(Unreachable):
            open_ssh(device)
        assert time.monotonic() - began < 6
        thread.join(5)
    assert small() < 32 * MEGABYTES


def test_a_packet_of_absurd_length_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        packets = ssh_bounds.BoundedPackets(ours)
        theirs.sendall(struct.pack(">IB", 0x7FFFFFF4, 4) + b"x" * 100)
        with pytest.raises(paramiko.SSHException, match="a packet of"):
            packets.read_message()


# --- files ----------------------------------------------------------------------------------------


def lying_files(**lies: Any) -> type[paramiko.SFTPServerInterface]:
    """Files with other methods."""
    return type("LyingFiles", (Files,), lies)


def said_size(size: int | None) -> type[paramiko.SFTPServerInterface]:
    def stat(self: Files, path: str) -> paramiko.SFTPAttributes:
        found = paramiko.SFTPAttributes()
        found.st_size = size
        return found

    class Handle(paramiko.SFTPHandle):
        def stat(self) -> paramiko.SFTPAttributes:
            return stat(None, "")  # type: ignore[arg-type]

        def read(self, offset: int, length: int) -> bytes:
            return b"z" * length

    return lying_files(stat=stat, open=lambda _self, _path, flags, _attr: Handle(flags))


def honest_but(sftp: type[paramiko.SFTPServerInterface]) -> Lies:
    return Lies(exec=honest, sftp=sftp)


@pytest.mark.parametrize("size", [None, 0, 100, 10**12, 2**63 - 1, 2**64 - 1])
def test_a_file_without_end_whatever_size_it_is_said_to_have(
    size: int | None, tmp_path: Path, small: Callable[[], int]
) -> None:
    with lying_sshd(tmp_path, honest_but(said_size(size))) as device:
        transport = open_ssh(device)
        with pytest.raises(TransferFailed, match="more than 300000 bytes"):
            transport.get("/any", tmp_path / "back", 300_000)
        transport.close()
    assert not list(tmp_path.glob(".get-*"))
    assert not (tmp_path / "back").exists()
    assert small() < 64 * MEGABYTES


def test_a_push_that_is_said_to_be_whole_and_is_not(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x" * 50_000)
    with lying_sshd(tmp_path, honest_but(said_size(49_999))) as device:
        transport = open_ssh(device)
        with pytest.raises(TransferFailed, match="only 49999 bytes"):
            transport.put(source, "/any")
        transport.close()


def test_folders_that_are_never_there(tmp_path: Path) -> None:
    gone = lying_files(stat=lambda _self, _path: paramiko.SFTP_NO_SUCH_FILE)
    source = tmp_path / "file"
    source.write_bytes(b"x")
    with lying_sshd(tmp_path, honest_but(gone)) as device:
        transport = open_ssh(device)
        for there in ("/a/b/c", "a/b/c", "c"):
            with pytest.raises(TransferFailed):
                transport.put(source, there)
        transport.close()


VERSION = struct.pack(">IBI", 5, 2, 3)


def after_version(data: bytes, times: int = 1) -> Callable[[paramiko.Channel, str], None]:
    """Open SFTP as a server does, then answer every request with these bytes."""

    def answer_wrongly(channel: paramiko.Channel, command: str) -> None:
        channel.recv(1 << 16)
        channel.sendall(VERSION)
        while channel.recv(1 << 16):
            for _ in range(times):
                channel.sendall(data)

    return answer_wrongly


def answer(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body


SPEECHES = {
    "a greeting": say(b"Welcome to the board!\r\n" * 10),
    "nothing": lambda _channel, _command: None,
    "a huge answer": after_version(struct.pack(">IB", 0xFFFFFF, 101) + b"x" * 9),
    "garbage": after_version(b"\xff" * 4096),
    "an empty answer": after_version(struct.pack(">I", 0)),
    "answers to no request": after_version(answer(101, struct.pack(">II", 9999, 0)), 50),
    "a handle where a status belongs": after_version(
        answer(102, struct.pack(">III", 1, 1, 0)) + answer(102, struct.pack(">III", 2, 1, 0))
    ),
    "a name in other letters": after_version(
        answer(101, struct.pack(">III", 1, 4, 4) + b"\xff\xfe\xfd\xfc" + struct.pack(">I", 0))
    ),
    "a drip": drip,
}


@pytest.mark.parametrize("name", SPEECHES)
def test_an_sftp_server_that_speaks_nonsense(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Callable[[], int]
) -> None:
    monkeypatch.setattr(ssh_sftp, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(transfers, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(ssh_sftp, "CHANNEL_SECONDS", 1.0)
    with lying_sshd(tmp_path, Lies(subsystem=SPEECHES[name])) as device:
        transport = open_ssh(device)
        began = time.monotonic()
        with pytest.raises(TransportError) as caught:
            transport.get("/any", tmp_path / "back", 1000)
        assert time.monotonic() - began < 5
        if name == "a greeting":
            assert "another program prints on the SFTP channel" in str(caught.value)
        transport.close()
    assert small() < 32 * MEGABYTES


def test_doctor_of_a_device_whose_files_do_not_come_back(tmp_path: Path) -> None:
    """Doctor against this server: every check ends, and one of them reports the lie."""
    with lying_sshd(tmp_path, honest_but(said_size(100_000))) as device:
        from harness.devices.dialects.python_agent.dialect import open_json_lines

        checks = {check.name: check for check in examine(device, open_ssh, open_json_lines)}
    assert checks["commands"].status == "ok"
    assert checks["files"].status == "fail"
    assert checks["python"].status == "ok"
    assert checks["agent"].status == "fail"


def test_nothing_is_left_running_or_written(tmp_path: Path) -> None:
    with lying_sshd(tmp_path / "server", honest_but(Files)) as device:
        transport: SshTransport = open_ssh(device)
        source = tmp_path / "file"
        source.write_bytes(b"x" * 200_000)
        transport.put(source, str(tmp_path / "there" / "file"))
        transport.get(str(tmp_path / "there" / "file"), tmp_path / "back", 200_000)
        assert (tmp_path / "back").read_bytes() == source.read_bytes()
        assert transport.run(["echo", "x"], 10.0).stdout == b"x\n"
        transport.close()
    names = {thread.name for thread in threading.enumerate()}
    assert "ssh-pulse" not in names
