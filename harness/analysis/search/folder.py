"""A search on disk: `<results>/searches/<id>/`, consistent after a kill at any moment.

search.json        the plan that is searched, and its digest
study.db           Optuna's study, SQLite
trials/KEY.json    one trial's result; written atomically
points/*.toml      a plan per point of the front
answer.json        the last result that was computed
locks/             a lock per recipe, one for measuring, one for drawing

A new search is made in `<results>/searches/.new/<id>/` and then renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import durable
from harness.analysis.search.records import TrialResult
from harness.errors import StoreError
from harness.records.store import SEARCHES, checksums, creation, new_id
from harness.records.store.codec import decode, encode
from harness.records.store.journal import appearing, writing
from harness.records.store.write import take_lock

RECORD, STUDY, ANSWER = "search.json", "study.db", "answer.json"
LATEST = "latest"
MEASURING = "measuring"
"""Name of a lock: a measurement holds it alone, builds share it."""
ASKING = "asking"
"""Name of the lock that a process holds while it draws the next trial."""

_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The folder of one search."""

    path: Path

    @property
    def id(self) -> str:
        """The search's id."""
        return self.path.name

    def record(self) -> dict[str, Any]:
        """Return search.json; raises StoreError if it cannot be read."""
        return _record(self.path / RECORD)

    @property
    def study(self) -> Path:
        """Path of the study."""
        return self.path / STUDY

    @property
    def points(self) -> Path:
        """Folder of the points' plans."""
        return self.path / "points"

    @contextmanager
    def writer(self) -> Iterator[None]:
        """Be the only controller of this search; raises StoreError if there is another."""
        descriptor = take_lock(self.path)
        try:
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def locked(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold one of the search's locks; the system frees it when the process ends."""
        path = self.path / "locks" / name
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def trial(self, key: str) -> TrialResult | None:
        """Return the result of a recipe's trial; None if there was no trial.

        Raises StoreError, with the file, if it cannot be read.
        """
        path = self.path / "trials" / f"{key}.json"
        try:
            return TrialResult.from_plain(checksums.read_document(path, key, needed=False))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, StoreError) as error:
            raise StoreError(f"{path}: {error}; remove it to try that recipe again") from error

    def trials(self) -> list[TrialResult]:
        """Return the results of all trials, in the order they were drawn."""
        keys = [path.stem for path in (self.path / "trials").glob("[!.]*.json")]
        found = [trial for trial in map(self.trial, keys) if trial is not None]
        return sorted(found, key=lambda trial: (trial.number, trial.key))

    def keep(self, trial: TrialResult) -> None:
        """Write the result of a trial."""
        path = self.path / "trials" / f"{trial.key}.json"
        self._write(path, checksums.summed(trial.plain(), trial.key))

    def answer(self, plain: object, plans: Sequence[tuple[str, str]]) -> None:
        """Write answer.json and a plan per point; remove the plans of an earlier answer."""
        names = {name for name, _ in plans}
        for name, text in plans:
            tomllib.loads(text)
            self._write(self.points / name, text)
        for path in self.points.glob("[!.]*.toml"):
            if path.name not in names:
                path.unlink(missing_ok=True)
        self._write(self.path / ANSWER, encode(plain))

    @staticmethod
    def _write(path: Path, text: str) -> None:
        with appearing(path) as part:
            part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def create(results: Path, *, model: str, digest: str, record: dict[str, Any]) -> Folder:
    """Make the folder of a new search; raises StoreError if it cannot be written."""
    now = datetime.now(tz=UTC)
    root = (results / SEARCHES).resolve()
    creation.remove_unfinished(root)
    name = new_id([model], now)
    part = Folder(path=root / creation.NEW / name)
    with writing(part.path):
        for inner in ("trials", "points", "locks"):
            (part.path / inner).mkdir(parents=True)
    about = {"format": _FORMAT, "created": now.isoformat(timespec="seconds"), "digest": digest}
    part._write(part.path / RECORD, encode({**about, **record}))  # noqa: SLF001 - its own module
    folder = Folder(path=root / name)
    with writing(folder.path):
        durable.move(part.path, folder.path)
    with contextlib.suppress(OSError):
        part.path.parent.rmdir()
    return folder


def resume(results: Path, selector: str, digest: str) -> Folder:
    """Open a stored search of the same plan: by id, a unique prefix, or `latest`.

    `latest` is the newest search of this plan. Raises StoreError if there is none, if several match,
    or if the search belongs to another plan.
    """
    root = results / SEARCHES
    known = {path.parent.name: path for path in sorted(root.glob(f"*/{RECORD}"))}
    digests = {name: _digest(path) for name, path in known.items()}
    if selector == LATEST:
        own = [name for name, found in digests.items() if found == digest]
        if not own:
            raise StoreError(f"no search of this plan in {root}; start one without --resume")
        return Folder(path=(root / own[-1]).resolve())
    names = [selector] if selector in known else [n for n in known if n.startswith(selector)]
    if len(names) != 1:
        what = f"is the start of {len(names)} searches" if names else "is no search"
        raise StoreError(f'"{selector}" {what} in {root} (there: {", ".join(known) or "none"})')
    if digests[names[0]] != digest:
        raise StoreError(
            f"search {names[0]} is of another plan (digest {digests[names[0]][:12]}, this one has "
            f"{digest[:12]}); start a new one, or take the plan as it was: it is in "
            f"{known[names[0]]}"
        )
    return Folder(path=(root / names[0]).resolve())


def _digest(path: Path) -> str:
    return str(_record(path)["digest"])


def _record(path: Path) -> dict[str, Any]:
    try:
        plain = decode(path.read_bytes())
        if not isinstance(plain, dict) or "digest" not in plain:
            raise StoreError(f"{path} is no record of a search; remove that folder")
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read: {error}; remove that folder") from error
    return plain
