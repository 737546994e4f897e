"""After any fault of a device, a run has one outcome per cell and no damaged files.

Each test drives the real command against devices of the lab and then looks at what is left
(aftermath.py). A fault is made at a moment of the conversation (tapped.py), not after a time.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import missing

from harness.devices.dialects.python_agent.options import AgentOptions

from . import plans
from .aftermath import Inspection, journal, ours
from .controller import Controller, Moment
from .device import Hosted, LabDevice
from .machine import Machine
from .memory import limited, limited_inside, why_not

LONG_PUSH, LINK_MBIT = 2_500_000, 20.0
"""Takes a second on the link, so that a fault happens in the middle."""
LONG_LAUNCH = {"min_seconds": 1.5}
NOTICED_SECONDS = 10.0

PUSHING = pytest.param("pushing model", marks=pytest.mark.lab)

Rows = dict[str, list[Mapping[str, Any]]]
"""The printed rows, by device."""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))


@dataclass(slots=True)
class Once:
    """Calls a function `after` seconds after the first occurrence of a moment of a device."""

    device: LabDevice
    moment: str
    act: Callable[[], object]
    after: float = 0.0
    moments: list[Moment] = field(default_factory=list)
    struck: float | None = None
    """Time of the call on time.monotonic()."""
    trouble: Exception | None = None
    _begun: bool = False

    def __call__(self, moment: Moment) -> None:
        self.moments.append(moment)
        if moment.device != self.device.name or moment.name != self.moment or self._begun:
            return
        self._begun = True
        if self.after:
            threading.Timer(self.after, self._strike).start()
        else:
            self._strike()

    def _strike(self) -> None:
        try:
            self.act()
        except Exception as error:  # noqa: BLE001 - reported to the test, which is another thread
            self.trouble = error
        self.struck = time.monotonic()

    def noticed(self) -> float:
        """Return how long it took until a verb of the transport failed."""
        assert self.struck is not None
        lost = [m.at for m in self.moments if m.name == "lost" and m.device == self.device.name]
        return min(at for at in lost if at > self.struck - 1.0) - self.struck


@dataclass(slots=True)
class Course:
    """A plan on devices, with its own folder."""

    folder: Path
    devices: Sequence[LabDevice]
    models: Mapping[str, Path]
    dose: Mapping[str, float] = field(default_factory=dict)
    patience_seconds: float = 60.0
    hang_seconds: float | None = None
    exit_code: int = 0
    seconds: float = 150.0
    inspection: Inspection = field(init=False)

    def __post_init__(self) -> None:
        self.inspection = Inspection(self.devices)

    def controller(self, on_moment: Callable[[Moment], None], *arguments: str) -> Controller:
        plan, farm = plans.plan(
            self.folder,
            self.devices,
            self.models,
            dose=self.dose,
            patience_seconds=self.patience_seconds,
        )
        results = self.folder / "runs"
        return Controller(
            plan,
            farm,
            results,
            on_moment=on_moment,
            arguments=arguments,
            hang_seconds=self.hang_seconds,
        )

    def run(self, on_moment: Callable[[Moment], None]) -> Rows:
        """Run to the end; rows by device."""
        with self.controller(on_moment) as going:
            code = going.wait(self.seconds)
        assert code == self.exit_code, going.stderr[-3000:]
        return self.rows(going)

    def resume(self) -> Rows:
        with self.controller(lambda _: None, "--resume", self.stored.name) as going:
            code = going.wait(self.seconds)
        assert code == self.exit_code, going.stderr[-3000:]
        return self.rows(going)

    @property
    def stored(self) -> Path:
        (folder,) = (self.folder / "runs").iterdir()
        return folder

    def rows(self, ended: Controller) -> Rows:
        found: Rows = {device.name: [] for device in self.devices}
        for row in ended.rows:
            found[row["device"]].append(row)
        return found

    def check(self) -> None:
        """Inspect devices and run; every device must run without faults."""
        for device in self.devices:
            device.recover()
        assert self.inspection.problems(self.stored) == []


@pytest.fixture
def host(x86_hosts: list[Hosted]) -> Hosted:
    return x86_hosts[0]


@pytest.fixture
def pushes(tmp_path: Path) -> dict[str, Path]:
    """Two models that no device has; the transfer of one takes long."""
    return {
        "long": plans.model(tmp_path / "long.tflite", LONG_PUSH),
        "short": plans.model(tmp_path / "short.tflite"),
    }


@pytest.fixture
def two(tmp_path: Path) -> dict[str, Path]:
    return {name: plans.model(tmp_path / f"{name}.tflite") for name in ("one", "other")}


def statuses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(row["status"]) for row in rows]


def children(device: LabDevice) -> list[int]:
    return [pid for pid, command in ours(device).items() if ".zip child " in command]


def agents(device: LabDevice) -> list[int]:
    return [pid for pid, command in ours(device).items() if command.rstrip().endswith(".zip")]


def strike(device: LabDevice, find: Callable[[LabDevice], list[int]], number: int) -> None:
    """Send a signal to our process as soon as it exists."""
    deadline = time.monotonic() + 5.0
    while not (found := find(device)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found
    for pid in found:
        device.signal(pid, number)


def down_for(device: LabDevice, seconds: float) -> Callable[[], None]:
    def act() -> None:
        device.link_down()
        threading.Timer(seconds, device.link_up).start()

    return act


# --- the network -------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [PUSHING, "launch timed"])
def test_a_connection_that_is_reset(
    tmp_path: Path, host: Hosted, pushes: dict[str, Path], moment: str
) -> None:
    course = Course(tmp_path, [host], pushes, LONG_LAUNCH)
    host.rate(LINK_MBIT)
    on_moment = Once(host, moment, host.reset, after=0.4)
    rows = course.run(on_moment)
    assert statuses(rows[host.name]) == ["ok", "ok"]
    assert on_moment.noticed() < 1.0
    course.check()


@pytest.mark.lab
@pytest.mark.parametrize("moment", ["pushing model", "launch timed"])
def test_a_link_that_is_down_for_longer_than_a_connection_lives(
    tmp_path: Path, host: Hosted, pushes: dict[str, Path], moment: str
) -> None:
    course = Course(tmp_path, [host], pushes, LONG_LAUNCH)
    host.rate(LINK_MBIT)
    on_moment = Once(host, moment, down_for(host, 14.0), after=0.4)
    rows = course.run(on_moment)
    assert statuses(rows[host.name]) == ["ok", "ok"]
    assert on_moment.noticed() <= NOTICED_SECONDS
    course.check()


@pytest.mark.lab
@pytest.mark.parametrize("moment", ["pushing model", "launch timed"])
def test_a_link_that_is_down_for_a_moment_costs_nothing(
    tmp_path: Path, host: Hosted, pushes: dict[str, Path], moment: str
) -> None:
    course = Course(tmp_path, [host], pushes, LONG_LAUNCH)
    host.rate(LINK_MBIT)
    on_moment = Once(host, moment, down_for(host, 3.0), after=0.4)
    rows = course.run(on_moment)
    assert statuses(rows[host.name]) == ["ok", "ok"]
    assert [moment for moment in on_moment.moments if moment.name == "lost"] == []
    course.check()


@pytest.mark.lab
@pytest.mark.parametrize("fault", ["loss 5 %", "10 Mbit/s", "200 ms"])
def test_a_bad_link(tmp_path: Path, host: Hosted, pushes: dict[str, Path], fault: str) -> None:
    course = Course(tmp_path, [host], pushes, LONG_LAUNCH)
    faults: dict[str, Callable[[], None]] = {
        "loss 5 %": lambda: host.loss(5),
        "10 Mbit/s": lambda: host.rate(10),
        "200 ms": lambda: host.delay(200),
    }
    faults[fault]()
    on_moment = Once(host, "never", lambda: None)
    rows = course.run(on_moment)
    assert statuses(rows[host.name]) == ["ok", "ok"]
    assert [moment for moment in on_moment.moments if moment.name == "lost"] == []
    course.check()


@pytest.mark.lab
@pytest.mark.parametrize("moment", ["pushing model", "launch timed"])
def test_loss_that_begins_in_the_middle(
    tmp_path: Path, host: Hosted, pushes: dict[str, Path], moment: str
) -> None:
    course = Course(tmp_path, [host], pushes, LONG_LAUNCH)
    host.rate(LINK_MBIT)
    rows = course.run(Once(host, moment, lambda: host.loss(5), after=0.4))
    assert statuses(rows[host.name]) == ["ok", "ok"]
    course.check()


@pytest.mark.lab
def test_a_device_that_is_gone_for_good_costs_only_its_own_cells(
    tmp_path: Path, x86_hosts: list[Hosted], two: dict[str, Path]
) -> None:
    gone, other = x86_hosts[:2]
    course = Course(tmp_path, [gone, other], two, {"launches": 2}, patience_seconds=3.0)
    course.exit_code = 1

    def act() -> None:
        gone.link_down()
        gone.reset()  # otherwise the controller notices it some seconds later

    rows = course.run(Once(gone, "launch timed", act))
    assert statuses(rows[other.name]) == ["ok", "ok"]
    assert statuses(rows[gone.name]) == ["unreachable", "unreachable"]
    assert all(gone.name in row["reason"] for row in rows[gone.name])
    course.check()


# --- processes on the device -------------------------------------------------------------------


@pytest.mark.lab
@pytest.mark.parametrize("moment", ["pushing model", "launch timed"])
def test_a_killed_sshd(tmp_path: Path, host: Hosted, pushes: dict[str, Path], moment: str) -> None:
    course = Course(tmp_path, [host], pushes, LONG_LAUNCH)
    host.rate(LINK_MBIT)

    def act() -> None:
        host.sshd_kill()
        threading.Timer(3.0, host.sshd_start).start()

    rows = course.run(Once(host, moment, act, after=0.4))
    assert statuses(rows[host.name]) == ["ok", "ok"]
    course.check()


def test_a_killed_agent(tmp_path: Path, host: Hosted, two: dict[str, Path]) -> None:
    course = Course(tmp_path, [host], two)
    on_moment = Once(host, "launch timed", lambda: strike(host, agents, signal.SIGKILL))
    rows = course.run(on_moment)
    assert statuses(rows[host.name]) == ["ok", "ok"]
    assert on_moment.trouble is None
    course.check()


def test_a_killed_launch_is_crashed(tmp_path: Path, host: Hosted, two: dict[str, Path]) -> None:
    course = Course(tmp_path, [host], two, LONG_LAUNCH, exit_code=1)
    on_moment = Once(host, "launch timed", lambda: strike(host, children, signal.SIGKILL))
    rows = course.run(on_moment)
    assert sorted(statuses(rows[host.name])) == ["crashed", "ok"]
    assert on_moment.trouble is None
    course.check()


@pytest.mark.lab
def test_a_launch_that_hangs_is_silent(tmp_path: Path, host: Hosted, two: dict[str, Path]) -> None:
    course = Course(tmp_path, [host], two, LONG_LAUNCH, exit_code=1, hang_seconds=8.0)
    on_moment = Once(host, "launch timed", lambda: strike(host, children, signal.SIGSTOP))
    rows = course.run(on_moment)
    assert sorted(statuses(rows[host.name])) == ["ok", "silent"]
    assert on_moment.trouble is None
    course.check()


def test_a_launch_that_takes_more_memory_than_there_is(tmp_path: Path, host: Hosted) -> None:
    models = {
        "greedy": plans.greedy(tmp_path / "greedy.tflite", 200),
        "modest": plans.model(tmp_path / "modest.tflite"),
    }
    reason = why_not()
    if reason:
        missing(reason)
    course = Course(tmp_path, [host], models, exit_code=1)
    with limited(host, 180):
        rows = course.run(Once(host, "never", lambda: None))
    only_the_greedy_one_fails(rows[host.name])
    course.check()


@pytest.mark.lab
@pytest.mark.timeout(600)
def test_a_launch_that_takes_more_memory_than_a_machine_gives(tmp_path: Path, vm: Machine) -> None:
    models = {
        "greedy": plans.greedy(tmp_path / "greedy.tflite", 300),
        "modest": plans.model(tmp_path / "modest.tflite"),
    }
    course = Course(tmp_path, [vm], models, exit_code=1, seconds=500.0)
    with limited_inside(vm, 250):
        rows = course.run(Once(vm, "never", lambda: None))
    only_the_greedy_one_fails(rows[vm.name])
    course.check()


def only_the_greedy_one_fails(rows: Sequence[Mapping[str, Any]]) -> None:
    found = {row["model"]: row for row in rows}
    assert {name: row["status"] for name, row in found.items()} == {
        "greedy": "out_of_memory",
        "modest": "ok",
    }
    assert "out-of-memory" in found["greedy"]["reason"]


@pytest.fixture
def small_disk(host: Hosted) -> Iterator[Hosted]:
    """A host whose work folder has 1 MB."""
    folder = AgentOptions.of(host.entry).workdir
    host.as_root(["mkdir", "-p", folder])
    host.as_root(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700,uid=54321", "tmpfs", folder])
    yield host
    host.as_root(["umount", folder])


def test_a_disk_that_is_full(
    tmp_path: Path, small_disk: Hosted, x86_hosts: list[Hosted], pushes: dict[str, Path]
) -> None:
    course = Course(tmp_path, [small_disk, x86_hosts[1]], pushes, exit_code=1)
    rows = course.run(Once(small_disk, "never", lambda: None))
    assert statuses(rows[x86_hosts[1].name]) == ["ok", "ok"]
    assert statuses(rows[small_disk.name]) == ["no_space", "no_space"]
    assert "bytes are free there" in rows[small_disk.name][0]["reason"]
    course.check()
    # The file that did not fit does not block the one that fits.
    kept = small_disk.files(AgentOptions.of(small_disk.entry).workdir)
    assert sum(map(len, kept.values())) < 400_000


def test_a_file_that_is_damaged_on_the_device_is_sent_again(
    tmp_path: Path, host: Hosted, two: dict[str, Path]
) -> None:
    course = Course(tmp_path, [host], two)
    on_moment = Once(host, "answered infer", lambda: damage(host, plans.digest(two["one"])))
    rows = course.run(on_moment)
    assert on_moment.trouble is None
    assert statuses(rows[host.name]) == ["ok", "ok"]
    pushed = [
        event["digest"]
        for event in journal(course.stored / "log.jsonl")
        if event["event"] == "pushed"
    ]
    assert sorted(pushed) == sorted([plans.digest(two["one"])] * 2 + [plans.digest(two["other"])])
    course.check()


def damage(host: Hosted, digest: str) -> None:
    """Change the last byte of a file on the device, like a worn-out card."""
    path = host.path(f"{AgentOptions.of(host.entry).workdir}/blobs/{digest}")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


# --- power -------------------------------------------------------------------------------------


def cut_for(device: LabDevice, seconds: float) -> Callable[[], None]:
    def act() -> None:
        device.power_cut()
        threading.Timer(seconds, device.power_on).start()

    return act


POWER = ["pushing model", "commit", "launch timed", "answered launch timed"]


@pytest.mark.lab
@pytest.mark.parametrize("moment", POWER)
def test_a_host_that_loses_its_power_and_boots_again(
    tmp_path: Path, host: Hosted, pushes: dict[str, Path], moment: str
) -> None:
    course = Course(tmp_path, [host], pushes, LONG_LAUNCH)
    host.rate(LINK_MBIT)
    on_moment = Once(host, moment, cut_for(host, 4.0), after=0.3 if "ing" in moment else 0.0)
    rows = course.run(on_moment)
    assert statuses(rows[host.name]) == ["ok", "ok"]
    course.check()


@pytest.mark.lab
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", POWER)
def test_a_machine_that_loses_its_power_and_boots_again(
    tmp_path: Path, vm: Machine, pushes: dict[str, Path], moment: str
) -> None:
    # A launch takes seconds on an emulated processor; the next one starts only after an answer.
    models = pushes if moment.startswith("answered") else {"long": pushes["long"]}
    course = Course(tmp_path, [vm], models, LONG_LAUNCH, patience_seconds=240.0, seconds=500.0)
    vm.rate(LINK_MBIT)
    on_moment = Once(vm, moment, cut_for(vm, 1.0), after=0.3 if "ing" in moment else 0.0)
    rows = course.run(on_moment)
    assert on_moment.trouble is None
    assert statuses(rows[vm.name]) == ["ok"] * len(models)
    events = journal(course.stored / "log.jsonl")
    assert {"reconnecting", "reconnected"} <= {event["event"] for event in events}
    course.check()


# --- the controller ----------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [PUSHING, "launch timed"])
def test_a_controller_that_is_killed_and_resumed(
    tmp_path: Path, x86_hosts: list[Hosted], two: dict[str, Path], moment: str
) -> None:
    devices = x86_hosts[:2]
    course = Course(tmp_path, devices, two, {"launches": 3})
    reached = threading.Event()
    with course.controller(Once(devices[0], moment, reached.set)) as going:
        going.reach(reached, 60.0)
        going.kill()
    rows = course.resume()
    assert all(statuses(rows[device.name]) == ["ok", "ok"] for device in devices)
    course.check()


def test_ctrl_c_during_a_run(tmp_path: Path, host: Hosted, two: dict[str, Path]) -> None:
    course = Course(tmp_path, [host], two, {"launches": 3})
    reached = threading.Event()
    with course.controller(Once(host, "answered launch timed", reached.set)) as going:
        going.reach(reached, 60.0)
        going.interrupt()
        assert going.wait(30.0) == 130, going.stderr[-3000:]
    assert "--resume" in going.stderr
    rows = course.resume()
    assert statuses(rows[host.name]) == ["ok", "ok"]
    course.check()
