"""Read a run once: the outcomes, launches and quantiles that rows and pages use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from harness import stats
from harness.devices.delegation import CPU_TARGETS
from harness.records.store import StoredRun
from harness.records.store.read import StoredLaunches
from harness.records.store.verify import RunDamage, verified
from harness.records.table.quantiles import Quantiles, quantiles
from harness.types import Cell, Launch, Outcome, Variant

Place = tuple[str, int]
"""A device and a number of threads."""
CpuPlace = tuple[str, str, int, str]
"""A model, a device, a number of threads and a scenario: its times are comparable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuRows:
    """The medians, ns, of the rows on the CPU of one place; of rows with the same key the last."""

    by_digest: dict[str, float] = field(default_factory=dict)
    by_recipe: dict[str, float] = field(default_factory=dict)
    """By the recipe without its target."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The contents of a run that rows, comparisons and pages use."""

    run: StoredRun
    outcomes: Mapping[str, Outcome]
    """By cell id; without those of damaged cells."""
    launches: Mapping[str, tuple[Launch, ...]]
    """By cell id; includes the launches of cells without an outcome."""
    intact: StoredLaunches
    """The launches whose samples can be used."""
    quantiles: Quantiles
    bare: Mapping[Place, Sequence[Launch]]
    """Launches without a model, by device and threads; all cells there share them."""
    damage: RunDamage
    is_checked: bool
    """Whether every part was compared with a checksum."""

    def medians(self, cell_id: str) -> list[float]:
        """Return the medians of a measured cell's timed launches, ns, ordered by block."""
        outcome = self.outcomes.get(cell_id)
        timed = of_kind(outcome.launches, "timed") if outcome else []
        known = self.quantiles.launches
        return [known[launch.id].p50 for launch in timed if launch.id in known]

    @cached_property
    def cpu_rows(self) -> Mapping[CpuPlace, CpuRows]:
        """The times on the CPU, by place: the rows of accelerators are compared with them."""
        found: dict[CpuPlace, CpuRows] = {}
        for cell in self.run.record.cells:
            if cell.target not in CPU_TARGETS or not isinstance(cell.variant, Variant):
                continue
            medians = self.medians(cell.id)
            if medians:
                rows, median = found.setdefault(cpu_place(cell), CpuRows()), stats.median(medians)
                rows.by_digest[cell.variant.digest] = median
                rows.by_recipe[recipe_of(cell)] = median
        return found

    @cached_property
    def continued(self) -> Mapping[str, str]:
        """Return, by the id of a cell without an outcome, the device measured in place of its own.

        A resumed run measures a device that changed as another device, if it is asked to.
        """
        record = self.run.record
        origins = {name: entry.device.name for name, entry in record.devices.items()}
        ended = {
            _subject(cell, origins): cell.device
            for cell in record.cells
            if cell.id in self.outcomes
        }
        found = {
            cell.id: ended.get(_subject(cell, origins))
            for cell in record.cells
            if cell.id not in self.outcomes
        }
        return {cell_id: device for cell_id, device in found.items() if device is not None}

    @cached_property
    def _bare_peaks(self) -> Mapping[Place, Mapping[str, list[float]]]:
        """The peaks of the launches without a model, by place and runtime."""
        peaks = self.quantiles.peak_rss_bytes
        found: dict[Place, dict[str, list[float]]] = {}
        for place, launches in self.bare.items():
            of_place = found.setdefault(place, {})
            for one in launches:
                if one.id in peaks:
                    of_place.setdefault(one.runtime, []).append(peaks[one.id])
        return found

    def bare_peak(self, place: Place, runtimes: frozenset[str]) -> float | None:
        """Return the median peak, bytes, of the launches without a model on these runtimes."""
        key = (place, runtimes)
        if key not in self._bare_medians:
            of_place = self._bare_peaks.get(place, {})
            values = [value for name in runtimes for value in of_place.get(name, ())]
            self._bare_medians[key] = stats.median(values) if values else None
        return self._bare_medians[key]

    @cached_property
    def _bare_medians(self) -> dict[tuple[Place, frozenset[str]], float | None]:
        return {}


def _subject(cell: Cell, origins: Mapping[str, str]) -> tuple[str, str, str, int, str]:
    """Return what a cell measures, and the farm's name of its device."""
    origin = origins.get(cell.device, cell.device)
    return cell.model, cell.recipe, cell.target, cell.threads, origin


def cpu_place(cell: Cell) -> CpuPlace:
    """Return the place whose times on the CPU are comparable with the cell's."""
    return cell.model, cell.device, cell.threads, cell.dose.scenario


def recipe_of(cell: Cell) -> str:
    """Return the cell's recipe without its target."""
    return cell.recipe.partition("@")[0].strip()


def read(run: StoredRun) -> Measured:
    """Read and verify a run's journals, samples and quantiles.

    `damage` has what is missing. Raises StoreError if a file cannot be read at all.
    """
    found = verified(run)
    intact = found.launches.without(found.unusable)
    by_cell: dict[str, list[Launch]] = {}
    for launch in found.launches.by_id.values():
        by_cell.setdefault(launch.cell_id, []).append(launch)
    bare: dict[Place, list[Launch]] = {}
    for cell in run.record.cells:
        here = (launch for launch in by_cell.get(cell.id, ()) if launch.kind == "bare")
        bare.setdefault((cell.device, cell.threads), []).extend(here)
    known = quantiles(run, intact)
    unmeasured = {
        cell_id: f"launch {lost[0]} has no samples"
        for cell_id, outcome in found.outcomes.items()
        if (lost := _without_samples(outcome, known))
    }
    damage = found.damage
    if unmeasured:
        damage = replace(
            damage,
            cells={**damage.cells, **unmeasured},
            sentences=(*damage.sentences, *unmeasured.values()),
        )
    return Measured(
        run=run,
        outcomes={name: one for name, one in found.outcomes.items() if name not in unmeasured},
        launches={cell: tuple(launches) for cell, launches in by_cell.items()},
        intact=intact,
        quantiles=known,
        bare=bare,
        damage=damage,
        is_checked=found.is_checked,
    )


def _without_samples(outcome: Outcome, known: Quantiles) -> list[str]:
    """Return the timed launches of an outcome that have no latency."""
    timed = of_kind(outcome.launches, "timed")
    return [launch.id for launch in timed if launch.id not in known.launches]


def of_kind(launches: Iterable[Launch], kind: str) -> list[Launch]:
    """Return the launches of a kind, ordered by block."""
    return sorted(
        (launch for launch in launches if launch.kind == kind),
        key=lambda launch: (launch.block, launch.position),
    )
