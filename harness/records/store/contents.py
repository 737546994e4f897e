"""`contents.json`: the files and lines that a run should have, to notice those that are lost.

It is written around the merge of the samples and at the end of the run. As soon as the run goes on,
it is written again without its end, so a record with an end has all its lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import StoreError
from harness.records.store import checksums
from harness.records.store.journal import appearing, scope
from harness.records.store.layout import CONTENTS, QUANTILES, RECORD


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """The lines that count in a run that has ended, each by its checksum."""

    launches: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By cell id and launch id."""
    outcomes: Mapping[str, str] = field(default_factory=dict)
    """The last line of each cell, by cell id."""
    documents: tuple[str, ...] = ()
    """The names of further files of the run, such as a gate's verdicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the files of a run should have."""

    merged: Mapping[str, int] = field(default_factory=dict)
    """The SHA-256 that the merged samples may have, and the last line of `launches.jsonl` in them.

    There are two while a merge is in progress or was interrupted.
    """
    end: RunEnd | None = None
    """None while the run is in progress, and after an interruption."""


def read(folder: Path, key: str) -> Contents | None:
    """Read the contents of a run; None if there are none. Raises StoreError if they are damaged."""
    from harness.records.store.codec import load

    path = folder / CONTENTS
    try:
        plain = checksums.read_document(path, scope(key, CONTENTS), needed=True)
        return load(Contents, plain)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{CONTENTS} cannot be read: {error.strerror or error}") from error
    except (ValueError, StoreError) as error:
        raise StoreError(f"{CONTENTS} is damaged: {error}") from error


def lost_documents(found: Contents | None, folder: Path) -> list[str]:
    """Return the names of the further files that an ended run had and that are missing."""
    names = found.end.documents if found and found.end else ()
    return [name for name in names if not (folder / name).exists()]


def documents(folder: Path) -> tuple[str, ...]:
    """Return the names of the files in a run's folder that only their writers know."""
    own = (RECORD, CONTENTS, QUANTILES)
    return tuple(sorted(one.name for one in folder.glob("[!.]*.json") if one.name not in own))


def write(folder: Path, key: str, contents: Contents) -> None:
    """Write the contents of a run, completely or not at all; raises StoreError."""
    from harness.records.store.codec import dump

    with appearing(folder / CONTENTS) as part:
        text = checksums.summed(dump(contents), scope(key, CONTENTS))
        part.write_text(text + "\n", encoding="utf-8")
