"""The summaries that `runs` lists, read without loading whole runs: a store may have thousands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import durable
from harness.errors import StoreError
from harness.records.store import checksums
from harness.records.store import journal as journals
from harness.records.store.layout import FIRST_WITH_SUMS, OUTCOMES, RECORD, SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line of `runs`; if the folder cannot be read, the reason instead of figures."""

    id: str
    path: Path
    created: str | None = None
    kind: str | None = None
    models: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    cells: int = 0
    ok: int = 0
    failed: int = 0
    unreadable: str | None = None
    damaged: str | None = None
    """The outcomes that cannot be read; their cells count as pending."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON's types, `pending` included."""
        return {**asdict(self), "path": str(self.path), "pending": self.pending}

    @property
    def pending(self) -> int:
        """Cells without an outcome: the run is in progress or was interrupted."""
        return self.cells - self.ok - self.failed


def summarize(folder: Path) -> RunSummary:
    """Summarize a run without its samples; never raises because of the folder's contents."""
    try:
        plain = plain_record(folder)
        outcomes = journals.read(folder / OUTCOMES, str(plain.get("key", "")))
        cells = plain["cells"]
        failed = {
            line["cell"]: line.get("failure") is not None
            for line in outcomes.lines
            if isinstance(line, dict) and isinstance(line.get("cell"), str)
        }
        return RunSummary(
            id=folder.name,
            path=folder,
            created=str(plain["created"]),
            kind=str(plain["kind"]),
            models=tuple(sorted({str(cell["model"]) for cell in cells})),
            devices=tuple(sorted({str(cell["device"]) for cell in cells})),
            cells=len(cells),
            ok=sum(not bad for bad in failed.values()),
            failed=sum(failed.values()),
            damaged="; ".join(outcomes.damage) or None,
        )
    except StoreError as error:
        return RunSummary(id=folder.name, path=folder, unreadable=str(error))
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{folder / RECORD}: not a run's record: {error!r}"
        return RunSummary(id=folder.name, path=folder, unreadable=reason)


def plain_record(folder: Path) -> dict[str, Any]:
    """Read `run.json` and check its checksum and version; raises StoreError with the fix."""
    path = folder / RECORD
    try:
        with durable.opened(path) as file:
            text = file.read().removesuffix(b"\n")
        plain = checksums.checked(text, journals.scope("", RECORD), needed=False)
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is not a run: it has no {RECORD}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except checksums.WrongSum as error:
        raise StoreError(f"{path} is damaged: {error}; restore it from a copy") from error
    except ValueError as error:
        raise StoreError(f"{path} is not JSON: {error}; restore it from a copy") from error
    version = plain.get("schema") if isinstance(plain, dict) else None
    if not isinstance(plain, dict) or not isinstance(version, int):
        raise StoreError(f"{path} is not a run's record: it has no schema version")
    if version > SCHEMA:
        raise StoreError(
            f"{path} has schema {version}, this edge-harness reads up to {SCHEMA}; "
            "upgrade it: pip install -U edge-harness"
        )
    if (version >= FIRST_WITH_SUMS or plain.get("key")) and checksums.sum_of(text) is None:
        raise StoreError(f"{path} is damaged: it has no checksum; restore it from a copy")
    if plain.get("id") != folder.name:
        # A copied run has the id of its new folder.
        plain["id"] = folder.name
    return plain
