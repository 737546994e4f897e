"""The build cache: the result of each key is made once and shared by every run on this machine.

    <root>/<key>/entry.json      its facts, the digest of its file, and the digest of both
    <root>/<key>/<file>          a .tflite, a model, arrays
    <root>/tmp/                  unfinished entries

An entry appears whole or not at all: it is written in `tmp`, flushed to the disk and renamed. `get`
verifies the digests, and a damaged entry is removed and made again. If two runs make the same entry
at once, the first one stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import durable
from harness.errors import ConfigError, StoreError

_STALE_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEntry:
    """One entry of the cache."""

    key: str
    path: Path | None
    """Its file or folder; null if it has facts only."""
    facts: Mapping[str, Any]


class Cache:
    """A folder of entries by key. Raises ConfigError if the folder cannot be written."""

    def __init__(self, root: Path) -> None:
        """Open the cache, create its folder and remove unfinished entries older than a day."""
        self.root = root
        self._tmp = root / "tmp"
        try:
            durable.make_folder(root)
            durable.make_folder(self._tmp)
            writable = os.access(self._tmp, os.W_OK)
        except OSError as error:
            raise ConfigError(
                f"cache folder {root}: {error.strerror or error}; "
                "set EDGE_HARNESS_CACHE to another folder"
            ) from error
        if not writable:
            raise ConfigError(
                f"cache folder {root} is not writable; set EDGE_HARNESS_CACHE to another folder"
            )
        for left in self._tmp.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - left.lstat().st_mtime > _STALE_SECONDS:
                    durable.remove(left)

    def get(self, key: str) -> CacheEntry | None:
        """Return the entry with its digests verified; None if it is absent or damaged.

        A damaged entry is removed, so that it is made again.
        """
        folder = self.root / key
        if not folder.exists() and not folder.is_symlink():
            return None
        try:
            record = json.loads((durable.read(folder / "entry.json") or b"").decode())
            path = folder / record["file"] if record["file"] else None
            whole = record["seal"] == _seal(key, record)
            if whole and (path is None or digest(path) == record["digest"]):
                return CacheEntry(key=key, path=path, facts=record["facts"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        with contextlib.suppress(OSError):
            durable.remove(folder)
        return None

    def workspace(self) -> Path:
        """Return a new folder for unfinished work; `discard` it when done.

        Raises StoreError if it cannot be made (a full disk).
        """
        try:
            return Path(tempfile.mkdtemp(dir=self._tmp))
        except OSError as error:
            raise unwritable(self.root, error.strerror or str(error)) from error

    @staticmethod
    def discard(workspace: Path) -> None:
        """Remove a workspace and its content."""
        shutil.rmtree(workspace, ignore_errors=True)

    def keep(self, key: str, made: Path | None, facts: Mapping[str, Any]) -> CacheEntry:
        """Move a result into the cache under its key.

        Raises StoreError if it cannot be written (a full disk).
        """
        folder = self.workspace()
        try:
            if made is not None:
                made.rename(folder / made.name)
            record = {
                "file": made.name if made else None,
                "digest": digest(folder / made.name) if made else None,
                "facts": facts,
            }
            record["seal"] = _seal(key, record)
            (folder / "entry.json").write_text(json.dumps(record), encoding="utf-8")
            durable.sync_tree(folder)
            self._rename(folder, self.root / key)
        except OSError as error:
            raise unwritable(self.root, f"{key}: {error.strerror or error}") from error
        finally:
            self.discard(folder)
        kept = self.get(key)
        if kept is None:
            raise StoreError(f"cache {self.root}: the entry {key} was damaged while it was written")
        return kept

    def _rename(self, folder: Path, final: Path) -> None:
        try:
            durable.move(folder, final)
        except OSError:
            if self.get(final.name) is None:  # no other run made it: the old entry is damaged
                durable.remove(final)
                durable.move(folder, final)


def unwritable(root: Path, reason: str) -> StoreError:
    """Return the error of a cache that cannot be written."""
    return StoreError(
        f"cache {root}: {reason}; free disk space or give write permission there, or set "
        "EDGE_HARNESS_CACHE to another folder"
    )


def _seal(of: str, record: Mapping[str, Any]) -> str:
    """Return the digest of an entry's key and of its record without the seal, as JSON reads it."""
    plain = {name: value for name, value in record.items() if name != "seal"}
    return key(of=of, record=json.loads(json.dumps(plain)))


def digest(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's names and contents."""
    if path.is_dir():
        total = hashlib.sha256()
        for file in sorted(item for item in path.rglob("*") if item.is_file()):
            total.update(os.fsencode(f"{file.relative_to(path)}\0{digest(file)}\0"))
        return total.hexdigest()
    with durable.opened(path) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def key(**parts: object) -> str:
    """Return a key of everything that a result depends on: 40 hex digits of a sha256."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
