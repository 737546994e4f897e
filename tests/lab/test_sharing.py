"""Two controllers share a board: the lease decides, also if one of them is silently lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from harness import api
from harness.devices import renewal
from harness.measure.leases import Patience
from harness.measure.sessions import Session

from .__main__ import farm_entry
from .device import Hosted
from .test_measuring import DOSE, digits_plan, farm_of

pytestmark = pytest.mark.lab
LIFE_SECONDS = 30.0
CLI = (sys.executable, "-m", "harness.cli")


@pytest.fixture
def host(x86_hosts: list[Hosted]) -> Hosted:
    return x86_hosts[0]


def begin_long_run(host: Hosted, folder: Path) -> subprocess.Popen[bytes]:
    """Start a controller whose launch takes minutes; returns when that launch is under way."""
    plan = digits_plan(folder, [host])
    long = DOSE + 'scenario = "sustained"\nsustained_minutes = 5\n'
    plan.write_text(plan.read_text().replace(DOSE, long))
    farm = folder / "farm.toml"
    farm.write_text(farm_entry(host.entry))
    argv = ["run", str(plan), "--farm", str(farm), "--results", str(folder / "theirs")]
    with (folder / "output").open("wb") as output:
        going = subprocess.Popen([*CLI, *argv], stderr=output, stdout=output)
    deadline = time.monotonic() + 90.0
    while not launches(host, 2.0):
        assert time.monotonic() < deadline, (folder / "output").read_text()
        time.sleep(0.2)
    return going


def launches(host: Hosted, older: float = 0.0) -> list[int]:
    """Return the process ids of launches on the device that have run for at least `older` seconds."""
    first = {pid for pid, line in host.commands().items() if " child " in line}
    time.sleep(older)
    return [pid for pid, line in host.commands().items() if " child " in line and pid in first]


def agents(host: Hosted) -> list[int]:
    return [pid for pid, line in host.commands().items() if "/agents/" in line]


def test_a_controller_that_falls_silent_is_taken_over(host: Hosted, tmp_path: Path) -> None:
    """A suspended laptop keeps its connection open but renews no lease."""
    theirs = begin_long_run(host, tmp_path)
    waited: list[str] = []
    try:
        (old, *_) = agents(host)
        theirs.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        session = Session(
            host.entry,
            patience=Patience(90.0, lambda event: waited.append(event.plain()["reason"])),
        )
        try:
            session.hold()
            assert time.monotonic() - stopped < LIFE_SECONDS + 10.0
            assert len(waited) == 1
            assert launches(host) == []
            deadline = time.monotonic() + LIFE_SECONDS + 10.0
            while old in agents(host):
                assert time.monotonic() < deadline
                time.sleep(1.0)
            theirs.send_signal(signal.SIGCONT)
            # It reports the holder of the lease, and does not measure at the same time.
            assert theirs.wait(60.0) == 1
            assert launches(host) == []
        finally:
            session.close()
    finally:
        theirs.kill()
        theirs.wait()
    (run,) = (tmp_path / "theirs").iterdir()
    frame = api.load(run.name, results=tmp_path / "theirs")
    assert list(frame["status"]) == ["busy"]
    assert renewal.holder() in frame["reason"].item()


def test_two_runs_of_one_board_follow_each_other(host: Hosted, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    plans = [digits_plan(folder, [host]) for folder in folders]
    farm = tmp_path / "farm.toml"
    farm.write_text(farm_entry(host.entry))
    runs = [
        subprocess.Popen(
            [*CLI, "run", plan, "--farm", farm, "--wait", "--results", plan.parent / "runs"],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for plan in plans
    ]
    assert [run.wait(180.0) for run in runs] == [0, 0]
    spans = []
    for folder in folders:
        (path,) = (folder / "runs").iterdir()
        assert list(api.load(path.name, results=folder / "runs")["status"]) == ["ok"]
        span = f"SELECT min(at_ns), max(at_ns) FROM '{path}/samples/*.parquet'"
        spans.append(duckdb.connect().execute(span).fetchall()[0])
    (_, first_ended), (second_began, _) = sorted(spans)
    # Both times are from the board's own clock.
    assert first_ended < second_began


def test_the_first_row_of_the_other_user_is_whole(host: Hosted, tmp_path: Path) -> None:
    """A second user is refused while the board is in use, and then measures with another work folder."""
    session = Session(host.entry)
    try:
        session.hold()
        plan = digits_plan(tmp_path, [host])
        with api.run(plan, farm=farm_of([host]), results=tmp_path / "runs") as going:
            # The same process: its own lease does not block it, and the older connection is closed.
            assert [outcome.failure for outcome in going] == [None]
    finally:
        session.close()
