"""Make a run's folder so that it appears complete: files of the variants, record, then its name.

A controller that is killed before the last step leaves `.new/<id>`. Readers ignore it, and a later run
removes it when it is a day old.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from harness import durable
from harness.errors import StoreError
from harness.records.store import kept
from harness.records.store.codec import RunRecord
from harness.records.store.journal import writing
from harness.records.store.layout import LOCK, SAMPLES, VARIANTS
from harness.records.store.write import RunWriter, take_lock, write_record
from harness.types import Variant

_TRIES = 8
_STALE_SECONDS = 24 * 3600.0
NEW = ".new"
"""Name of the folder of unfinished folders."""
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def create(root: Path, record: RunRecord, variants: Iterable[Variant]) -> RunWriter:
    """Make a run's folder in `root`; see :meth:`Store.create`. Raises StoreError."""
    remove_unfinished(root)
    files = list(variants)
    record = replace(record, key=os.urandom(8).hex())
    for _ in range(_TRIES):
        writer = _create(root, record, files)
        if writer is not None:
            return writer
        record = replace(record, id=f"{record.id.rpartition('-')[0]}-{os.urandom(3).hex()}")
    raise StoreError(f"{root}: no free name for a run after {_TRIES} tries")


def _create(root: Path, record: RunRecord, variants: Iterable[Variant]) -> RunWriter | None:
    """Make the folder; None if its name is taken."""
    part, folder = root / NEW / record.id, root / record.id
    durable.point("make", part)
    try:
        with writing(part):
            part.mkdir(parents=True)
    except StoreError as error:
        # Another run may have the id, or may have removed the empty folder of new runs just now.
        if isinstance(error.__cause__, FileExistsError | FileNotFoundError):
            return None
        raise
    durable.point("made", part)
    lock = take_lock(part)
    try:
        with writing(part):
            for name in (SAMPLES, VARIANTS):
                (part / name).mkdir()
        for variant in variants:
            kept.keep(part / VARIANTS, variant)
        write_record(part, record)
        if folder.exists() or not _renamed(part, folder):
            os.close(lock)
            durable.remove(part)
            return None
    except BaseException:
        os.close(lock)
        with contextlib.suppress(OSError):
            durable.remove(part)
            part.parent.rmdir()
        raise
    with contextlib.suppress(OSError):
        part.parent.rmdir()
    return RunWriter(folder, record, lock)


def _renamed(part: Path, folder: Path) -> bool:
    """Give the folder its name; false if another run has it."""
    try:
        with writing(folder):
            durable.move(part, folder)
    except StoreError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _TAKEN:
            return False
        raise
    return True


def remove_unfinished(root: Path) -> None:
    """Remove the folders of killed controllers that are older than a day; never raises."""
    for left in (root / NEW).glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > _STALE_SECONDS and not _is_locked(left):
                durable.remove(left)


def _is_locked(folder: Path) -> bool:
    """Return whether another process is writing the folder."""
    try:
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
