"""A launch whose delegate leaves a daemon running, through the real agent."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import digest_of
from standins import graphs

from harness.devices.dialects.python_agent.dialect import JsonLinesDialect
from harness.errors import Crashed
from harness.events import Event, LaunchEnded, Note
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.types import Cell, Device, Launch, LaunchOrder, Variant

pytest_plugins = ("agent_fixtures",)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.chain(tmp_path / "chain.tflite", ["ADD"])


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "daemon.pid"
    yield file
    with suppress(OSError, ValueError):
        os.kill(int(file.read_text()), signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def ended(pid: int, seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


Npu = Callable[..., LaunchOrder]


@pytest.fixture
def npu(order: LaunchOrder, model: Path, standin_delegate: Path) -> Npu:
    def ordered(**options: object) -> LaunchOrder:
        return replace(
            order,
            variant_digest=digest_of(model),
            target="npu",
            delegate=str(standin_delegate),
            delegate_options={"take": "add", **{name: str(one) for name, one in options.items()}},
        )

    return ordered


@pytest.mark.parametrize("hides", [0, 1, 2], ids=["plain", "closed pipes", "no environment"])
def test_a_daemon_does_not_hold_its_launch(
    dialect: JsonLinesDialect, npu: Npu, model: Path, pid_file: Path, hides: int
) -> None:
    dialect.deploy({digest_of(model): model})
    with_daemon = npu(daemon=pid_file, daemon_hides=hides)
    began = time.monotonic()
    launch = dialect.launch(with_daemon)
    assert time.monotonic() - began < 20, "the daemon runs for 60 s"
    pid = int(pid_file.read_text())
    assert is_running(pid)
    assert launch.left_running in [(f"{name} (pid {pid})",) for name in ("python", "sleep")]

    later = dialect.launch(npu())
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    assert later.left_running == (f"{name} (pid {pid})",), "it still runs beside this one"
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    assert dialect.launch(npu()).left_running == ()


def test_a_crash_with_a_daemon_is_a_crash(
    dialect: JsonLinesDialect, npu: Npu, model: Path, pid_file: Path
) -> None:
    dialect.deploy({digest_of(model): model})
    began = time.monotonic()
    with pytest.raises(Crashed, match="killed by SIGSEGV"):
        dialect.launch(npu(daemon=pid_file, crash_at=3))
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("way", ["release", "close"])
def test_what_launches_left_running_ends_with_the_run(
    dialect: JsonLinesDialect, npu: Npu, model: Path, pid_file: Path, way: str
) -> None:
    dialect.deploy({digest_of(model): model})
    dialect.launch(npu(daemon=pid_file))
    pid = int(pid_file.read_text())
    assert is_running(pid)
    getattr(dialect, way)()
    assert ended(pid)


def test_the_leftover_of_a_killed_agent_is_found_by_the_next(
    dialect: JsonLinesDialect, npu: Npu, model: Path, pid_file: Path
) -> None:
    dialect.deploy({digest_of(model): model})
    dialect.launch(npu(daemon=pid_file))
    pid = int(pid_file.read_text())
    agent = next(
        int(one.name)
        for one in Path("/proc").iterdir()
        if one.name.isdigit()
        and str(dialect._options.workdir).encode() in _read(one / "cmdline")
        and b"child" not in _read(one / "cmdline")
    )
    os.kill(agent, signal.SIGKILL)
    with suppress(Exception):
        dialect.launch(npu())
    dialect.deploy({digest_of(model): model})
    launch = dialect.launch(npu())
    assert launch.left_running[0].endswith(f"(pid {pid})")


@pytest.mark.parametrize(
    "mark",
    [
        "{agent} {start} {folder}",  # another agent of the same folder, which runs
        "{agent} {start} /another/folder",
        "1 0@1 {folder}",  # an agent in another pid namespace
        "999999 0@{namespace} /another/folder",  # what an agent of another folder left
        "{agent}",
        "",
    ],
)
def test_the_launch_of_another_agent_is_never_a_leftover(
    dialect: JsonLinesDialect, npu: Npu, model: Path, workdir: Path, mark: str
) -> None:
    """It would be killed in the middle of its measurement."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    value = mark.format(
        agent=os.getpid(), start=f"{fields[19]}@{namespace}", folder=workdir, namespace=namespace
    )
    other = subprocess.Popen(
        ["sleep", "60"], env={**os.environ, "EDGE_HARNESS_LAUNCH": value}, start_new_session=True
    )
    try:
        dialect.deploy({digest_of(model): model})
        assert dialect.launch(npu()).left_running == ()
        dialect.release()
        dialect.close()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_launches_beside_a_leftover_are_flagged_and_it_is_named(
    device: Device, npu: Npu, model: Path, pid_file: Path
) -> None:
    seen: list[Event] = []
    variant = Variant(
        model="chain",
        recipe="as_is",
        target="npu",
        path=model,
        digest=digest_of(model),
        size_bytes=1,
        size_zstd_bytes=1,
        inputs=(),
        operators={},
    )
    cell = Cell(
        model="chain",
        recipe="as_is",
        target="npu",
        device=device.name,
        threads=1,
        variant=variant,
    )
    session = Session(device)
    try:
        with Bench(session=session, emit=seen.append) as bench:
            bench.bring({digest_of(model): model})
            for number, options in enumerate(({}, {"daemon": pid_file}, {})):
                one = replace(npu(**options), block=number)
                bench.launch(cell, one)
    finally:
        session.close()
    launches: list[Launch] = [one.launch for one in seen if isinstance(one, LaunchEnded)]
    assert ["left_running" in launch.flags for launch in launches] == [False, True, True]
    (note,) = [one.reason for one in seen if isinstance(one, Note)]
    assert f"(pid {pid_file.read_text()})" in note
    assert ended(int(pid_file.read_text()))
