"""Read a stored run, also while it is being written and after a power cut."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import decoding
from harness.errors import StoreError
from harness.records.store import checksums
from harness.records.store import journal as journals
from harness.records.store.codec import OutcomeLine, RunRecord, encode, load
from harness.records.store.journal import LostLine
from harness.records.store.layout import LAUNCHES, LOG, OUTCOMES, SAMPLES, VARIANTS
from harness.records.store.summaries import plain_record
from harness.types import Cell, Launch, Outcome

AGAIN = "again"
"""The only key of a line that revokes an earlier one: of a launch by its id, of an outcome by its cell."""
SAMPLES_DIGEST = "samples_sha256"
"""The key of a launch's line with the SHA-256 of its samples file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLine:
    """The line of a launch or an outcome in its journal."""

    number: int
    sum: str | None = None
    samples_sha256: str | None = None
    """Of the samples file of a launch; None if it was stored before there were checksums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLaunches:
    """The launches of a run: the last line of each id, in the order they were stored."""

    by_id: Mapping[str, Launch]
    lines: Mapping[str, StoredLine] = field(default_factory=dict)
    """By launch id."""
    lost: tuple[LostLine, ...] = ()
    """The lines that are missing or cannot be read."""
    incomplete: bytes = b""
    """The incomplete last line."""
    damage: tuple[str, ...]
    digest: str
    """Of the launches; a cache that was made from it is stale if this changes."""

    def without(self, damaged: Collection[str]) -> StoredLaunches:
        """Return the launches except those whose samples are damaged."""
        if not damaged:
            return self
        text = "\0".join((self.digest, *sorted(damaged)))
        return replace(
            self,
            by_id={name: one for name, one in self.by_id.items() if name not in damaged},
            digest=hashlib.sha256(text.encode()).hexdigest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutcomes:
    """The outcomes of a run: the last line of each cell, by its id."""

    by_cell: Mapping[str, OutcomeLine]
    lines: Mapping[str, StoredLine]
    """By cell id; has the last line of a revoked outcome too."""
    lost: tuple[LostLine, ...] = ()
    """The lines that are missing or cannot be read."""
    incomplete: bytes = b""
    """The incomplete last line."""
    damage: tuple[str, ...]


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
    def is_checked(self) -> bool:
        """Whether the run was stored with checksums."""
        return bool(self.record.key)

    @property
    def variants(self) -> Path:
        """The folder of the measured files, named `<sha256>.tflite`."""
        return self.path / VARIANTS

    def kept_file(self, digest: str) -> Path:
        """Return the path of a measured file; raises StoreError if it is missing or was changed."""
        path = self.variants / f"{digest}.tflite"
        if not path.is_file():
            raise StoreError(f"{path} is missing; copy the run again with its variants")
        if checksums.digest(path) != digest:
            raise StoreError(f"{path} is not the file that was measured; copy the run again")
        return path

    def stored_launches(self) -> StoredLaunches:
        """Read the journal of launches; lines that cannot be read are reported as damage."""
        journal = journals.read(self.path / LAUNCHES, self.record.key)
        by_id: dict[str, Launch] = {}
        lines: dict[str, StoredLine] = {}
        damage, lost = list(journal.damage), list(journal.lost)
        for entry in journal.entries:
            plain = entry.plain
            if isinstance(plain, dict) and set(plain) == {AGAIN}:
                by_id.pop(str(plain[AGAIN]), None)
                continue
            sampled = plain.pop(SAMPLES_DIGEST, None) if isinstance(plain, dict) else None
            try:
                launch = load(Launch, plain)
            except StoreError as error:
                damage.append(f"{LAUNCHES} line {entry.number}: {error}")
                lost.append(LostLine(number=entry.number, raw=encode(plain).encode()))
                continue
            # A launch that was made again has the position of its last line.
            by_id.pop(launch.id, None)
            by_id[launch.id] = launch
            lines[launch.id] = StoredLine(
                number=entry.number, sum=entry.sum, samples_sha256=sampled
            )
        return StoredLaunches(
            by_id=by_id,
            lines=lines,
            lost=tuple(lost),
            incomplete=journal.incomplete,
            damage=tuple(damage),
            digest=journal.digest,
        )

    def stored_outcomes(self) -> StoredOutcomes:
        """Read the journal of outcomes; lines that cannot be read are reported as damage."""
        journal = journals.read(self.path / OUTCOMES, self.record.key)
        by_cell: dict[str, OutcomeLine] = {}
        lines: dict[str, StoredLine] = {}
        damage, lost = list(journal.damage), list(journal.lost)
        for entry in journal.entries:
            plain = entry.plain
            if isinstance(plain, dict) and set(plain) == {AGAIN}:
                cell = str(plain[AGAIN])
                by_cell.pop(cell, None)
            else:
                try:
                    outcome = load(OutcomeLine, plain)
                except StoreError as error:
                    damage.append(f"{OUTCOMES} line {entry.number}: {error}")
                    lost.append(LostLine(number=entry.number, raw=encode(plain).encode()))
                    continue
                cell = outcome.cell
                by_cell[cell] = outcome
            lines[cell] = StoredLine(number=entry.number, sum=entry.sum)
        return StoredOutcomes(
            by_cell=by_cell,
            lines=lines,
            lost=tuple(lost),
            incomplete=journal.incomplete,
            damage=tuple(damage),
        )

    def launches(self) -> tuple[Launch, ...]:
        """Return every stored launch without its samples, also the launches of failed cells."""
        return tuple(self.stored_launches().by_id.values())

    def outcomes(self, stored: StoredLaunches | None = None) -> tuple[Outcome, ...]:
        """Return the last outcome of each cell, in the order of the record's cells.

        An outcome that names a launch which is not stored is left out. Pass `stored` if the journal
        of launches was read already.
        """
        # Outcomes first: an outcome that is written meanwhile may name launches that are new too.
        outcomes = self.stored_outcomes()
        launches = (stored or self.stored_launches()).by_id
        found = []
        for cell in self.record.cells:
            line = outcomes.by_cell.get(cell.id)
            if line is not None and not why_unusable(line, launches):
                found.append(outcome_of(line, cell, launches))
        return tuple(found)

    def damage(self) -> tuple[str, ...]:
        """Return a sentence per part of the run that is damaged or missing; empty if all is there."""
        from harness.records.store import verify

        return verify.verified(self).damage.sentences

    def log(self) -> tuple[Mapping[str, Any], ...]:
        """Return the events of the run, oldest first."""
        lines = journals.read(self.path / LOG, self.record.key).lines
        return tuple(line for line in lines if isinstance(line, dict))

    def samples(
        self, *, cell: str | None = None, kind: str | None = None, series: str | None = None
    ) -> dict[str, Any]:
        """Return the samples as numpy columns, restricted to a cell, kind or series if given.

        docs/records.md has the columns and units; `at_ns` is on each launch's own clock. Raises
        StoreError if samples are damaged.
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

        Pass `stored` for some launches only, if their samples are verified already. Raises
        StoreError if samples are damaged.
        """
        return self.queries([sql], stored)[0]

    def queries(
        self, sqls: Sequence[str], stored: StoredLaunches | None = None
    ) -> list[list[tuple[Any, ...]]]:
        """Return the rows of each SELECT, as :meth:`query`, and open the files once."""
        from harness.records.store import samples as store_samples

        launch_ids = set(stored.by_id) if stored else self._launch_ids()
        return store_samples.queries(self.path / SAMPLES, launch_ids, sqls)

    def _launch_ids(self) -> set[str]:
        """Return the launches' ids; raises StoreError if the samples of one are damaged."""
        from harness.records.store import verify

        found = verify.verified(self)
        if found.unusable:
            reasons = ", ".join(dict.fromkeys(found.unusable.values()))
            raise StoreError(f"run {self.id} is damaged: {reasons}; restore it from a copy")
        return set(found.launches.by_id)


def open_folder(folder: Path) -> StoredRun:
    """Open a run's folder; raises StoreError if its record is missing or cannot be read."""
    with decoding.many_objects():
        return StoredRun(path=folder, record=load(RunRecord, plain_record(folder)))


def missing(line: OutcomeLine, launches: Mapping[str, Launch]) -> list[str]:
    """Return the ids of launches that an outcome names and that are not stored."""
    return [name for name in (*line.launches, *line.evidence) if name not in launches]


def why_unusable(line: OutcomeLine, launches: Mapping[str, Launch]) -> list[str]:
    """Return what an outcome lacks, a text per part; empty if it is whole."""
    if line.failure is None and not line.launches:
        return ["its outcome names no launch"]
    if line.changed is not None and line.changed.id != line.cell:
        return ["its outcome is of another cell"]
    return [lost_launch(name) for name in missing(line, launches)]


def lost_launch(name: str) -> str:
    """Return the text about a launch that should be stored and is not."""
    return f"launch {name} is missing or unreadable in {LAUNCHES}"


def outcome_of(line: OutcomeLine, cell: Cell, launches: Mapping[str, Launch]) -> Outcome:
    """Make the outcome of a cell from its line, which :func:`why_unusable` has nothing against."""
    return Outcome(
        cell=line.changed or cell,
        launches=() if line.failure else tuple(launches[name] for name in line.launches),
        failure=line.failure,
        agreement=line.agreement,
        selfcheck=line.selfcheck,
    )
