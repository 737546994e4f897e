"""The writer of one run: durable per launch and per outcome, one controller at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import durable
from harness.errors import StoreError
from harness.records.store import checksums, contents, kept
from harness.records.store.codec import (
    DeviceRecord,
    OutcomeLine,
    RunRecord,
    decode,
    dump,
    encode,
)
from harness.records.store.contents import Contents, RunEnd
from harness.records.store.journal import Journal, appearing, scope, writing
from harness.records.store.layout import (
    LAUNCHES,
    LOCK,
    LOG,
    OUTCOMES,
    RECORD,
    SAMPLES,
    VARIANTS,
)
from harness.records.store.read import AGAIN, SAMPLES_DIGEST, StoredRun
from harness.records.store.samples import MERGED, SamplesWriter
from harness.records.store.verify import VerifiedRun, verified
from harness.types import Cell, Launch, Outcome, Variant


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredProgress:
    """The outcomes and launches that a run has already, by cell id; empty for a new run."""

    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    launches: Mapping[str, tuple[Launch, ...]] = field(default_factory=dict)
    """The launches, without samples."""


class RunWriter:
    """Writes one run; use it in a `with` block. Several threads may call its methods."""

    def __init__(self, folder: Path, record: RunRecord, lock: int | None = None) -> None:
        """Take the run's lock and open its journals; raises StoreError if another process has it.

        `lock` is the run's lock if this process has it already.
        """
        self.path = folder
        self.record = record
        self._lock = threading.Lock()
        self._cells = {cell.id: cell for cell in record.cells}
        with ExitStack() as stack:
            stack.callback(os.close, take_lock(folder) if lock is None else lock)
            with writing(folder):
                for name in (SAMPLES, VARIANTS):
                    (folder / name).mkdir(exist_ok=True)
            self._launches = stack.enter_context(Journal(folder / LAUNCHES, record.key))
            self._outcomes = stack.enter_context(Journal(folder / OUTCOMES, record.key))
            self._log = stack.enter_context(Journal(folder / LOG, record.key))
            found = verified(StoredRun(path=folder, record=record))
            launches = found.launches.without(found.unusable).by_id
            self._stored: dict[str, dict[str, str]] = defaultdict(dict)
            for launch in launches.values():
                line = found.launches.lines[launch.id]
                self._stored[launch.cell_id][launch.id] = line.sum or ""
            self._ended = {
                cell: found.all_outcomes.lines[cell].sum or ""
                for cell in found.all_outcomes.by_cell
            }
            self._contents = _contents_of(found)
            self._revoke_damaged(found)
            self._known = set(launches)
            by_cell: dict[str, list[Launch]] = defaultdict(list)
            for launch in launches.values():
                by_cell[launch.cell_id].append(launch)
            self.done = StoredProgress(
                outcomes=found.outcomes,
                launches={cell: tuple(items) for cell, items in by_cell.items()},
            )
            self._samples = SamplesWriter(folder / SAMPLES, record.id)
            stack.callback(self._samples.close)
            self._samples.forget(self._known)
            self._open = stack.pop_all()

    @property
    def id(self) -> str:
        """The run's id."""
        return self.record.id

    @property
    def variants(self) -> Path:
        """The folder of the measured files, named `<sha256>.tflite`."""
        return self.path / VARIANTS

    def launch(self, launch: Launch) -> None:
        """Store a launch: its samples first, then its line; durable when this returns.

        A launch that was stored before is replaced. Raises StoreError.
        """
        line = dump(launch)
        with self._lock:
            self._continue()
            if launch.id in self._known:
                # The launch is absent until its new line is written: its old line must never
                # be read with its new samples.
                self._launches.append({AGAIN: launch.id})
                self._known.discard(launch.id)
                self._stored[launch.cell_id].pop(launch.id, None)
            digest = self._samples.write(launch)
            written = self._launches.append({**line, SAMPLES_DIGEST: digest})
            self._stored[launch.cell_id][launch.id] = written
            self._known.add(launch.id)

    def outcome(self, outcome: Outcome) -> None:
        """Store the outcome of a cell; it replaces an earlier one of the same cell."""
        cell = outcome.cell
        if cell.id not in self._cells:
            raise StoreError(
                f"cell {cell.id} ({cell.model}, {cell.device}) is not in run {self.id}"
            )
        named = tuple(launch.id for launch in outcome.launches)
        with self._lock:
            line = OutcomeLine(
                cell=cell.id,
                launches=named,
                evidence=tuple(name for name in self._stored[cell.id] if name not in named),
                failure=outcome.failure,
                agreement=outcome.agreement,
                selfcheck=outcome.selfcheck,
                changed=None if cell == self._cells[cell.id] else cell,
            )
            missing = [name for name in line.launches if name not in self._known]
            if missing:
                raise StoreError(
                    f"run {self.id}: the outcome of cell {cell.id} names launch {missing[0]}, "
                    "which was never stored"
                )
            self._continue()
            self._ended[cell.id] = self._outcomes.append(dump(line))

    def log(self, event: Mapping[str, Any]) -> None:
        """Store an event with the current time."""
        with self._lock:
            self._log.append({"at": _now(), **event})

    def keep_variant(self, variant: Variant) -> Path:
        """Copy a variant's file into the run, and return the path of the copy; see :func:`kept.keep`.

        The file that a vendor's compiler took as input is copied too. Raises StoreError if a file
        is gone or no longer has its digest.
        """
        with self._lock:
            return kept.keep(self.variants, variant)

    def extend(
        self, *, cells: Iterable[Cell] = (), devices: Mapping[str, DeviceRecord] | None = None
    ) -> None:
        """Add cells and devices to `run.json`, or replace those with the same id or name.

        The files of the cells' variants are kept first. Raises StoreError.
        """
        with self._lock:
            by_id = {**self._cells, **{cell.id: cell for cell in cells}}
            known = {**self.record.devices, **(devices or {})}
            record = replace(self.record, cells=tuple(by_id.values()), devices=known)
            if record == self.record:
                return
            for cell in by_id.values():
                if cell != self._cells.get(cell.id) and isinstance(cell.variant, Variant):
                    kept.keep(self.variants, cell.variant)
            write_record(self.path, record)
            self.record, self._cells = record, by_id

    def finish(self) -> None:
        """Merge the samples into one file and store that the run has ended.

        It is safe to interrupt at any point and to call again.
        """
        with self._lock:
            self._samples.merge(self._known, self._expect)
            newest = list(self._contents.merged.items())[-1:]
            end = RunEnd(
                launches={cell: dict(found) for cell, found in self._stored.items() if found},
                outcomes=dict(self._ended),
                documents=contents.documents(self.path),
            )
            if self._contents.end != end:
                self._write(Contents(merged=dict(newest), end=end))

    def _expect(self, digest: str) -> None:
        """Store the digest of the samples that are merged now, beside that of the earlier ones."""
        self._write(Contents(merged={**self._contents.merged, digest: self._launches.count}))

    def _continue(self) -> None:
        """Store that the run has not ended, before a line is added to it."""
        if self._contents.end is not None:
            self._write(replace(self._contents, end=None))

    def _write(self, found: Contents) -> None:
        contents.write(self.path, self.record.key, found)
        self._contents = found

    def _revoke_damaged(self, found: VerifiedRun) -> None:
        """Revoke what is damaged, so that it is measured again; what is intact stays."""
        for cell in [cell for cell in self._ended if cell in found.damage.own]:
            self._continue()
            self._outcomes.append({AGAIN: cell})
            del self._ended[cell]
        for name in found.unusable:
            self._continue()
            self._launches.append({AGAIN: name})

    def close(self) -> None:
        """Close the journals and release the lock; the stored data stays."""
        self._open.close()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; the samples are merged by :meth:`finish` only."""
        self.close()


def _contents_of(found: VerifiedRun) -> Contents:
    """Return the run's contents; merged samples without a checksum are taken as they are."""
    merged = found.run.path / SAMPLES / MERGED
    if found.contents is None and merged.exists():
        numbers = [line.number for line in found.launches.lines.values()]
        return Contents(merged={checksums.digest(merged): max(numbers, default=0)})
    return found.contents or Contents()


def take_lock(folder: Path) -> int:
    """Take the advisory lock of a run's folder and return its file descriptor.

    The system releases it when the process ends. Raises StoreError naming the process that has it.
    """
    path = folder / LOCK
    durable.point("lock", path)
    with writing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(fd)
        os.close(fd)
        raise StoreError(
            f"run {folder.name} is being written by {holder}; wait for it to end, or stop it"
        ) from error
    text = encode({"process": os.getpid(), "host": socket.gethostname(), "since": _now()})
    try:
        with writing(path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode(), 0)
    except StoreError:
        os.close(fd)
        raise
    durable.point("locked", path)
    return fd


def write_record(folder: Path, record: RunRecord) -> None:
    """Write or replace a run's record; raises StoreError."""
    with appearing(folder / RECORD) as part:
        text = checksums.summed(dump(record), scope("", RECORD))
        part.write_text(text + "\n", encoding="utf-8")


def _holder(fd: int) -> str:
    try:
        who = decode(os.pread(fd, 4096, 0))
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="milliseconds")
