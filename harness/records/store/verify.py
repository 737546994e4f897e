"""Verify a stored run: which rows lost something, what it is, and what is only worth a note.

A run is written line by line, so the end of a journal may be missing while it is in progress. In a
run that has ended, `contents.json` has the lines that must be there. Before that, an outcome shows
what belongs to it: it names every launch that its cell had.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness import decoding
from harness.errors import StoreError
from harness.records.store import checksums, contents
from harness.records.store import journal as journals
from harness.records.store.contents import Contents, RunEnd
from harness.records.store.journal import LostLine
from harness.records.store.layout import CONTENTS, LAUNCHES, LOG, OUTCOMES, SAMPLES
from harness.records.store.read import (
    StoredLaunches,
    StoredOutcomes,
    StoredRun,
    lost_launch,
    missing,
    outcome_of,
    why_unusable,
)
from harness.records.store.samples import MERGED, own_files
from harness.types import Cell, Outcome

_SETTLE_SECONDS = 3.0
"""How long a run that changes while it is read is read again before it is called damaged."""
_BARE = "-bare-"
"""Part of the id of every launch without a model."""
_CELL = re.compile(rb'"cell(?:_id)?":"([0-9a-f]{12})"')
_LAUNCH = re.compile(rb'"id":"([0-9a-f]{12}-[a-z]+-[0-9]+-[0-9]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDamage:
    """What is damaged or missing in a run."""

    cells: Mapping[str, str] = field(default_factory=dict)
    """Why the row of a cell cannot be trusted, by cell id."""
    own: frozenset[str] = frozenset()
    """The cells that lost something of their own; the others share a launch with such a cell."""
    sentences: tuple[str, ...] = ()
    """A sentence per part that is damaged, missing or at another place, also without a row."""
    notes: tuple[str, ...] = ()
    """What is no damage, but should be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedRun:
    """A run whose files were compared with their checksums."""

    run: StoredRun
    launches: StoredLaunches
    """Every launch whose line can be read."""
    unusable: Mapping[str, str]
    """Why the samples of a launch cannot be used, by launch id."""
    outcomes: Mapping[str, Outcome]
    """The outcomes of the cells without damage, by cell id."""
    all_outcomes: StoredOutcomes
    contents: Contents | None
    damage: RunDamage
    is_checked: bool
    """Whether every part has a checksum: not in runs from before there were any."""


def verified(run: StoredRun) -> VerifiedRun:
    """Read a run and verify it; raises StoreError if a file cannot be read at all.

    A run that is being written may change between two files; then it is read again.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        before = _state(run)
        with decoding.many_objects():
            found = _Verification(run).result()
        is_whole = not found.damage.sentences and not found.damage.cells
        if is_whole or _state(run) == before or time.monotonic() > deadline:
            return found


def _state(run: StoredRun) -> list[tuple[str, int, int]]:
    """Return name, size and time of the files that :class:`_Verification` reads."""
    files = [run.path / name for name in (LAUNCHES, OUTCOMES, CONTENTS)]
    found = []
    for path in (*files, *(run.path / SAMPLES).glob("*.parquet")):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((path.name, stat.st_size, stat.st_mtime_ns))
    return sorted(found)


class _Verification:
    """A run while it is verified."""

    def __init__(self, run: StoredRun) -> None:
        self._run = run
        self._cells = {cell.id: cell for cell in run.record.cells}
        self._notes: list[str] = []
        self._sentences: list[str] = []
        self._reasons: dict[str, dict[str, None]] = {}
        """By cell id; a dictionary without values, so that each reason is there once."""
        self._bare_lost: set[str] = set()
        """Cells that lost a launch without a model, or may have lost one."""
        self._contents = self._read_contents()
        # Outcomes first: an outcome that is written meanwhile may name launches that are new too.
        self._outcomes = run.stored_outcomes()
        self._launches = run.stored_launches()
        self._unusable = dict(self._unusable_samples()) if self._is_checked() else {}

    def result(self) -> VerifiedRun:
        run, launches = self._run, self._launches
        self._sentences += [*launches.damage, *self._outcomes.damage]
        self._sentences += dict.fromkeys(self._unusable.values())
        self._sentences += journals.read(run.path / LOG, run.record.key).damage
        self._sentences += [
            f"{name} is missing" for name in contents.lost_documents(self._contents, run.path)
        ]
        self._mark_lost_journals()
        self._compare_outcomes()
        end = self._contents.end if self._contents else None
        if end is not None:
            self._compare_with_end(end)
        else:
            self._assign_lost_outcomes()
            self._assign_lost_launches()
        self._note_incomplete()
        own = frozenset(self._reasons)
        self._spread_bare()
        self._spread_to_accelerators()
        return VerifiedRun(
            run=run,
            launches=launches,
            unusable=self._unusable,
            outcomes={
                cell.id: outcome_of(self._outcomes.by_cell[cell.id], cell, launches.by_id)
                for cell in run.record.cells
                if cell.id in self._outcomes.by_cell and cell.id not in self._reasons
            },
            all_outcomes=self._outcomes,
            contents=self._contents,
            damage=RunDamage(
                cells={
                    name: "; ".join(reasons)
                    for name, reasons in self._reasons.items()
                    if name in self._cells
                },
                own=own,
                sentences=tuple(self._sentences),
                notes=tuple(self._notes),
            ),
            is_checked=self._is_checked(),
        )

    def _is_checked(self) -> bool:
        """Whether the samples have checksums; without contents those of merged samples are lost."""
        merged = (self._run.path / SAMPLES / MERGED).exists()
        return self._run.is_checked and (self._contents is not None or not merged)

    def _read_contents(self) -> Contents | None:
        run = self._run
        try:
            found = contents.read(run.path, run.record.key)
        except StoreError as error:
            self._sentences.append(str(error))
            return None
        if found is None and run.is_checked and (run.path / SAMPLES / MERGED).exists():
            self._sentences.append(f"{CONTENTS} is missing")
        return found

    def _mark(self, cell_id: str, reason: str, *, may_be_bare: bool = False) -> None:
        """Mark a cell as damaged; `may_be_bare` if it may have lost a launch without a model."""
        self._reasons.setdefault(cell_id, {})[reason] = None
        if may_be_bare:
            self._bare_lost.add(cell_id)

    # --- samples ----------------------------------------------------------------------------

    def _unusable_samples(self) -> Iterator[tuple[str, str]]:
        """Yield each launch whose samples are missing or changed, with the reason."""
        folder = self._run.path / SAMPLES
        own = {path.stem: path for path in own_files(folder)}
        in_merged = []
        for name in self._launches.by_id:
            wanted = self._launches.lines[name].samples_sha256
            if name not in own:
                in_merged.append(name)
            elif wanted is not None and _digest(own[name]) != wanted:
                yield name, f"{SAMPLES}/{name}.parquet is damaged: its checksum does not fit"
        if not in_merged:
            return
        merged = folder / MERGED
        if not merged.exists():
            yield from ((name, f"{SAMPLES}/{name}.parquet is missing") for name in in_merged)
            return
        last = (self._contents or Contents()).merged.get(_digest(merged) or "")
        for name in in_merged:
            if last is None:
                yield name, f"{SAMPLES}/{MERGED} is damaged: its checksum does not fit"
            elif self._launches.lines[name].number > last:
                yield name, f"{SAMPLES}/{name}.parquet is missing"

    # --- which rows -------------------------------------------------------------------------

    def _mark_lost_journals(self) -> None:
        """Mark every cell if one journal is gone: both are made before the first line of either."""
        known = {LAUNCHES: self._launches.by_id, OUTCOMES: self._outcomes.by_cell}
        lost = [name for name in known if not (self._run.path / name).exists()]
        folder = self._run.path / SAMPLES
        has_begun = any(known.values()) or (folder / MERGED).exists() or bool(own_files(folder))
        if has_begun and lost:
            self._sentences += [f"{name} is missing" for name in lost]
            for cell_id in self._cells:
                self._mark(cell_id, f"{' and '.join(lost)} is missing", may_be_bare=True)

    def _compare_outcomes(self) -> None:
        """Mark the cells whose outcome names launches that are missing or have no samples."""
        by_id = self._launches.by_id
        for cell_id, line in self._outcomes.by_cell.items():
            for reason in why_unusable(line, by_id):
                self._mark(cell_id, reason, may_be_bare=_BARE in reason)
            for name in line.launches:
                if name in self._unusable:
                    self._mark(cell_id, self._unusable[name])
        bare = [name for name in self._unusable if by_id[name].kind == "bare"]
        self._bare_lost |= {by_id[name].cell_id for name in bare}

    def _compare_with_end(self, end: RunEnd) -> None:
        """Mark the cells that lack a line which the ended run had, or have another one."""
        lines = self._launches.lines
        for cell_id, launches in end.launches.items():
            for name, written in launches.items():
                if name not in self._launches.by_id or (lines[name].sum or "") != written:
                    self._mark(cell_id, lost_launch(name), may_be_bare=_BARE in name)
        for name, launch in self._launches.by_id.items():
            if name not in end.launches.get(launch.cell_id, {}):
                reason = f"launch {name} is not in {CONTENTS}"
                self._mark(launch.cell_id, reason, may_be_bare=_BARE in name)
        for cell_id in self._cells:
            line = self._outcomes.lines.get(cell_id)
            found = (line.sum or "") if line and cell_id in self._outcomes.by_cell else None
            if found != end.outcomes.get(cell_id):
                self._mark(cell_id, f"its line in {OUTCOMES} is missing or unreadable")

    def _assign_lost_outcomes(self) -> None:
        """Mark the cells that a lost outcome may be of: the one it names, else every older one."""
        lost = [*self._outcomes.lost]
        if self._outcomes.incomplete and self._has_ended():
            number = 1 + max((line.number for line in self._outcomes.lines.values()), default=0)
            lost.append(LostLine(number=number, raw=self._outcomes.incomplete))
        unnamed = 0
        for one in lost:
            named = _named(_CELL, one.raw)
            if named in self._cells:
                self._mark_if_older(named, one.number)
            else:
                unnamed = max(one.number, unnamed)
        for cell_id in self._cells if unnamed else ():
            self._mark_if_older(cell_id, unnamed)

    def _mark_if_older(self, cell_id: str, number: int) -> None:
        """Mark a cell whose newest outcome is older than a lost line of that number."""
        newest = self._outcomes.lines.get(cell_id)
        if newest is None or newest.number < number:
            self._mark(cell_id, f"line {number} of {OUTCOMES} is unreadable")

    def _assign_lost_launches(self) -> None:
        """Mark the cells without an outcome that a lost launch may be of.

        An outcome names the launches of its cell, so a cell with one needs no other evidence.
        """
        by_id, by_cell = self._launches.by_id, self._outcomes.by_cell
        absent = {name for line in by_cell.values() for name in missing(line, by_id)}
        pending = [name for name in self._cells if name not in by_cell]
        unknown = 0
        for one in self._launches.lost:
            launch, cell_id = _named(_LAUNCH, one.raw), _named(_CELL, one.raw)
            if launch in absent:
                absent.remove(launch)
            elif cell_id in pending and launch not in by_id:
                reason = f"line {one.number} of {LAUNCHES} is unreadable"
                self._mark(cell_id, reason, may_be_bare=launch is None or _BARE in launch)
            elif cell_id not in self._cells:
                unknown += 1
        if unknown > len(absent):
            for cell_id in pending:
                reason = f"a line of {LAUNCHES} that may be of it is unreadable"
                self._mark(cell_id, reason, may_be_bare=True)

    def _has_ended(self) -> bool:
        """Whether the run has ended; without contents, the merged samples show it."""
        if self._contents is not None:
            return self._contents.end is not None
        folder = self._run.path / SAMPLES
        return (folder / MERGED).exists() and not own_files(folder)

    def _note_incomplete(self) -> None:
        for name, journal in ((LAUNCHES, self._launches), (OUTCOMES, self._outcomes)):
            if not journal.incomplete:
                continue
            if self._has_ended():
                self._sentences.append(f"{name} ends with an incomplete line")
            else:
                self._notes.append(f"{name} ends with an incomplete line, which is dropped")

    # --- rows that share a launch -----------------------------------------------------------

    def _spread_bare(self) -> None:
        """Mark the rows whose memory is compared with a lost launch without a model."""
        places = {_place(self._cells[name]) for name in self._bare_lost if name in self._cells}
        for cell_id, line in self._outcomes.by_cell.items():
            cell = self._cells.get(cell_id)
            if cell is None or cell_id in self._reasons or line.failure is not None:
                continue
            kinds = {self._launches.by_id[name].kind for name in line.launches}
            if "memory" in kinds and _place(cell) in places:
                self._reasons[cell_id] = {
                    f"the launch without a model on {cell.device} may be lost": None
                }

    def _spread_to_accelerators(self) -> None:
        """Mark the rows of accelerators whose time on the CPU is that of a damaged row."""
        from harness.devices.delegation import CPU_TARGETS

        damaged = [self._cells[name] for name in self._reasons if name in self._cells]
        beside = {
            (one.model, *_place(one), one.dose.scenario)
            for one in damaged
            if one.target in CPU_TARGETS
        }
        for cell in self._cells.values():
            key = (cell.model, *_place(cell), cell.dose.scenario)
            if cell.target not in CPU_TARGETS and key in beside and cell.id not in self._reasons:
                self._reasons[cell.id] = {"the row of the CPU beside it is damaged": None}


def _digest(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it was merged or replaced meanwhile."""
    try:
        return checksums.digest(path)
    except StoreError:
        if path.exists():
            raise
        return None


def _place(cell: Cell) -> tuple[str, int]:
    return cell.device, cell.threads


def _named(pattern: re.Pattern[bytes], raw: bytes) -> str | None:
    """Return the id in a damaged line; None if it cannot be found."""
    found = pattern.search(raw)
    return found[1].decode() if found else None
