"""The window of real launches by agents whose monotonic clock is not the host's.

They run on this machine, so what their clock shows at any of the host's times is known exactly.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from agent_lab import ROOT, SECONDS, SHORT, RawAgent, digest_of, launch_processes, wait_until
from conftest import missing

from harness.devices import opening
from harness.devices.clocks import STEPPED, reading
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, open_json_lines
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.local import LocalChannel, LocalTransport
from harness.devices.transports.ssh.transport import open_ssh
from harness.errors import Unreachable
from harness.protocols import Clocked
from harness.records.store import codec
from harness.types import Device, Launch, LaunchOrder, TimeWindow

pytest_plugins = ("agent_fixtures",)

SECOND = 1_000_000_000
FOUR_YEARS = 4 * 365 * 86_400

SKEWED = """
import os, time
_real = time.monotonic_ns
def _skewed():
    now = _real()
    value = now + {offset} + (now - {base}) * {ppm} // 1_000_000
    try:
        with open({file!r}) as file:
            at, step = map(int, file.read().split())
    except (OSError, ValueError):
        return value
    return value + (step if now >= at else 0)
time.monotonic_ns = time.perf_counter_ns = _skewed
"""


@pytest.fixture
def model() -> Path:
    return ROOT / "harness" / "demo" / "data" / "digits.tflite"


@pytest.fixture
def order(model: Path) -> LaunchOrder:
    return LaunchOrder(
        cell_id="cell",
        kind="timed",
        block=1,
        position=2,
        variant_digest=digest_of(model),
        target="xnnpack",
        threads=1,
        dose=SHORT,
        timeout_seconds=SECONDS,
    )


def timed_part(launch: Launch) -> TimeWindow:
    assert launch.window is not None
    return launch.window


def measured(dialect: JsonLinesDialect, order: LaunchOrder) -> tuple[Launch, int, int]:
    """Make a launch; returns it and the host's time before and after, as the test saw it."""
    sent = time.monotonic_ns()
    launch = dialect.launch(order)
    return launch, sent, time.monotonic_ns()


def test_a_timed_launch_has_a_window_on_both_clocks(
    dialect: JsonLinesDialect, model: Path, order: LaunchOrder
) -> None:
    assert isinstance(dialect, Clocked)
    dialect.deploy({order.variant_digest: model})
    for inner in (1, 3):
        launch, sent, received = measured(dialect, replace(order, inner_loop=inner))
        found = timed_part(launch)
        assert sent <= found.start_host_ns < found.end_host_ns <= received
        # One machine: both clocks are the same.
        assert abs(found.start_host_ns - found.start_ns) <= found.uncertainty_ns
        assert abs(found.end_host_ns - found.end_ns) <= found.uncertainty_ns
        assert len(found.clocks) == 2
        assert found.uncertainty_ns < (received - sent) / 10
        latency, set_input = launch.samples
        assert found.start_ns <= latency.at_ns[0]
        assert latency.at_ns[-1] + inner * latency.value[-1] <= found.end_ns <= set_input.at_ns[0]
        assert sum(latency.value) * inner <= found.end_ns - found.start_ns
        assert found.process_start_ns is not None
        assert found.process_end_ns == found.process_start_ns + launch.wall_ns
        assert sent <= found.process_start_ns < found.start_ns - (launch.load_ns or 0)
        assert STEPPED not in launch.flags
        assert found.answered_utc
        assert codec.load(Launch, codec.decode(codec.encode(codec.dump(launch)))).window == found


def test_what_times_nothing_has_no_window_and_asks_for_no_clock(
    transport: LocalTransport, device: Device, model: Path, order: LaunchOrder
) -> None:
    watched = Watching()
    dialect = open_json_lines(watched, device)
    dialect.deploy({order.variant_digest: model})
    assert dialect.launch(replace(order, kind="memory")).window is None
    assert dialect.launch(replace(order, kind="bare")).window is None
    assert watched.sent("clock") == 0
    assert dialect.launch(replace(order, kind="cpu")).window is not None
    assert watched.sent("clock") == 60
    dialect.launch(order)
    assert watched.sent("clock") == 70
    dialect.close()


@pytest.mark.parametrize("scenario", ["stream", "sustained"])
def test_the_window_spans_what_a_scenario_measured(
    dialect: JsonLinesDialect, model: Path, order: LaunchOrder, scenario: str
) -> None:
    dialect.deploy({order.variant_digest: model})
    dose: Any = replace(SHORT, scenario=scenario, period_ms=5.0, sustained_minutes=0.01)
    found = timed_part(dialect.launch(replace(order, dose=dose)))
    frames = 19 * 5_000_000 if scenario == "stream" else 600_000_000
    assert frames <= found.end_ns - found.start_ns < frames + SECOND


# --- clocks with an offset, a drift or a step ----------------------------------------------------------


def test_a_device_whose_clock_is_years_off(device: Device, model: Path, order: LaunchOrder) -> None:
    off = ["unshare", "--time", "--monotonic", str(FOUR_YEARS), "--fork"]
    if not shutil.which("unshare") or subprocess.run([*off, "true"], check=False).returncode:
        missing("time namespaces are not to be had here (unshare --time)")
    python = Path(AgentOptions.of(device).workdir).parent / "python3"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(off)} {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    transport = LocalTransport()
    dialect = open_json_lines(transport, opening.with_options(device, python=str(python)))
    dialect.deploy({order.variant_digest: model})
    launch, sent, received = measured(dialect, order)
    dialect.close()
    transport.close()
    found = timed_part(launch)
    offset = FOUR_YEARS * SECOND
    assert sent + offset < found.start_ns < found.end_ns < received + offset
    assert sent <= found.start_host_ns < found.end_host_ns <= received
    assert abs(found.start_host_ns - (found.start_ns - offset)) <= found.uncertainty_ns
    assert abs(found.end_host_ns - (found.end_ns - offset)) <= found.uncertainty_ns
    assert found.uncertainty_ns < (received - sent) / 10
    assert not found.stepped


class Skewed:
    """An agent on this machine whose monotonic clock has an offset, drifts, and steps on demand."""

    def __init__(self, device: Device, folder: Path, ppm: int) -> None:
        folder.mkdir()
        self.ppm = ppm
        self.base = time.monotonic_ns()
        self.offset = 3 * 10**17 + 1
        self.step_file = folder / "step"
        self.step = (0, 0)
        text = SKEWED.format(offset=self.offset, base=self.base, ppm=ppm, file=str(self.step_file))
        (folder / "sitecustomize.py").write_text(text)
        python = folder / "python3"
        run = f'exec {shlex.quote(sys.executable)} "$@"'
        python.write_text(
            f"#!/bin/sh\nPYTHONPATH={shlex.quote(str(folder))}\nexport PYTHONPATH\n{run}\n"
        )
        python.chmod(0o755)
        self.transport = LocalTransport()
        self.dialect = open_json_lines(
            self.transport, opening.with_options(device, python=str(python))
        )

    def step_at(self, at_ns: int, step_ns: int) -> None:
        self.step = (at_ns, step_ns)
        part = self.step_file.with_suffix(".part")
        part.write_text(f"{at_ns} {step_ns}")
        part.replace(self.step_file)

    def host_ns(self, device_ns: int) -> int:
        """Return this machine's time for a time of the device's clock."""
        at, step = self.step
        before = self._without_step(device_ns)
        return before if not step or before < at else self._without_step(device_ns - step)

    def _without_step(self, device_ns: int) -> int:
        passed = device_ns - self.offset - self.base
        return self.base + passed * 1_000_000 // (1_000_000 + self.ppm)

    def close(self) -> None:
        self.dialect.close()
        self.transport.close()


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_device_whose_clock_is_off_and_drifts(
    device: Device, model: Path, order: LaunchOrder, tmp_path: Path, ppm: int
) -> None:
    skewed = Skewed(device, tmp_path / "skewed", ppm)
    skewed.dialect.deploy({order.variant_digest: model})
    for _ in range(3):
        launch, sent, received = measured(skewed.dialect, order)
        found = timed_part(launch)
        assert found.start_ns > skewed.offset
        assert sent <= found.start_host_ns < found.end_host_ns <= received
        assert abs(found.start_host_ns - skewed.host_ns(found.start_ns)) <= found.uncertainty_ns
        assert abs(found.end_host_ns - skewed.host_ns(found.end_ns)) <= found.uncertainty_ns
        assert STEPPED not in launch.flags
    skewed.close()


def test_a_device_whose_clock_steps_during_a_launch(
    device: Device, model: Path, order: LaunchOrder, tmp_path: Path
) -> None:
    skewed = Skewed(device, tmp_path / "skewed", 50)
    skewed.dialect.deploy({order.variant_digest: model})
    calm = timed_part(skewed.dialect.launch(order))
    assert not calm.stepped
    skewed.step_at(time.monotonic_ns() + SECOND, SECOND // 20)
    long = replace(order, dose=replace(SHORT, min_seconds=2.0))
    launch, sent, received = measured(skewed.dialect, long)
    assert STEPPED in launch.flags
    found = timed_part(launch)
    assert found.stepped
    assert found.uncertainty_ns >= SECOND // 50
    assert sent <= found.start_host_ns < found.end_host_ns <= received
    assert abs(found.start_host_ns - skewed.host_ns(found.start_ns)) <= found.uncertainty_ns
    assert abs(found.end_host_ns - skewed.host_ns(found.end_ns)) <= found.uncertainty_ns
    after = skewed.dialect.launch(order)
    assert STEPPED not in after.flags
    error = timed_part(after).start_host_ns - skewed.host_ns(timed_part(after).start_ns)
    assert abs(error) <= timed_part(after).uncertainty_ns < SECOND // 50
    skewed.close()


# --- links and agents with limits -------------------------------------------------------------


class WatchedChannel:
    """The stream to a real agent; every sent line passes through `Watching.look`."""

    def __init__(self, channel: LocalChannel, watching: Watching) -> None:
        self._channel = channel
        self._watching = watching

    def send(self, data: bytes) -> None:
        self._channel.send(self._watching.look(data))

    def read(self, deadline: float) -> bytes:
        return self._channel.read(deadline)

    def errors(self) -> bytes:
        return self._channel.errors()

    def close(self) -> None:
        self._channel.close()


class Watching(LocalTransport):
    """This machine; records the requests to the agent."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[bytes] = []

    def talk(self, argv: Sequence[str]) -> Any:
        return WatchedChannel(super().talk(argv), self)

    def look(self, data: bytes) -> bytes:
        self.lines.append(data)
        return data

    def sent(self, verb: str) -> int:
        return sum(f'"verb":"{verb}"'.encode() in line for line in self.lines)


class Lopsided(Watching):
    """This machine, but requests take 5 ms longer than answers."""

    def look(self, data: bytes) -> bytes:
        time.sleep(0.005)
        return super().look(data)


def test_ways_that_take_unlike_times_are_inside_the_uncertainty(
    device: Device, model: Path, order: LaunchOrder
) -> None:
    dialect = open_json_lines(Lopsided(), device)
    dialect.deploy({order.variant_digest: model})
    for _ in range(2):
        launch, sent, received = measured(dialect, order)
        found = timed_part(launch)
        assert sent <= found.start_host_ns < found.end_host_ns <= received
        assert all(clock.offset_ns > 2_000_000 for clock in found.clocks)
        assert abs(found.start_host_ns - found.start_ns) <= found.uncertainty_ns
        assert abs(found.end_host_ns - found.end_ns) <= found.uncertainty_ns
        assert STEPPED not in launch.flags
    dialect.close()


def test_a_device_over_ssh_has_windows_too(
    ssh_device: Device, own_cache: None, model: Path, order: LaunchOrder
) -> None:
    transport = open_ssh(opening.with_options(ssh_device, python=sys.executable))
    dialect = open_json_lines(transport, opening.with_options(ssh_device, python=sys.executable))
    dialect.deploy({order.variant_digest: model})
    launch, sent, received = measured(dialect, order)
    dialect.close()
    transport.close()
    found = timed_part(launch)
    assert sent <= found.start_host_ns < found.end_host_ns <= received
    assert abs(found.start_host_ns - found.start_ns) <= found.uncertainty_ns
    assert abs(found.end_host_ns - found.end_ns) <= found.uncertainty_ns
    assert found.uncertainty_ns < (received - sent) / 10


class WithoutTheVerb(Watching):
    """This machine with an agent without the verb `clock`."""

    def look(self, data: bytes) -> bytes:
        return super().look(data).replace(b'"verb":"clock"', b'"verb":"kcolc"')


def test_an_agent_without_the_verb_is_mapped_by_the_launch_itself(
    device: Device, model: Path, order: LaunchOrder
) -> None:
    transport = WithoutTheVerb()
    dialect = open_json_lines(transport, device)
    dialect.deploy({order.variant_digest: model})
    for _ in range(2):
        launch, sent, received = measured(dialect, order)
        found = timed_part(launch)
        assert found.clocks == ()
        assert sent <= found.start_host_ns < found.end_host_ns <= received
        assert abs(found.start_host_ns - found.start_ns) <= found.uncertainty_ns
        assert found.uncertainty_ns <= received - sent
        assert STEPPED not in launch.flags
    assert transport.sent("clock") == 1
    dialect.close()


class Breaking(Watching):
    """This machine, but the connection breaks at the first request after a launch."""

    def look(self, data: bytes) -> bytes:
        if self.sent("launch") == 1 and b'"verb":"clock"' in data:
            self.lines.append(b'"verb":"launch"')
            raise Unreachable("bench-one: cut")
        return super().look(data)


def test_a_connection_that_breaks_after_a_launch_costs_only_the_second_reading(
    device: Device, model: Path, order: LaunchOrder
) -> None:
    dialect = open_json_lines(Breaking(), device)
    dialect.deploy({order.variant_digest: model})
    launch, sent, received = measured(dialect, order)
    found = timed_part(launch)
    assert len(found.clocks) == 1
    assert sent <= found.start_host_ns < found.end_host_ns <= received
    assert abs(found.start_host_ns - found.start_ns) <= found.uncertainty_ns
    assert len(timed_part(dialect.launch(order)).clocks) == 2
    dialect.close()


def test_a_clock_asked_for_during_a_launch_waits_and_is_still_exact(
    raw: RawAgent, model: Path, order: LaunchOrder
) -> None:
    raw.give(model)
    wanted = {
        "kind": "timed",
        "digest": digest_of(model),
        "target": "xnnpack",
        "threads": 1,
        "dose": asdict(replace(SHORT, min_seconds=1.0)),
        "inner_loop": 1,
        "seed": 0,
        "timeout_seconds": SECONDS,
    }
    launched = raw.send("launch", order=wanted)
    wait_until(lambda: launch_processes(raw.workdir))
    sent = time.monotonic_ns()
    asked = raw.send("clock")
    answers = [raw.read() for _ in range(3)]
    received = time.monotonic_ns()
    assert [one["id"] for one in answers] == [launched, launched, asked]
    window, clock = answers[1]["launch"]["window"], answers[2]
    assert sent <= clock["arrived_ns"] < window["end_ns"] < clock["answered_ns"] <= received
    assert received - sent - (clock["answered_ns"] - clock["arrived_ns"]) < SECOND // 2


def test_an_exchange_is_short(dialect: JsonLinesDialect) -> None:
    dialect.hello()
    began = time.monotonic()
    found = reading([dialect.exchange() for _ in range(50)])
    assert time.monotonic() - began < 1.0
    assert found is not None
    assert abs(found.offset_ns) <= found.uncertainty_ns < 5_000_000
