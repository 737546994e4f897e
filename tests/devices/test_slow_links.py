"""A slow link is not a dead one: a real sshd behind a proxy that passes few bytes a second."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standins.slow_link import SlowLink

from harness.demo.loopback_sshd import LoopbackSshd
from harness.devices.framing import JsonLines
from harness.devices.transports.ssh import pace, pulse, transfers
from harness.devices.transports.ssh.sftp import NoSftp
from harness.devices.transports.ssh.transport import SshTransport, open_ssh
from harness.errors import AgentError, AgentSilent, TransferFailed, Unreachable
from harness.types import Device, PushProgress

SLOW = 20_000.0


@pytest.fixture
def link(sshd: LoopbackSshd) -> Iterator[SlowLink]:
    with SlowLink(sshd.port, bytes_per_second=1e6) as opened:
        yield opened


@pytest.fixture
def behind(link: SlowLink, sshd: LoopbackSshd, tmp_path: Path) -> Iterator[SshTransport]:
    """A transport through the link."""
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{link.port} {sshd.host_key_public}\n")
    options = {"identity": str(sshd.identity), "known_hosts": str(known_hosts)}
    address = f"ssh://{sshd.user}@127.0.0.1:{link.port}"
    opened = open_ssh(Device(name="far", profile="p", address=address, transport_options=options))
    yield opened
    opened.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the times that are in use."""
    monkeypatch.setattr(pulse, "PING_SECONDS", 0.6)
    monkeypatch.setattr(pulse, "SILENCE_SECONDS", 2.0)
    monkeypatch.setattr(pace, "_QUICK_SECONDS", 0.12)
    monkeypatch.setattr(pace, "_LATE_SECONDS", 0.5)


def by_commands(transport: SshTransport) -> None:
    """Make the transport's files travel by commands."""
    transport._commands = transport._by_commands(NoSftp("none there"))


@pytest.mark.parametrize("commands", [False, True], ids=["sftp", "commands"])
def test_a_push_that_takes_longer_than_a_dead_link_is_given_arrives(
    impatient: None, link: SlowLink, behind: SshTransport, tmp_path: Path, *, commands: bool
) -> None:
    if commands:
        by_commands(behind)
    shown: list[PushProgress] = []
    behind.on_progress = shown.append
    source, there = tmp_path / "source", tmp_path / "there" / "part"
    source.write_bytes(os.urandom(70_000))
    link.bytes_per_second = SLOW
    behind.put(source, str(there))
    assert there.read_bytes() == source.read_bytes()
    assert [one.arrived_bytes for one in shown] == sorted(one.arrived_bytes for one in shown)
    last = shown[-1]
    assert (last.name, last.file_bytes) == ("source", 70_000)
    assert 0.3 * SLOW < last.bytes_per_second < 1.3 * SLOW
    assert last.seconds_left is not None
    assert last.seconds_left < 5.0


@pytest.mark.parametrize("commands", [False, True], ids=["sftp", "commands"])
def test_a_link_that_dies_during_a_push_is_noticed_all_the_same(
    impatient: None, link: SlowLink, behind: SshTransport, tmp_path: Path, *, commands: bool
) -> None:
    if commands:
        by_commands(behind)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(1_000_000))
    link.bytes_per_second = SLOW
    died: list[float] = []

    def die() -> None:
        link.bytes_per_second = 0
        died.append(time.monotonic())

    timer = threading.Timer(1.0, die)
    timer.start()
    with pytest.raises(Unreachable, match=r"about \d+ of 1000000 bytes were sent"):
        behind.put(source, str(tmp_path / "part"))
    assert time.monotonic() - died[0] < 5.0
    timer.join()


@pytest.mark.parametrize("commands", [False, True], ids=["sftp", "commands"])
@pytest.mark.parametrize("way", ["put", "get"])
def test_a_transfer_under_the_limit_ends_and_says_how_fast_it_was(
    monkeypatch: pytest.MonkeyPatch,
    link: SlowLink,
    behind: SshTransport,
    tmp_path: Path,
    way: str,
    *,
    commands: bool,
) -> None:
    if commands:
        by_commands(behind)
    monkeypatch.setattr(transfers, "STALL_SECONDS", 2.0)
    monkeypatch.setattr(transfers, "MIN_BYTES_PER_SECOND", 50_000.0)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(200_000))
    link.bytes_per_second = SLOW
    reason = r"too slow: \d+ bytes/s arrived over the last 2 s, at least 50000 are needed"
    arguments = (source, str(tmp_path / "part")) if way == "put" else (str(source), tmp_path / "b")
    with pytest.raises(TransferFailed, match=reason):
        getattr(behind, way)(*arguments)


def test_a_large_request_to_a_process_arrives_over_a_slow_link(
    impatient: None, link: SlowLink, behind: SshTransport
) -> None:
    channel = behind.talk(["cat"])
    link.bytes_per_second = SLOW
    data = os.urandom(50_000)
    channel.send(data)
    received = b""
    while len(received) < len(data):
        received += channel.read(time.monotonic() + 10.0)
    assert received == data


def test_an_answer_that_is_arriving_is_waited_for_and_one_that_is_not_is_silent() -> None:
    class Dripping:
        """An answer of 3,000 bytes, which come at this speed on a clock of the test's."""

        def __init__(self, bytes_per_second: float) -> None:
            self.speed, self.now, self.left = bytes_per_second, time.monotonic(), 3000

        def read(self, deadline: float) -> bytes:
            self.now += 100 / self.speed
            if self.now > deadline:
                raise AgentSilent("no answer before the deadline")
            self.left -= 100
            return b" " * 98 + b"{}" if self.left else b"\n"

    for speed, comes in ((2000.0, True), (500.0, False)):
        lines = JsonLines(Dripping(speed), "d")  # type: ignore[arg-type]
        if comes:
            with pytest.raises(AgentError):
                lines.read(time.monotonic() + 0.3)
        else:
            with pytest.raises(AgentSilent):
                lines.read(time.monotonic() + 0.3)


# --- the pace alone ------------------------------------------------------------------------------


class Pings:
    """Counts the pings of a pace, and answers them at given times of a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)
        self.sent = 0
        self.pace = pace.Pace(self.count)

    def count(self) -> None:
        self.sent += 1

    def carry(self, size: int, bytes_per_second: float) -> float:
        """Send this much over a link; returns the longest time between two answers."""
        one, left, longest = self.pace, size, 0.0
        queued: list[int] = []
        while left or queued:
            piece = min(left, one.piece_bytes)
            if piece and one.wait_for_room(piece, 0.0):
                before = self.sent
                one.sent(piece)
                left -= piece
                if self.sent > before:
                    queued.append(one._sent)
                continue
            if not queued:
                break
            seconds = (queued.pop(0) - one.confirmed_bytes) / bytes_per_second
            self.now += seconds
            longest = max(longest, seconds)
            one.answered()
        return longest


@pytest.mark.parametrize("speed", [1_000.0, 1_250.0, 12_500.0, 1e5, 1e6, 1e8])
def test_answers_come_steadily_at_any_speed(speed: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pings = Pings(monkeypatch)
    pings.pace.ping()
    pings.now += 0.7  # by satellite
    pings.pace.answered()
    longest = pings.carry(int(30 * speed) + 30_000, speed)
    assert longest < pulse.SILENCE_SECONDS / 2
    used = 30 * speed + 30_000
    assert pings.now < 1.2 * used / speed, "the link is kept busy"
    assert pings.sent < 30_000 / 1024 + 30 * speed / 1024 + 20
    before = pings.pace._window
    if speed == 1e8:
        assert before == pace.MAX_WINDOW_BYTES


def test_answers_to_no_ping_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    pings = Pings(monkeypatch)
    pings.pace.answered()
    assert pings.pace.wait_for_room(1, 0.0)
    assert (pings.pace.confirmed_bytes, pings.pace.unconfirmed_bytes) == (0, 0)


def test_a_link_that_becomes_slow_is_not_dead_while_its_queue_shrinks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a fast link much may be on its way; when it slows down, answers are late."""
    ours, theirs = socket.socketpair()
    now = 0.0
    monkeypatch.setattr(pulse.time, "monotonic", lambda: now)
    watched = pulse.WatchedSocket(ours)
    backlog = [5000]
    monkeypatch.setattr(watched, "unsent", lambda: backlog[0])
    ours.settimeout(0.01)
    watched.watch()
    for left in (5000, 4000, 3000, 2000, 1000):
        now, backlog[0] = now + 5.0, left
        with pytest.raises(TimeoutError):
            watched.recv(10)
    # A backlog that ends, as a ping does, is no sign of life; nor is one that stays or grows.
    for left in (0, 60, 0, 60):
        now, backlog[0] = now + 1.0, left
        with pytest.raises(TimeoutError):
            watched.recv(10)
    now += 5.0
    with pytest.raises(ConnectionResetError, match="no data for 8 s"):
        watched.recv(10)
    ours.close()
    theirs.close()
