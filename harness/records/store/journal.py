"""Append-only journals of JSON lines, durable per line, and files that are replaced atomically.

A line counts once its newline is written. Readers ignore a partial last line after a kill or a
power cut, and the next writer removes it, so both see the same lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import durable
from harness.errors import StoreError
from harness.records.store.text import decode, encode


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalText:
    """The contents of a journal: the lines that can be read, and what is damaged."""

    lines: tuple[Any, ...]
    damage: tuple[str, ...] = ()
    """A sentence per complete line that is not JSON."""
    size_bytes: int = 0
    """The size up to the last newline."""


def read(path: Path) -> JournalText:
    """Read all complete lines; a missing file is an empty journal, a partial last line is ignored.

    A complete line that is not JSON (the disk lost a block) is reported in `damage`, and the other
    lines still count. Raises StoreError if the file cannot be read at all.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return JournalText(lines=())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    whole = data[: data.rfind(b"\n") + 1]
    lines, damage = [], []
    for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
        try:
            lines.append(decode(line))
        except ValueError as error:
            damage.append(f"{path.name} line {number} is not JSON: {error}")
    return JournalText(lines=tuple(lines), damage=tuple(damage), size_bytes=len(whole))


class Journal:
    """A journal open for appending; the run's lock ensures that there is one writer."""

    def __init__(self, path: Path) -> None:
        """Open or create the file and remove a partial last line."""
        self.path = path
        with writing(path):
            durable.point("open", path)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            durable.sync(path.parent)
            self._size = read(path).size_bytes
            os.ftruncate(self._fd, self._size)

    def append(self, plain: object) -> None:
        """Add one line; it is on the disk when this returns.

        Raises StoreError (a full disk, a value that is not JSON); the journal is then unchanged.
        """
        line = (encode(plain) + "\n").encode()
        durable.point("append", self.path)
        with writing(self.path):
            try:
                _write_all(self._fd, line)
                durable.point("written", self.path)
                os.fsync(self._fd)
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise
        self._size += len(line)
        durable.point("appended", self.path)

    def close(self) -> None:
        """Close the file; appending again is an error."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        """Return the journal itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError while writing into a StoreError that names the path and the fix."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; free disk space or give write "
            "permission there, or choose another folder with --results"
        ) from error


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a `.part` path to write; it replaces `path` atomically and durably, or not at all."""
    with writing(path), durable.replacing(path) as part:
        yield part


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
