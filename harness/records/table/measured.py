"""Read a run once: the outcomes, launches and quantiles that rows and pages use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from harness.records.store import StoredRun
from harness.records.store.read import StoredLaunches
from harness.records.store.verify import RunDamage, verified
from harness.records.table.quantiles import Quantiles, quantiles
from harness.types import Launch, Outcome

Place = tuple[str, int]
"""A device and a number of threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    bare: Mapping[Place, tuple[Launch, ...]]
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


def read(run: StoredRun) -> Measured:
    """Read and verify a run's journals, samples and quantiles.

    `damage` has what is missing. Raises StoreError if a file cannot be read at all.
    """
    found = verified(run)
    intact = found.launches.without(found.unusable)
    by_cell: dict[str, list[Launch]] = {}
    for launch in found.launches.by_id.values():
        by_cell.setdefault(launch.cell_id, []).append(launch)
    bare: dict[Place, tuple[Launch, ...]] = {}
    for cell in run.record.cells:
        here = tuple(launch for launch in by_cell.get(cell.id, ()) if launch.kind == "bare")
        place = (cell.device, cell.threads)
        bare[place] = bare.get(place, ()) + here
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
