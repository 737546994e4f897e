"""Read a run once: the outcomes, launches and quantiles that rows and pages use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.records.store import StoredRun
from harness.records.table.quantiles import Quantiles, quantiles
from harness.types import Launch, Outcome

Place = tuple[str, int]
"""A device and a number of threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The contents of a run that rows, comparisons and pages use."""

    run: StoredRun
    outcomes: Mapping[str, Outcome]
    """By cell id."""
    launches: Mapping[str, tuple[Launch, ...]]
    """By cell id; includes the launches of cells without an outcome."""
    quantiles: Quantiles
    bare: Mapping[Place, tuple[Launch, ...]]
    """Launches without a model, by device and threads; all cells there share them."""

    def medians(self, cell_id: str) -> list[float]:
        """Return the medians of a measured cell's timed launches, ns, ordered by block."""
        outcome = self.outcomes.get(cell_id)
        timed = of_kind(outcome.launches, "timed") if outcome else []
        known = self.quantiles.launches
        return [known[launch.id].p50 for launch in timed if launch.id in known]


def read(run: StoredRun) -> Measured:
    """Read a run's journals and quantiles; raises StoreError if samples are damaged."""
    stored = run.stored_launches()
    by_cell: dict[str, list[Launch]] = {}
    for launch in stored.by_id.values():
        by_cell.setdefault(launch.cell_id, []).append(launch)
    bare: dict[Place, tuple[Launch, ...]] = {}
    for cell in run.record.cells:
        found = tuple(launch for launch in by_cell.get(cell.id, ()) if launch.kind == "bare")
        place = (cell.device, cell.threads)
        bare[place] = bare.get(place, ()) + found
    return Measured(
        run=run,
        outcomes={outcome.cell.id: outcome for outcome in run.outcomes(stored)},
        launches={cell: tuple(launches) for cell, launches in by_cell.items()},
        quantiles=quantiles(run, stored),
        bare=bare,
    )


def of_kind(launches: Iterable[Launch], kind: str) -> list[Launch]:
    """Return the launches of a kind, ordered by block."""
    return sorted(
        (launch for launch in launches if launch.kind == kind),
        key=lambda launch: (launch.block, launch.position),
    )
