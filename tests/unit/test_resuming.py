"""What may continue a stored run, and how a run is closed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import cell, record, variant

from harness.errors import StoreError
from harness.measure import continuity, prepare, resuming
from harness.measure.runs import RunInProgress
from harness.measure.sessions import Session
from harness.records.store import DeviceRecord, RunRecord, Store, continuing
from harness.testing import FakeDialect, FakeTransport
from harness.types import Device, Failure, Outcome, Runtime

BOARD = Device(name="pi", profile="fake", address="fake:")


def session(device: Device = BOARD, **changes: Any) -> Session:
    opener = FakeDialect.opener(identity="one", facts=changes)
    return Session(device, transport=FakeTransport, dialect=opener)


def begun(**changes: Any) -> RunRecord:
    known = DeviceRecord(device=BOARD, facts=session(**changes).facts)
    return record([cell("int8"), cell("float32")], devices={"pi": known})


@pytest.mark.parametrize(
    ("then", "now", "reason"),
    [
        ({}, {}, None),
        ({"kernel": None}, {}, None),
        ({}, {"kernel": None}, None),
        ({}, {"kernel": "7"}, "its kernel is 7, not 0"),
        ({}, {"machine": "armv7l"}, "its processor is armv7l, not fake"),
        ({}, {"system": "other"}, "its system is other, not fake"),
        ({}, {"cores": 2}, "its number of cores is 2, not 1"),
        ({"usable_cores": 4}, {"usable_cores": 2}, "its number of usable processors is 2, not 4"),
        ({"processors": (3, 2)}, {"processors": (2, 3)}, None),
        ({"processors": (3, 2)}, {"processors": (1, 0)}, "it may use processors 0,1, not 2,3"),
        (
            {},
            {"runtimes": (Runtime(name="fake", version="1"),)},
            "its runtime is fake 1, not fake 0",
        ),
        ({}, {"runtimes": (Runtime(name="new", version="0"),)}, "its runtime is new 0, not fake 0"),
        ({}, {"boot_id": "another", "temperature_c": 60.0, "hostname": "renamed"}, None),
    ],
)
def test_each_difference_of_a_device_is_named(
    then: dict[str, Any], now: dict[str, Any], reason: str | None
) -> None:
    run = begun(**then)
    live = {"pi": session(**now)}
    if reason is None:
        assert continuity.continued(run, run.cells, live).cells == run.cells
        return
    with pytest.raises(StoreError, match=reason):
        continuity.continued(run, run.cells, live)
    with pytest.raises(StoreError, match=reason):
        continuity.require_same(run, live, ["pi"])
    found = continuity.continued(run, run.cells, live, other_device=True)
    (alias,) = found.devices
    assert {one.device for one in found.cells} == {alias}
    assert found.names == {alias: "pi"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("profile", "other"), ("dialect", "x"), ("delegate_options", {"gpu": {"device": "1"}})],
)
def test_an_entry_of_the_farm_that_changes_what_is_measured_is_refused(
    key: str, value: Any
) -> None:
    run = begun()
    live = {"pi": session(replace(BOARD, **{key: value}))}
    with pytest.raises(StoreError, match=f"its {key} in farm.toml is"):
        continuity.continued(run, run.cells, live)


def test_another_machine_behind_the_name_is_refused_and_the_same_elsewhere_is_not() -> None:
    run = begun()
    moved = session(replace(BOARD, address="fake:2"))
    assert continuity.continued(run, run.cells, {"pi": moved}).names == {"pi": "pi"}
    other = Session(BOARD, transport=FakeTransport, dialect=FakeDialect.opener(identity="two" * 20))
    with pytest.raises(
        StoreError, match=r"another machine answers \(identity twotwotwotwo; the run"
    ):
        continuity.continued(run, run.cells, {"pi": other})


def test_a_cell_is_bound_to_the_file_of_its_own_target(tmp_path: Path) -> None:
    """Two devices with one recipe and different targets have different files."""
    cells = []
    for target in ("xnnpack", "gpu"):
        digest = hashlib.sha256(target.encode()).hexdigest()
        made = variant(target=target, digest=digest)
        inputs = str(tmp_path / "gone" / "inputs.npz")
        cells.append(cell(target=target, device=target, variant=made, check_inputs=inputs))
    seen = []

    class Decided:
        requests = ()

    bound = prepare.rebind(Decided(), cells, tmp_path, tmp_path)  # type: ignore[arg-type]
    for one in bound:
        assert not isinstance(one.variant, Failure)
        seen.append(one.variant.path.stem)
        assert one.check_inputs is None
    assert seen == [hashlib.sha256(target).hexdigest() for target in (b"xnnpack", b"gpu")]


class _Progress:
    closed = False

    def __call__(self, event: object) -> None:
        """Ignore it."""

    def close(self) -> None:
        self.closed = True


def test_a_run_is_released_even_if_its_devices_cannot_be_stopped(tmp_path: Path) -> None:
    def outcomes() -> Iterator[Outcome]:
        try:
            yield Outcome(cell=cell(), failure=Failure(kind="crashed", reason="why"))
        finally:
            raise OSError("the device cannot be stopped")

    progress = _Progress()
    run = RunInProgress(Store(tmp_path).create(record([cell()])), outcomes(), progress, {})
    next(run)
    with pytest.raises(OSError, match="cannot be stopped"):
        run.close()
    assert progress.closed
    run.close()
    Store(tmp_path).resume("latest", record([cell()]).plan_digest).close()


def test_the_command_that_continues_is_typable() -> None:
    call = {"plan": "my plans/it's.toml", "baseline": "a b", "candidate": "c"}
    options = {"--results": "r s"}
    assert continuing.command("id", "run", call, options) == (
        "edge-harness run 'my plans/it'\"'\"'s.toml' --results 'r s' --resume id"
    )
    assert continuing.command("id", "gate", call) == (
        "edge-harness gate 'my plans/it'\"'\"'s.toml' --baseline 'a b' --candidate c --resume id"
    )
    assert continuing.command("id", "selftest", call) is None
    assert continuing.command("id", "run", {}) is None
    assert resuming.variants_of([cell(variant=Failure(kind="x", reason="y"))]) == []
