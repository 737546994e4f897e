"""A phone behind a real adbd on this machine: a command, a big file, the same file again.

`adb` itself is measured beside it, in turns, on the same phone and the same adb server.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common import ROOT, NotAsked, digest
from benchmarks.figure import Figure
from harness.devices.by_shell.files import BlobFolder
from harness.devices.transports.adb.transport import AdbTransport, open_adb

sys.path.insert(0, str(ROOT / "tests"))
from standins import adbd, phones

PUSH_RATIO = 0.8
COMMAND_RATIO = 1.5
PUSH_BYTES = 20_000_000
ROUNDS = 25
COMMANDS = 50


def figures() -> Iterator[Figure]:
    if shutil.which("adb") is None or (why := adbd.why_not()) is not None:
        raise NotAsked(f"no phone can be made here: {why or 'adb is not installed'}")
    if os.geteuid() != 0:
        raise NotAsked("the phone's root needs mounts, which only root may make")
    with tempfile.TemporaryDirectory(prefix="bench-adb-") as name:
        folder = Path(name)
        with (
            phones.adb_server(folder / "server") as server,
            phones.phone(folder / "phone", server) as phone,
        ):
            transport = open_adb(phone.device)
            try:
                yield _command(transport, phone)
                yield _push(transport, phone, folder)
                yield _again(transport, folder)
            finally:
                transport.close()


def _command(transport: AdbTransport, phone: phones.Phone) -> Figure:
    serial = phone.address.removeprefix("adb:")
    ours, theirs = _in_turns(
        lambda: transport.run(["true"], 10.0),
        lambda: phone.server.adb("-s", serial, "shell", "true"),
        COMMANDS,
    )
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Figure(
        name="adb.command_round_trip",
        value=ratio,
        unit="x",
        bound=f"< {COMMAND_RATIO}x of `adb shell true`",
        holds=ratio < COMMAND_RATIO,
        against=f"adb shell true: {statistics.median(theirs) * 1000:.1f} ms",
        detail=f"{statistics.median(ours) * 1000:.1f} ms, medians of {COMMANDS} in turns",
    )


def _push(transport: AdbTransport, phone: phones.Phone, folder: Path) -> Figure:
    source = folder / "big"
    source.write_bytes(os.urandom(PUSH_BYTES))
    serial = phone.address.removeprefix("adb:")
    ours, theirs = _in_turns(
        lambda: transport.put(source, f"{phones.WORKDIR}/ours.part"),
        lambda: phone.server.adb("-s", serial, "push", str(source), "/data/local/tmp/theirs"),
        ROUNDS,
    )
    ratio = statistics.median(theirs) / statistics.median(ours)
    return Figure(
        name="adb.push_20_mb",
        value=ratio,
        unit="x",
        bound=f">= {PUSH_RATIO}x of `adb push`",
        holds=ratio >= PUSH_RATIO,
        against=f"adb push: {PUSH_BYTES / statistics.median(theirs) / 1e6:.0f} MB/s",
        detail=f"{PUSH_BYTES / statistics.median(ours) / 1e6:.0f} MB/s, medians of {ROUNDS} in turns",
    )


def _again(transport: AdbTransport, folder: Path) -> Figure:
    source = folder / "big"
    name = digest(source)
    BlobFolder(transport, "phone", phones.WORKDIR).deploy({name: source})
    started = time.perf_counter()
    pushes = BlobFolder(transport, "phone", phones.WORKDIR).deploy({name: source})
    seconds = time.perf_counter() - started
    sent = sum(push.travelled_bytes for push in pushes)
    return Figure(
        name="adb.second_push",
        value=float(sent),
        unit="B",
        bound="= 0 B",
        holds=sent == 0,
        against="the same 20 MB, by a new connection",
        detail=f"its digest was computed there and compared in {seconds * 1000:.0f} ms",
    )


def _in_turns(
    ours: Callable[[], object], theirs: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for place, run in enumerate((ours, theirs)):
            started = time.perf_counter()
            run()
            times[place].append(time.perf_counter() - started)
    return times
