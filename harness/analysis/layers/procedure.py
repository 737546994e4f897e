"""Time per operator of the files of stored runs, measured anew on their devices."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import assets
from harness.analysis.layers import Layers, Subject, alignment, estimate, subjects, tool
from harness.config import farm as farms
from harness.config import profiles
from harness.devices import opening
from harness.errors import ConfigError
from harness.measure.bench import Bench
from harness.measure.runs import farm_of
from harness.measure.sessions import Session
from harness.records import store
from harness.tflite.truncate import MAX_PREFIXES
from harness.types import Device

_MOST_RUNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersFound:
    """The operators of every file asked about, and the differences of those that belong together."""

    layers: tuple[Layers, ...]
    differences: tuple[alignment.Difference, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "layers": [one.plain() for one in self.layers],
            "differences": [one.plain() for one in self.differences],
        }


def layers(
    selectors: Sequence[str],
    *,
    only: subjects.Narrowed | None = None,
    benchmark_model: Path | None = None,
    launches: int | None = None,
    at_most: int = MAX_PREFIXES,
    farm: farms.Farm | Path | None = None,
    results: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> LayersFound:
    """Measure the operators of one stored run's files, or of two runs', on their devices.

    With `benchmark_model` (a binary for the device), or one in the device's PATH, the times are the
    tool's; else they are estimated by truncated graphs, `at_most` of them a file. The device is the
    run's, or the farm's of that name. Raises ConfigError for what does not fit together or another
    machine at the device's address, StoreError for the runs, and what the device raises.
    """
    if not 1 <= len(selectors) <= _MOST_RUNS:
        raise ConfigError("layers takes one run, or two to compare")
    kept = store.Store(results or assets.results_folder())
    runs = [kept.open(selector) for selector in selectors]
    shares = [subjects.of_run(run, only or subjects.Narrowed()) for run in runs]
    chosen = subjects.pairs(shares)
    located = [(run, subject) for run, share in zip(runs, shares, strict=True) for subject in share]
    places: dict[tuple[str, str], _Place] = {}
    for number, (run, subject) in enumerate(located):
        place = _place(run, subject.device, farm)
        places.setdefault((place.device.name, place.device.address), place).asked.append(number)
    wanted = _Wanted(tool=benchmark_model, launches=launches, at_most=at_most, tell=tell)
    found: dict[int, Layers] = {}
    for place in places.values():
        measured = _on_device(place, [located[number][1] for number in place.asked], wanted)
        found.update(zip(place.asked, measured, strict=True))
    return LayersFound(
        layers=tuple(found[number] for number in range(len(located))),
        differences=tuple(alignment.difference(found[a], found[b]) for a, b in chosen),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A device, who it was when the run was made, and which subjects are asked of it."""

    device: Device
    identity: str | None
    asked: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    tool: Path | None
    launches: int | None
    at_most: int
    tell: Callable[[str], None]


def _place(run: store.StoredRun, name: str, farm: farms.Farm | Path | None) -> _Place:
    """Take the run's entry of the device, or the farm's where a farm is given."""
    entry = run.record.devices[name]
    device = entry.device if farm is None else farms.select(farm_of(farm), [name])[0]
    opening.check(device, profiles.load_all().get(device.profile))
    return _Place(device=device, identity=entry.facts.identity if entry.facts else None)


def _on_device(place: _Place, asked: Sequence[Subject], wanted: _Wanted) -> list[Layers]:
    profile = profiles.load_all().get(place.device.profile)
    session = Session(place.device)
    try:
        if place.identity is not None and session.facts.identity != place.identity:
            raise ConfigError(
                f"{place.device.name}: another machine answers at {place.device.address} than the "
                "run was made on; measure there first: edge-harness run"
            )
        binary = tool.find(session, wanted.tool)
        fits = all(subject.target in tool.TARGETS for subject in asked)
        if binary is not None and (fits or wanted.tool is not None):
            launches = wanted.launches or tool.LAUNCHES
            with Bench(session=session, profile=profile) as bench:
                return tool.measure(asked, bench, binary, launches=launches, tell=wanted.tell)
        with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
            return estimate.measure(
                asked,
                session,
                Path(folder),
                launches=wanted.launches or estimate.LAUNCHES,
                at_most=wanted.at_most,
                profile=profile,
                tell=wanted.tell,
            )
    finally:
        session.close()
