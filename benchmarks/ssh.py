"""SSH on loopback: a command, a message to the agent, a big file, the same file again, no SFTP."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import server
from benchmarks.common import NotAsked, digest, run
from benchmarks.figure import Figure
from benchmarks.relay import Relay
from harness.devices import opening
from harness.devices.transports.ssh.options import SshOptions
from harness.devices.transports.ssh.transport import open_ssh
from harness.measure.sessions import Session
from harness.types import Device

EXEC_MS = 10.0
MESSAGE_MS = 1.0
PUSH_RATIO = 0.8
COMMANDS_RATIO = 0.3
PUSH_BYTES = 100_000_000
SMALL_TALK_BYTES = 4096
"""What asking whether a file is there may take on the wire, SSH's own framing included."""
ROUNDS = 5
MANY = 100


def figures() -> Iterator[Figure]:
    if shutil.which("scp") is None:
        raise NotAsked("scp is not installed (apt-get install openssh-client)")
    with tempfile.TemporaryDirectory(prefix="bench-ssh-") as name:
        folder = Path(name)
        with server.device(folder) as device:
            session = Session(device)
            try:
                yield _exec(session)
                yield _message(session, folder)
                yield _push(session, device, folder)
            finally:
                session.close()
            yield _again(device, folder)
            yield _by_commands(device, folder)


def _exec(session: Session) -> Figure:
    local = statistics.median(_times(lambda: run(["/bin/true"]), 20))
    ours = _times(lambda: session.transport.run(["true"], 10.0), MANY)
    milliseconds = statistics.median(ours) * 1000
    return Figure(
        name="ssh.exec_round_trip",
        value=milliseconds,
        unit="ms",
        bound=f"< {EXEC_MS:.0f} ms",
        holds=milliseconds < EXEC_MS,
        against=f"/bin/true without SSH: {local * 1000:.1f} ms",
        detail=f"median of {MANY}",
    )


def _message(session: Session, folder: Path) -> Figure:
    small = folder / "small"
    small.write_bytes(b"a file that is there already")
    files = {digest(small): small}
    session.bring(files)
    milliseconds = statistics.median(_times(lambda: session.dialect.deploy(files), MANY)) * 1000
    command = statistics.median(_times(lambda: session.transport.run(["true"], 10.0), 20)) * 1000
    return Figure(
        name="ssh.agent_message",
        value=milliseconds,
        unit="ms",
        bound=f"< {MESSAGE_MS:.0f} ms",
        holds=milliseconds < MESSAGE_MS,
        against=f"a command over the same connection: {command:.1f} ms",
        detail=f"asking for a file that is there, median of {MANY}",
    )


def _push(session: Session, device: Device, folder: Path) -> Figure:
    """Ours and scp alternate, each with bytes that the device has not seen."""
    address = urlsplit(device.address)
    options = [
        "-q",
        "-P",
        str(address.port),
        "-i",
        str(SshOptions.of(device).identity),
        "-o",
        "IdentitiesOnly=yes",
    ]
    options += ["-o", f"UserKnownHostsFile={SshOptions.of(device).known_hosts}", "-F", "none"]
    ours: list[float] = []
    theirs: list[float] = []
    hashing: list[float] = []
    for turn in range(ROUNDS):
        source, copied = folder / f"big-{turn}", folder / f"copied-{turn}"
        source.write_bytes(os.urandom(PUSH_BYTES))
        os.sync()  # our own writing must not be measured as somebody's push
        began = time.perf_counter()
        files = {digest(source): source}
        hashing.append(time.perf_counter() - began)

        def push(files: dict[str, Path] = files) -> None:
            session.dialect.deploy(files)

        def scp(source: Path = source, copied: Path = copied) -> None:
            run(["scp", *options, source, f"{address.username}@{address.hostname}:{copied}"])

        if turn % 2:
            ours += _times(push, 1)
            theirs += _times(scp, 1)
        else:
            theirs += _times(scp, 1)
            ours += _times(push, 1)
        source.unlink()
        copied.unlink()
    ratio = statistics.median(theirs) / statistics.median(ours)
    speed = PUSH_BYTES / 1e6 / statistics.median(ours)
    return Figure(
        name="ssh.push_100mb",
        value=ratio,
        unit="x",
        bound=f">= {PUSH_RATIO}",
        holds=ratio >= PUSH_RATIO,
        against=f"scp's speed, {PUSH_BYTES / 1e6 / statistics.median(theirs):.0f} MB/s",
        detail=f"ours {speed:.0f} MB/s with the device's digest and fsync, medians of {ROUNDS}; "
        f"the host's own digest {statistics.median(hashing):.2f} s is the build's",
    )


def _again(device: Device, folder: Path) -> Figure:
    """Push through a relay that counts, twice."""
    source = folder / "again"
    source.write_bytes(os.urandom(PUSH_BYTES))
    files = {digest(source): source}
    address = urlsplit(device.address)
    assert address.hostname
    assert address.port
    with Relay(address.hostname, address.port) as relay:
        there = device.address.replace(f":{address.port}", f":{relay.port}")
        known = folder / "known_hosts-relay"
        text = Path(str(SshOptions.of(device).known_hosts)).read_text()
        known.write_text(text.replace(f"]:{address.port} ", f"]:{relay.port} "))
        session = Session(
            opening.with_options(replace(device, address=there), known_hosts=str(known))
        )
        try:
            start = relay.sent
            session.dialect.deploy(files)
            first = relay.sent - start
            session.dialect.deploy(files)
            second = relay.sent - start - first
        finally:
            session.close()
    resent = 0 if second <= SMALL_TALK_BYTES else second
    return Figure(
        name="ssh.second_push",
        value=resent,
        unit="B",
        bound="0 B of the file",
        holds=first > PUSH_BYTES and resent == 0,
        against=f"the first push, {first} B on the wire",
        detail=f"asking whether it is there took {second} B",
    )


def _by_commands(device: Device, folder: Path) -> Figure:
    """Files by commands, as to a board without SFTP, and by SFTP; the two alternate."""
    source, there = folder / "by-commands", folder / "arrived"
    source.write_bytes(os.urandom(PUSH_BYTES))
    os.sync()
    sftp: list[float] = []
    commands: list[float] = []
    back: list[float] = []
    with server.device(folder / "without sftp", extra="") as other:
        ways = [(open_ssh(device), sftp), (open_ssh(other), commands)]
        for turn in range(ROUNDS):
            for transport, times in ways if turn % 2 else reversed(ways):
                times.extend(_times(lambda one=transport: one.put(source, str(there)), 1))
                there.unlink()
        slow = ways[1][0]
        slow.put(source, str(there))
        back += _times(lambda: slow.get(str(there), folder / "back"), ROUNDS)
        why = slow.no_sftp
        for transport, _ in ways:
            transport.close()
    assert why is not None
    speeds = [PUSH_BYTES / 1e6 / statistics.median(one) for one in (commands, sftp, back)]
    return Figure(
        name="ssh.push_without_sftp",
        value=speeds[0] / speeds[1],
        unit="x",
        bound=f">= {COMMANDS_RATIO}",
        holds=speeds[0] / speeds[1] >= COMMANDS_RATIO,
        against=f"SFTP's speed in the same run, {speeds[1]:.0f} MB/s",
        detail=f"{speeds[0]:.0f} MB/s with the digest on both sides, back {speeds[2]:.0f} MB/s, "
        f"medians of {ROUNDS}",
    )


def _times(action: Callable[[], object], count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return seconds
