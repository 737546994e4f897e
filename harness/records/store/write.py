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
from harness.records.store import kept
from harness.records.store.codec import (
    DeviceRecord,
    OutcomeLine,
    RunRecord,
    decode,
    dump,
    encode,
)
from harness.records.store.journal import Journal, appearing, writing
from harness.records.store.layout import (
    LAUNCHES,
    LOCK,
    LOG,
    OUTCOMES,
    RECORD,
    SAMPLES,
    VARIANTS,
)
from harness.records.store.read import StoredRun
from harness.records.store.samples import SamplesWriter
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
            self._launches = stack.enter_context(Journal(folder / LAUNCHES))
            self._outcomes = stack.enter_context(Journal(folder / OUTCOMES))
            self._log = stack.enter_context(Journal(folder / LOG))
            run = StoredRun(path=folder, record=record)
            stored = run.stored_launches()
            launches = tuple(stored.by_id.values())
            by_cell: dict[str, list[Launch]] = defaultdict(list)
            for launch in launches:
                by_cell[launch.cell_id].append(launch)
            self.done = StoredProgress(
                outcomes={outcome.cell.id: outcome for outcome in run.outcomes(stored)},
                launches={cell: tuple(items) for cell, items in by_cell.items()},
            )
            self._known = {launch.id for launch in launches}
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
            if launch.id in self._known:
                # The launch is absent until its new line is written: its old line must never
                # be read with its new samples.
                self._launches.append({"again": launch.id})
                self._known.discard(launch.id)
            self._samples.write(launch)
            self._launches.append(line)
            self._known.add(launch.id)

    def outcome(self, outcome: Outcome) -> None:
        """Store the outcome of a cell; it replaces an earlier one of the same cell."""
        cell = outcome.cell
        if cell.id not in self._cells:
            raise StoreError(
                f"cell {cell.id} ({cell.model}, {cell.device}) is not in run {self.id}"
            )
        line = OutcomeLine(
            cell=cell.id,
            launches=tuple(launch.id for launch in outcome.launches),
            failure=outcome.failure,
            agreement=outcome.agreement,
            changed=None if cell == self._cells[cell.id] else cell,
        )
        plain = dump(line)
        with self._lock:
            missing = [name for name in line.launches if name not in self._known]
            if missing:
                raise StoreError(
                    f"run {self.id}: the outcome of cell {cell.id} names launch {missing[0]}, "
                    "which was never stored"
                )
            self._outcomes.append(plain)

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
        """Merge the samples into one file; safe to interrupt at any point and to call again."""
        with self._lock:
            self._samples.merge(self._known)

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
        part.write_text(encode(dump(record)) + "\n", encoding="utf-8")


def _holder(fd: int) -> str:
    try:
        who = decode(os.pread(fd, 4096, 0))
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _now() -> str:
    return datetime.now(tz=UTC).isoformat(timespec="milliseconds")
