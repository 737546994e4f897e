"""Files that survive a kill and a power cut: they appear whole or not at all, and are checked when read.

The order of the durable writes is part of a record's format (docs/records.md). Each write passes
named points before and after it. With the variable EDGE_HARNESS_FAULT_POINTS set to `WHERE:FILE`, this
process appends the name of each point that it passes to FILE, and kills itself at the WHERE-th point
or at the first of that name; with 0 it only appends. benchmarks/fault_points.py kills a controller at
every point.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

FAULT_POINTS = "EDGE_HARNESS_FAULT_POINTS"
_STALE_SECONDS = 24 * 3600.0
_SEAL = b"\nsha256 "
_SEAL_BYTES = len(_SEAL) + 64

_lock = threading.Lock()
_passed = 0


def point(what: str, path: Path) -> None:
    """Pass a point of the durable write of `path`; tests kill the process here."""
    wanted = os.environ.get(FAULT_POINTS)
    if wanted is not None:
        _pass(wanted, f"{what} {path.name}")


def _pass(wanted: str, name: str) -> None:
    global _passed  # noqa: PLW0603 - the count of one process
    where, _, file = wanted.partition(":")
    with _lock:
        _passed += 1
        with Path(file).open("a", encoding="utf-8") as log:
            log.write(f"{name}\n")
        if where in {name, str(_passed)}:
            os.kill(os.getpid(), signal.SIGKILL)


def sync(path: Path) -> None:
    """Flush a file's contents, or a folder's entries, to the disk; raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(path: Path) -> None:
    """Flush a file, or a folder with everything in it, to the disk; raises OSError."""
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            if not entry.is_symlink():
                sync_tree(entry)
    sync(path)


@contextmanager
def replacing(path: Path, part: Path | None = None) -> Iterator[Path]:
    """Yield a path beside `path` to write; it then replaces `path` durably, or not at all.

    Give another `part` if several processes may write `path` at the same time. Raises OSError.
    """
    part = part or path.with_name(f".{path.name}.part")
    point("write", path)
    try:
        yield part
        sync(part)
        point("replace", path)
        part.replace(path)
        point("replaced", path)
        sync(path.parent)
        point("wrote", path)
    finally:
        part.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Rename a folder or file that is on the disk already, durably; raises OSError."""
    point("move", target)
    source.rename(target)
    point("moved", target)
    sync(target.parent)
    point("synced", target)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, readable or not; nothing happens if there is none.

    Raises OSError if it cannot be removed.
    """
    try:
        is_folder = stat.S_ISDIR(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not is_folder:
        path.unlink(missing_ok=True)
        return
    import shutil

    with contextlib.suppress(OSError):
        for folder in (path, *(item for item in path.rglob("*") if item.is_dir())):
            if not folder.is_symlink():
                folder.chmod(0o700)
    shutil.rmtree(path)


def opened(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Raises OSError, also for a pipe or a device, for which reading might wait without end.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")


# --- files of a cache ----------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    """Make a cache's folder; a file in its place is removed. Raises OSError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        path.unlink()
        path.mkdir(parents=True, exist_ok=True)


def keep(path: Path, data: bytes) -> None:
    """Write a cache's file; anything in its place is replaced. Raises OSError.

    Several processes may write the same file at once. Unfinished files older than a day are removed.
    """
    make_folder(path.parent)
    for left in path.parent.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > _STALE_SECONDS:
                remove(left)
    if path.is_dir() and not path.is_symlink():
        remove(path)
    with replacing(path, path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")) as part:
        part.write_bytes(data)


def read(path: Path) -> bytes | None:
    """Read a cache's file; None if it is absent, no file or unreadable: it is then made again."""
    try:
        with opened(path) as file:
            return file.read()
    except OSError:
        return None


def keep_sealed(path: Path, data: bytes) -> None:
    """Write a cache's file with its digest, as :func:`keep`."""
    keep(path, data + _seal(path, data))


def read_sealed(path: Path) -> bytes | None:
    """Read what :func:`keep_sealed` wrote; None if it is absent, incomplete or changed."""
    whole = read(path) or b""
    data, seal = whole[:-_SEAL_BYTES], whole[-_SEAL_BYTES:]
    return data if seal == _seal(path, data) else None


def _seal(path: Path, data: bytes) -> bytes:
    """Return the digest of a file's name and data: one file in another's place does not fit."""
    import hashlib

    return _SEAL + hashlib.sha256(os.fsencode(path.name) + b"\0" + data).hexdigest().encode()
