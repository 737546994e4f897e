"""What a launch needs is removed, or the disk is full: the cause is named, and what can be is made again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import RawAgent, digest_of
from conftest import ROOT, missing

from harness.devices import opening
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, _wire
from harness.errors import NoSpace, RuntimeMissing
from harness.events import Event, Reconnected
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.types import Device, LaunchOrder

pytest_plugins = ("agent_fixtures",)


def everything(workdir: Path) -> None:
    shutil.rmtree(workdir)


def agents(workdir: Path) -> None:
    shutil.rmtree(workdir / "agents")


def outputs(workdir: Path) -> None:
    shutil.rmtree(workdir / "out")


def models(workdir: Path) -> None:
    for path in (workdir / "blobs").iterdir():
        path.unlink()


REMOVALS = pytest.mark.parametrize("remove", [everything, agents, outputs, models])


@REMOVALS
def test_what_was_removed_is_named_and_is_no_crash(
    remove: Callable[[Path], None], raw: RawAgent, order: LaunchOrder, kws: Path
) -> None:
    raw.give(kws)
    remove(raw.workdir)
    answer = raw.ask("launch", order=_wire(order))
    assert answer["kind"] == "transfer_failed"
    assert "gone from the device" in answer["reason"] or "send it first" in answer["reason"]


@REMOVALS
def test_a_run_makes_the_work_folder_again_and_goes_on(
    remove: Callable[[Path], None], device: Device, workdir: Path, order: LaunchOrder, kws: Path
) -> None:
    events: list[Event] = []
    session = Session(device)
    try:
        with Bench(session=session, emit=events.append) as bench:
            bench.bring({digest_of(kws): kws})
            bench.recovering(lambda: bench.trial(order), "a launch")
            remove(workdir)
            again = replace(order, block=2)
            launch = bench.recovering(lambda: bench.trial(again), "a launch")
        assert launch.block == 2
        assert sum(isinstance(one, Reconnected) for one in events) == 1
    finally:
        session.close()


def test_a_python_that_was_removed_is_named(
    device: Device, tmp_path: Path, order: LaunchOrder, kws: Path
) -> None:
    python = tmp_path / "python3"
    python.symlink_to(sys.executable)
    session = Session(opening.with_options(device, python=str(python)))
    try:
        session.bring({digest_of(kws): kws})
        python.unlink()
        with pytest.raises(RuntimeMissing, match=rf"the device's Python {python} is gone"):
            session.dialect.launch(order)
        with pytest.raises(RuntimeMissing, match=r"no Python on the device"):
            session.reopen()
    finally:
        session.close()


def test_a_file_that_was_damaged_under_a_launch_is_no_crash(tmp_path: Path, kws: Path) -> None:
    """A process that maps a file which is cut short ends by SIGBUS, as a bad model may."""
    digest = digest_of(kws)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.argv[0] = sys.executable\n"
        "import wire, workdir\n"
        "folder = workdir.Workdir(sys.argv[2])\n"
        "crash = wire.AgentFault('crashed', 'the launch was killed by SIGBUS')\n"
        "found = folder.explained(crash, sys.argv[3])\n"
        "print(found.kind, '|', found.reason)\n"
    )

    def explained() -> str:
        argv = [
            sys.executable,
            "-c",
            script,
            str(ROOT / "agents" / "python_tflite"),
            str(tmp_path / "work"),
            digest,
        ]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    assert explained().startswith("transfer_failed | ")
    blob = tmp_path / "work" / "blobs" / digest
    shutil.copy(kws, blob)
    assert explained() == "crashed | the launch was killed by SIGBUS\n"
    os.truncate(blob, 100)
    assert "its file was damaged on the device meanwhile" in explained()
    assert not blob.exists()


@pytest.fixture
def small_disk(workdir: Path) -> Iterator[Path]:
    """A work folder on a disk of its own, of 4 MB."""
    if os.geteuid() != 0:
        missing("only root mounts a small disk")
    workdir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(workdir)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        missing("no tmpfs can be mounted here")
    yield workdir
    subprocess.run(["umount", "-l", str(workdir)], check=True)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_is_no_space_with_the_disk_and_what_is_free(
    small_disk: Path, dialect: JsonLinesDialect, order: LaunchOrder, kws: Path, tmp_path: Path
) -> None:
    dialect.deploy({digest_of(kws): kws})
    fill(small_disk / "filler")
    full = rf"the disk at {small_disk} is full: 0 bytes are free for {small_disk}"
    with pytest.raises(NoSpace, match=full):
        dialect.launch(order)
    model = tmp_path / "other"
    model.write_bytes(os.urandom(100_000))
    with pytest.raises(
        NoSpace, match=r"disk is full: 100000 bytes do not fit .* bytes that are free"
    ):
        dialect.deploy({digest_of(model): model})
    assert not list((small_disk / "incoming").iterdir())
    (small_disk / "filler").unlink()
    assert dialect.launch(order).inferences
