"""Measure the time per operator of stored runs' files, on their devices."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import assets
from harness.analysis.layers import Layers, Subject, alignment, estimate, subjects, tool
from harness.config import farm as farms
from harness.config import profiles
from harness.devices import opening
from harness.errors import ConfigError
from harness.events import Emit, ignore
from harness.measure.bench import Bench
from harness.measure.leases import Patience
from harness.measure.recovery import Recovery
from harness.measure.runs import farm_of
from harness.measure.sessions import Session
from harness.records import store
from harness.tflite.truncate import MAX_PREFIXES
from harness.types import Device

_MAX_RUNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersFound:
    """The operator times of all chosen files, and the differences of the comparable ones."""

    layers: tuple[Layers, ...]
    differences: tuple[alignment.Difference, ...]

    def plain(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "layers": [one.plain() for one in self.layers],
            "differences": [one.plain() for one in self.differences],
        }


def layers(
    selectors: Sequence[str],
    *,
    only: subjects.RowFilter | None = None,
    benchmark_model: Path | None = None,
    launches: int | None = None,
    at_most: int = MAX_PREFIXES,
    farm: farms.Farm | Path | None = None,
    results: Path | None = None,
    wait: bool | None = None,
    on_event: Emit = ignore,
) -> LayersFound:
    """Measure the operator times of one or two stored runs' files on their devices.

    With `benchmark_model` (a binary for the device), or one in the device's PATH, the times are the
    tool's; else they are estimated from truncated graphs, at most `at_most` per file. The device is
    the run's, or the farm's device of that name. `wait` is that of `run`. `on_event` gets a MeasuringStarted per device and a
    LaunchStarted per launch.

    Raises ConfigError if two runs are not comparable or another machine answers at the device's
    address, StoreError for the runs, and the device's errors.
    """
    if not 1 <= len(selectors) <= _MAX_RUNS:
        raise ConfigError("layers takes one run, or two to compare")
    kept = store.Store(results or assets.results_folder())
    runs = [kept.open(selector) for selector in selectors]
    shares = [subjects.of_run(run, only or subjects.RowFilter()) for run in runs]
    compared = subjects.pairs(shares)
    chosen = [(run, subject) for run, share in zip(runs, shares, strict=True) for subject in share]
    devices: dict[tuple[str, str], _DeviceSubjects] = {}
    for number, (run, subject) in enumerate(chosen):
        entry = _device_of(run, subject.device, farm)
        devices.setdefault((entry.device.name, entry.device.address), entry).numbers.append(number)
    settings = _Settings(
        tool=benchmark_model, launches=launches, at_most=at_most, wait=wait, emit=on_event
    )
    found: dict[int, Layers] = {}
    for entry in devices.values():
        measured = _measure(entry, [chosen[number][1] for number in entry.numbers], settings)
        found.update(zip(entry.numbers, measured, strict=True))
    return LayersFound(
        layers=tuple(found[number] for number in range(len(chosen))),
        differences=tuple(alignment.difference(found[a], found[b]) for a, b in compared),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _DeviceSubjects:
    """A device, its identity in the run, and the subjects to measure on it."""

    device: Device
    identity: str | None
    numbers: list[int] = field(default_factory=list)
    """Positions in the list of all subjects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    tool: Path | None
    launches: int | None
    at_most: int
    wait: bool | None
    emit: Emit


def _device_of(run: store.StoredRun, name: str, farm: farms.Farm | Path | None) -> _DeviceSubjects:
    """Take the run's entry of the device, or the farm's if a farm is given."""
    entry = run.record.devices[name]
    device = entry.device if farm is None else farms.select(farm_of(farm), [name])[0]
    opening.check(device, profiles.load_all().get(device.profile))
    return _DeviceSubjects(device=device, identity=entry.facts.identity if entry.facts else None)


def _measure(
    entry: _DeviceSubjects, chosen: Sequence[Subject], settings: _Settings
) -> list[Layers]:
    device = entry.device
    profile = profiles.load_all().get(device.profile)
    session = Session(device, patience=Patience.of_option(settings.wait, settings.emit))
    try:
        if entry.identity is not None and session.facts.identity != entry.identity:
            raise ConfigError(
                f"{device.name}: another machine answers at {device.address} than the run was made "
                "on; run the plan there first"
            )
        recovery = Recovery(session=session, emit=settings.emit)
        binary = recovery.run(lambda: tool.find(session, settings.tool))
        is_supported = all(subject.target in tool.TARGETS for subject in chosen)
        if binary is not None and (is_supported or settings.tool is not None):
            launches = settings.launches or tool.LAUNCHES
            with Bench(session=session, emit=settings.emit, profile=profile) as bench:
                return tool.measure(chosen, bench, binary, launches=launches)
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
            return estimate.measure(
                chosen,
                session,
                Path(folder),
                launches=settings.launches or estimate.LAUNCHES,
                at_most=settings.at_most,
                profile=profile,
                emit=settings.emit,
            )
    finally:
        session.close()
