"""Read a stored run, also while it is being written and after a power cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.records.store import journal as journals
from harness.records.store.codec import OutcomeLine, RunRecord, load
from harness.records.store.layout import LAUNCHES, LOG, OUTCOMES, SAMPLES, VARIANTS
from harness.records.store.summaries import plain_record
from harness.types import Launch, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLaunches:
    """The launches of a run: the last line of each id, in the order they were stored."""

    by_id: Mapping[str, Launch]
    damage: tuple[str, ...]
    size_bytes: int
    """The size of the journal; a cache that was made from it is stale if this changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run's folder, opened for reading; each method reads the current contents."""

    path: Path
    """The run's folder."""
    record: RunRecord

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.record.id

    @property
    def variants(self) -> Path:
        """The folder of the measured files, named `<sha256>.tflite`."""
        return self.path / VARIANTS

    def stored_launches(self) -> StoredLaunches:
        """Read the journal of launches; lines that cannot be read are reported as damage."""
        journal = journals.read(self.path / LAUNCHES)
        by_id: dict[str, Launch] = {}
        damage = list(journal.damage)
        for line in journal.lines:
            if isinstance(line, dict) and set(line) == {"again"}:
                by_id.pop(str(line["again"]), None)
                continue
            try:
                launch = load(Launch, line)
            except StoreError as error:
                damage.append(f"{LAUNCHES}: {error}")
                continue
            # A launch that was made again has the position of its last line.
            by_id.pop(launch.id, None)
            by_id[launch.id] = launch
        return StoredLaunches(by_id=by_id, damage=tuple(damage), size_bytes=journal.size_bytes)

    def launches(self) -> tuple[Launch, ...]:
        """Return every stored launch without its samples, also the launches of failed cells."""
        return tuple(self.stored_launches().by_id.values())

    def outcomes(self, stored: StoredLaunches | None = None) -> tuple[Outcome, ...]:
        """Return the last outcome of each cell, in the order of the record's cells.

        Pass `stored` if the journal of launches was read already.
        """
        journal = journals.read(self.path / OUTCOMES)
        launches = (stored or self.stored_launches()).by_id
        cells = {cell.id: cell for cell in self.record.cells}
        found: dict[str, Outcome] = {}
        for line in journal.lines:
            outcome = _outcome(line, cells, launches)
            if outcome is not None:
                found[outcome.cell.id] = outcome
        return tuple(found[cell_id] for cell_id in cells if cell_id in found)

    def damage(self) -> tuple[str, ...]:
        """Return a sentence per line of the journals that cannot be read; empty if all can."""
        outcomes = journals.read(self.path / OUTCOMES)
        log = journals.read(self.path / LOG)
        return (*self.stored_launches().damage, *outcomes.damage, *log.damage)

    def log(self) -> tuple[Mapping[str, Any], ...]:
        """Return the events of the run, oldest first."""
        lines = journals.read(self.path / LOG).lines
        return tuple(line for line in lines if isinstance(line, dict))

    def samples(
        self, *, cell: str | None = None, kind: str | None = None, series: str | None = None
    ) -> dict[str, Any]:
        """Return the samples as numpy columns, restricted to a cell, kind or series if given.

        docs/records.md has the columns and units; `at_ns` is on each launch's own clock.
        """
        from harness.records.store import samples as store_samples

        wanted = {"cell": cell, "kind": kind, "series": series}
        given = {name: value for name, value in wanted.items() if value is not None}
        condition = " AND ".join(f'"{name}" = ?' for name in given) or "true"
        return store_samples.columns_of(
            self.path / SAMPLES, self._launch_ids(), condition, list(given.values())
        )

    def query(self, sql: str, stored: StoredLaunches | None = None) -> list[tuple[Any, ...]]:
        """Return the rows of a SELECT over the table `samples`, which has each sample once.

        Pass `stored` if the journal of launches was read already. Raises StoreError.
        """
        from harness.records.store import samples as store_samples

        launch_ids = set(stored.by_id) if stored else self._launch_ids()
        return store_samples.query(self.path / SAMPLES, launch_ids, sql)

    def _launch_ids(self) -> set[str]:
        return set(self.stored_launches().by_id)


def open_folder(folder: Path) -> StoredRun:
    """Open a run's folder; raises StoreError if its record is missing or cannot be read."""
    return StoredRun(path=folder, record=load(RunRecord, plain_record(folder)))


def _outcome(
    line: object, cells: Mapping[str, Any], launches: Mapping[str, Launch]
) -> Outcome | None:
    """Make an outcome; None if the line, its cell or all its launches are lost."""
    try:
        stored = load(OutcomeLine, line)
    except StoreError:
        return None
    cell = stored.changed or cells.get(stored.cell)
    if cell is None or cell.id not in cells:
        return None
    found = tuple(launches[name] for name in stored.launches if name in launches)
    if stored.failure is None and not found:
        return None
    return Outcome(
        cell=cell,
        launches=() if stored.failure else found,
        failure=stored.failure,
        agreement=stored.agreement,
    )
