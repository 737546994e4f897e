"""The folder of runs: create a run, find one, list all."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import StoreError
from harness.records.store.layout import SEARCHES
from harness.records.store.summaries import RunSummary, plain_record, summarize

if TYPE_CHECKING:
    from harness.records.store.codec import RunRecord
    from harness.records.store.read import StoredRun
    from harness.records.store.write import RunWriter
    from harness.types import Variant

_LATEST = "latest"
_SHOWN = 5
_STAMP_LENGTH = len("20261122-082712")


class Store:
    """The folder of runs."""

    def __init__(self, root: Path) -> None:
        """Use `root`; it is created with the first run."""
        self.root = root

    def create(self, record: RunRecord, variants: Iterable[Variant] = ()) -> RunWriter:
        """Make a run's folder with the files of its variants and its record; return its writer.

        The folder appears complete or not at all. Two concurrent runs never share a folder: if the
        id is taken, the run gets another id (`writer.id`). Raises StoreError if `root` cannot be
        written, or if a variant's file is gone or changed.
        """
        from harness.records.store import creation

        self.check_writable()
        return creation.create(self.root, record, variants)

    def check_writable(self) -> None:
        """Create the folder and write to it as a test, before a long run; raises StoreError."""
        import tempfile

        from harness.records.store.journal import writing

        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass

    def open(self, selector: str) -> StoredRun:
        """Open a run by its id, a unique prefix, or `latest`.

        Raises StoreError if no run matches (with the nearest ids), if several match (with their
        ids), or if the record cannot be read.
        """
        from harness.records.store.read import open_folder

        return open_folder(self.root / self._find(selector))

    def resume(self, selector: str, plan_digest: str, kind: str = "run") -> RunWriter:
        """Open a run to continue it; `writer.done` has what is stored already.

        Raises StoreError if the run is of another kind, if it was started with another plan, or if
        another process is writing it.
        """
        from harness.records.store.write import RunWriter

        run = self.of_plan(selector, plan_digest, kind)
        return RunWriter(run.path, run.record)

    def of_plan(self, selector: str, plan_digest: str, kind: str = "run") -> StoredRun:
        """Open a run as `open` does; raises StoreError for another kind or another plan."""
        from harness.records.store.continuing import check

        run = self.open(selector)
        check(run.record, plan_digest, kind)
        return run

    def runs(self) -> list[RunSummary]:
        """List all runs, newest first; a broken one is listed with the reason."""
        summaries = [summarize(self.root / name) for name in self._names()]
        return sorted(
            summaries,
            key=lambda run: (run.id[:_STAMP_LENGTH], run.created or "", run.id),
            reverse=True,
        )

    def ids(self, since: str = "") -> list[str]:
        """List the ids of runs, oldest first; with `since`, from the time in that id on."""
        return [name for name in self._names() if name[:_STAMP_LENGTH] >= since[:_STAMP_LENGTH]]

    def _find(self, selector: str) -> str:
        names = self._names()
        if selector == _LATEST:
            return self._latest(names)
        if selector in names:
            return selector
        found = [name for name in names if selector and name.startswith(selector)]
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(found[-_SHOWN:])
            raise StoreError(
                f'"{selector}" is the start of {len(found)} runs: {some}; give a longer prefix'
            )
        import difflib

        near = difflib.get_close_matches(selector, names, n=_SHOWN, cutoff=0.4)
        hint = f"; did you mean: {', '.join(near)}" if near else ""
        raise StoreError(
            f'no run "{selector}" in {self.root}{hint} (`{self._command("runs")}` lists them; '
            "--results chooses another folder)"
        )

    def _command(self, name: str) -> str:
        """Return a command of this folder of runs, as it is typed."""
        from harness.records.store.continuing import results_option

        options = [part for pair in results_option(self.root).items() for part in pair]
        return shlex.join(["edge-harness", name, *options])

    def _latest(self, names: Sequence[str]) -> str:
        """Return the newest run; the record's time decides between runs of the same second."""
        readable: list[tuple[str, str]] = []
        second = ""
        for name in sorted(names, reverse=True):
            if readable and name[:_STAMP_LENGTH] != second:
                break
            try:
                created = str(plain_record(self.root / name).get("created"))
            except StoreError:
                continue
            second = name[:_STAMP_LENGTH]
            readable.append((created, name))
        if not readable:
            raise StoreError(
                f"no runs in {self.root}: `{self._command('demo')}` makes one, and --results chooses "
                "another folder"
            )
        return max(readable)[1]

    def _names(self) -> list[str]:
        """List the folders that may be runs, oldest first."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if entry.is_dir() and not entry.name.startswith(".") and entry.name != SEARCHES
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot be read: {error.strerror or error}; choose another folder "
                "with --results"
            ) from error
