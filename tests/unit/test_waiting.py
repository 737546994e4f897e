"""A device that another user holds: looked at before building, waited for while building."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import plugin_site
import pytest

from harness import api
from harness.config import farm
from harness.demo import DATA
from harness.errors import ConfigError
from harness.events import BuildProgress, Event, Note, Waiting
from harness.measure.leases import Patience

SHARED = """
import os
from pathlib import Path
from harness.errors import LeaseError, Unreachable
from harness.protocols import Holder
from harness.testing import FakeDialect, FakeTransport

HELD = Path(os.environ["TEST_HELD"])

class Shared(FakeDialect):
    def holder(self):
        return Holder(name="ana@far", seconds=30.0, is_this=False) if HELD.exists() else None

    def hold(self):
        if HELD.exists():
            raise LeaseError("ana@far has this device", "ana@far")

    def release(self):
        pass

def dialect(transport, device):
    return Shared(device)

def transport(device):
    if Path(os.environ["TEST_AWAY"]).exists():
        raise Unreachable(f"{device.name}: no route")
    return FakeTransport(device)
"""


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """While this file exists, another user holds the device; `away` beside it: it cannot be reached."""
    monkeypatch.setenv("TEST_HELD", str(tmp_path / "held"))
    monkeypatch.setenv("TEST_AWAY", str(tmp_path / "away"))
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    points = {
        "harness.dialects": {"shared": "shared_device:dialect"},
        "harness.transports": {"shared": "shared_device:transport"},
    }
    (tmp_path / "held").touch()
    with plugin_site.install(tmp_path / "site", "shared_device", SHARED, points):
        yield tmp_path / "held"


@dataclass
class Watch:
    """Keeps the events; the first finished build waits until a wait was reported, then frees the device."""

    held: Path | None = None
    events: list[Event] = field(default_factory=list)
    waiting: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Waiting | Note):
            self.waiting.set()
        elif isinstance(event, BuildProgress) and event.status == "done" and self.held:
            assert self.waiting.wait(30), "nothing was reported before the build was done"
            self.held.unlink(missing_ok=True)

    def close(self) -> None:
        """End."""

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def plan_and_farm(folder: Path) -> tuple[Path, farm.Farm]:
    plan, farm_file = folder / "plan.toml", folder / "farm.toml"
    plan.write_text(
        f'[model]\nname = "digits"\npath = "{DATA / "digits.tflite"}"\n'
        '[run]\nrecipes = ["as_is"]\ndevices = ["board"]\npatience_seconds = 1\n'
        "[dose]\nlaunches = 3\nmemory_launches = 0\n"
    )
    farm_file.write_text(
        '[device.board]\nprofile = "linux_x86_64"\naddress = "shared:1"\ndialect = "shared"\n'
    )
    return plan, farm.load(farm_file)


def test_a_run_waits_while_it_builds(held: Path, tmp_path: Path) -> None:
    plan, known = plan_and_farm(tmp_path)
    watch = Watch(held)
    with api.run(plan, farm=known, results=tmp_path / "runs", progress=watch) as going:
        (outcome,) = going
    assert len(watch.of(Waiting)) == 1
    assert watch.of(BuildProgress)
    assert outcome.failure is None or outcome.failure.kind != "busy"


def test_a_run_that_does_not_wait_builds_nothing(held: Path, tmp_path: Path) -> None:
    plan, known = plan_and_farm(tmp_path)
    watch = Watch()
    with api.run(plan, farm=known, results=tmp_path / "runs", wait=False, progress=watch) as going:
        (outcome,) = going
    assert watch.of(BuildProgress) == []
    assert outcome.failure is not None
    assert outcome.failure.kind == "busy"
    assert "ana@far has this device" in outcome.failure.reason
    assert "--wait" in outcome.failure.reason


def test_a_device_that_is_away_is_reported_before_the_build(held: Path, tmp_path: Path) -> None:
    held.unlink()
    (tmp_path / "away").touch()
    plan, known = plan_and_farm(tmp_path)
    watch = Watch(tmp_path / "nothing")
    with api.run(plan, farm=known, results=tmp_path / "runs", progress=watch) as going:
        (outcome,) = going
    before, after = watch.of(Note)
    assert "no route; it is tried again when everything is built" in str(before)
    assert "no route; tried again for 1 s" in str(after)
    assert outcome.failure is not None
    assert outcome.failure.kind == "unreachable"


def test_a_meter_that_is_not_installed_is_refused_before_anything_is_built(
    held: Path, tmp_path: Path
) -> None:
    plan, _ = plan_and_farm(tmp_path)
    text = (tmp_path / "farm.toml").read_text()
    (tmp_path / "farm.toml").write_text(f'{text}meter = "nonsense"\n')
    for call in (
        lambda farm_file: api.run(plan, farm=farm_file, results=tmp_path / "runs"),
        lambda farm_file: api.decide(plan, farm=farm_file),
    ):
        with pytest.raises(
            ConfigError, match=r'farm\.toml: device\.board: unknown meter "nonsense"'
        ):
            call(tmp_path / "farm.toml")
    assert not (tmp_path / "cache" / "build").exists()


def test_a_wait_lasts_as_long_as_the_work_but_no_wait_never() -> None:
    for seconds, waits in ((0.001, True), (0.0, False)):
        patience = Patience(seconds)
        patience.working.set()
        deadline = time.monotonic() - 1
        assert patience.is_over(deadline) is not waits
        patience.working.clear()
        assert patience.is_over(deadline)
    patience = Patience(math.inf)
    patience.working.set()
    patience.over.set()
    assert patience.is_over(math.inf)
