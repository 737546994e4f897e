"""Append-only journals of JSON lines, durable per line, and files that are replaced atomically.

A line counts once its newline is written. Readers ignore a partial last line after a kill or a
power cut, and the next writer removes it, so both see the same lines. Each line has its number and a
checksum (:mod:`harness.records.store.checksums`), so a line that was changed, lost, repeated, moved
or taken from another run is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import durable
from harness.errors import StoreError
from harness.records.store import checksums

NUMBER = "number"
"""The key of a line with its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """A line that can be read and has its checksum, if it needs one."""

    number: int
    """Its number as it was written, from 1; its position in a journal without numbers."""
    plain: Any
    sum: str | None = None
    """Its checksum; None in a journal that was written before there were checksums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostLine:
    """A line that is missing or damaged."""

    number: int
    raw: bytes = b""
    """The bytes of a damaged line; empty if the line is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalText:
    """The contents of a journal: the lines that can be read, and what is damaged."""

    entries: tuple[JournalLine, ...] = ()
    """In the order of their numbers, each once."""
    lost: tuple[LostLine, ...] = ()
    damage: tuple[str, ...] = ()
    """A sentence per line that is damaged, missing or at another place."""
    incomplete: bytes = b""
    """The bytes after the last newline: a line that was not written completely."""
    size_bytes: int = 0
    """The size up to the last newline."""
    count: int = 0
    """The highest number of a line, or the number of complete lines if that is higher."""
    digest: str = ""
    """SHA-256 of the whole file."""

    @property
    def lines(self) -> tuple[Any, ...]:
        """The contents of the lines that can be read."""
        return tuple(entry.plain for entry in self.entries)


def read(path: Path, key: str = "") -> JournalText:
    """Read all complete lines; a missing file is an empty journal, a partial last line is ignored.

    `key` is the run's; without it, lines may lack a checksum. A complete line that is not JSON or
    does not fit its checksum is reported in `damage`, and the other lines still count. Raises
    StoreError if the file cannot be read at all.
    """
    try:
        with durable.opened(path) as file:
            data = file.read()
    except FileNotFoundError:
        return JournalText()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    size = data.rfind(b"\n") + 1
    reading = _Reading(path.name, key)
    for line in data[:size].split(b"\n")[:-1]:
        reading.add(line)
    return reading.text(incomplete=data[size:], size_bytes=size, digest=_digest(data))


class _Reading:
    """The lines of a journal while it is read."""

    def __init__(self, name: str, key: str) -> None:
        self._name, self._key = name, key
        self._entries: dict[int, JournalLine] = {}
        self._damaged: list[tuple[int, bytes]] = []
        """The place in the file, from 1, and the bytes of each damaged line."""
        self._damage: list[str] = []
        self._place = 0
        self._last = 0

    def add(self, line: bytes) -> None:
        self._place += 1
        try:
            plain = checksums.checked(line, scope(self._key, self._name), needed=bool(self._key))
        except ValueError as error:
            self._damaged.append((self._place, line))
            why = error if isinstance(error, checksums.WrongSum) else f"it is not JSON: {error}"
            self._damage.append(f"{self._name} line {self._place}: {why}")
            return
        written = checksums.sum_of(line)
        number = self._place
        if written is not None and isinstance(plain, dict):
            number = int(plain.pop(NUMBER, number))
        if number in self._entries:
            self._damage.append(f"{self._name} line {self._place} repeats line {number}")
            return
        if number < self._last:
            self._damage.append(f"{self._name} line {number} is at place {self._place}")
        self._last = max(number, self._last)
        self._entries[number] = JournalLine(number=number, plain=plain, sum=written)

    def text(self, *, incomplete: bytes, size_bytes: int, digest: str) -> JournalText:
        lost = self._lost()
        return JournalText(
            entries=tuple(self._entries[number] for number in sorted(self._entries)),
            lost=lost,
            damage=(
                *self._damage,
                *(f"{self._name} line {one.number} is missing" for one in lost if not one.raw),
            ),
            incomplete=incomplete,
            size_bytes=size_bytes,
            count=max(self._last, self._place),
            digest=digest,
        )

    def _lost(self) -> tuple[LostLine, ...]:
        """Return the damaged lines, each with a number that no other line has, and the missing."""
        numbers = [one for one in range(1, self._last + 1) if one not in self._entries]
        free, ordered = set(numbers), iter(numbers)
        found = []
        for place, raw in self._damaged:
            number = place
            if place not in free:
                number = next((one for one in ordered if one in free), place)
            free.discard(number)
            found.append(LostLine(number=number, raw=raw))
        missing = sorted(free) if self._key else []
        return (*found, *(LostLine(number=number) for number in missing))


def scope(key: str, name: str) -> str:
    """Return the scope of the checksums in a file of a run, by the run's key and the file's name."""
    return f"{key}/{name}"


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Journal:
    """A journal open for appending; the run's lock ensures that there is one writer."""

    def __init__(self, path: Path, key: str = "") -> None:
        """Open or create the file and remove a partial last line; `key` is the run's."""
        self.path = path
        self._scope = scope(key, path.name)
        with writing(path):
            durable.point("open", path)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            durable.sync(path.parent)
            found = read(path, key)
            self._size, self.count = found.size_bytes, found.count
            os.ftruncate(self._fd, self._size)

    def append(self, plain: Mapping[str, Any]) -> str:
        """Add one line with its number and checksum; return the checksum.

        The line is on the disk when this returns. Raises StoreError (a full disk, a value that is
        not JSON); the journal is then unchanged.
        """
        text = checksums.summed({**plain, NUMBER: self.count + 1}, self._scope)
        line = (text + "\n").encode()
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
        self.count += 1
        durable.point("appended", self.path)
        return checksums.sum_of(line[:-1]) or ""

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
