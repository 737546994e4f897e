"""The samples of a run: Parquet through DuckDB, without pandas or pyarrow.

During a run, `samples/` has one file per launch, named by the launch's id. At the end they are
merged into `_merged.parquet`. If a launch is in both (the merge was interrupted or the launch was
made again), its own file is used, so nothing is lost or read twice.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness import durable
from harness.errors import StoreError
from harness.records.store import checksums
from harness.records.store.journal import appearing, writing
from harness.types import Launch

MERGED = "_merged.parquet"
_PATTERN = re.compile(r"([*?\[])")
COLUMNS: Mapping[str, str] = {
    "run": "VARCHAR",
    "cell": "VARCHAR",
    "launch": "VARCHAR",
    "block": "INTEGER",
    "position": "INTEGER",
    "kind": "VARCHAR",
    "series": "VARCHAR",
    "at_ns": "BIGINT",
    "value": "DOUBLE",
    "count": "BIGINT",
}
"""The columns of every samples file with their DuckDB types; docs/records.md explains them."""

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_BATCH = 256
_LAUNCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def launch_file(folder: Path, launch_id: str) -> Path:
    """Return the path of a launch's samples; raises StoreError if its id is not a file name."""
    if not _LAUNCH_ID.fullmatch(launch_id):
        raise StoreError(f"{launch_id!r} is not a launch's id: letters, digits, '.', '_', '-' only")
    return folder / f"{launch_id}.parquet"


class SamplesWriter:
    """Writes the samples of one run through one DuckDB connection; several threads may share it."""

    def __init__(self, folder: Path, run_id: str) -> None:
        """Write into `folder`, which exists."""
        import duckdb

        self.folder = folder
        self.run_id = run_id
        self._lock = threading.Lock()
        self._connection = duckdb.connect(config={"threads": 1})

    def write(self, launch: Launch) -> str:
        """Write the samples of a launch to the disk, completely or not at all; return its SHA-256.

        Raises StoreError for columns of unequal length, values that are not finite, or a full disk.
        """
        import numpy as np

        path = launch_file(self.folder, launch.id)
        for part in launch.samples:
            if not len(part.at_ns) == len(part.value) == len(part.count):
                raise StoreError(f"launch {launch.id}: columns of {part.series} differ in length")
        at_ns = [np.asarray(part.at_ns, dtype=np.int64) for part in launch.samples]
        value = [np.asarray(part.value, dtype=np.float64) for part in launch.samples]
        count = [np.asarray(part.count, dtype=np.int64) for part in launch.samples]
        for part, values in zip(launch.samples, value, strict=True):
            if not np.isfinite(values).all():
                raise StoreError(
                    f"launch {launch.id}: {part.series} has a value that is not a finite number"
                )
        none = np.empty(0, dtype=np.int64)
        columns = {
            "series_index": np.repeat(
                np.arange(1, len(value) + 1, dtype=np.int32), [len(values) for values in value]
            ),
            "at_ns": np.concatenate([none, *at_ns]),
            "value": np.concatenate([none.astype(np.float64), *value]),
            "count": np.concatenate([none, *count]),
        }
        with self._lock, appearing(path) as part_path, _store_errors(path):
            self._connection.register("columns", columns)
            self._connection.execute(_copy(launch, self.run_id, part_path))
            self._connection.unregister("columns")
            return checksums.digest(part_path)

    def merge(self, launch_ids: Collection[str], expect: Callable[[str], None]) -> None:
        """Merge all files into one; safe to interrupt at any point and to call again.

        `expect` stores the SHA-256 of the merged file, before the file gets its name.
        """
        own = [path for path in own_files(self.folder) if path.stem in launch_ids]
        if not own:
            return
        merged = self.folder / MERGED
        with self._lock:
            with appearing(merged) as part, _store_errors(merged):
                samples = samples_query(self.folder, launch_ids)
                self._connection.execute(
                    f"COPY ({samples} ORDER BY cell, kind, block, launch, series, at_ns) "
                    f"TO {_quote(str(part))} (FORMAT parquet, COMPRESSION zstd)"
                )
                expect(checksums.digest(part))
            with writing(self.folder):
                for path in own:
                    durable.point("unlink", path)
                    path.unlink()
                durable.sync(self.folder)
                durable.point("unlinked", self.folder)

    def forget(self, known: Collection[str]) -> None:
        """Remove the leftovers of a killed writer: files of unknown launches, `.part` files."""
        with writing(self.folder):
            for path in self.folder.iterdir():
                orphan = path.suffix == ".parquet" and path.name != MERGED
                if path.suffix == ".part" or (orphan and path.stem not in known):
                    durable.point("unlink", path)
                    path.unlink()

    def close(self) -> None:
        """Close the DuckDB connection."""
        self._connection.close()


def own_files(folder: Path) -> list[Path]:
    """List the files with one launch each, sorted."""
    names = sorted(path.name for path in folder.glob("*.parquet"))
    return [folder / name for name in names if name != MERGED]


def _quoted_path(path: Path) -> str:
    """Quote a path for DuckDB, which reads a pattern: other runs' files must not match."""
    return _quote(_PATTERN.sub(r"[\1]", str(path)))


def samples_query(folder: Path, launch_ids: Collection[str]) -> str:
    """Return a SELECT of all samples of these launches, each once, with the COLUMNS."""
    own = [path for path in own_files(folder) if path.stem in launch_ids]
    parts = [
        *([_select(own)] if own else []),
        *_select_merged(folder, set(launch_ids) - {path.stem for path in own}),
    ]
    return f"SELECT * FROM ({' UNION ALL '.join(parts or [_EMPTY])})"  # noqa: S608 - quoted parts


_NAMES = ", ".join(f'"{name}"' for name in COLUMNS)
_NULLS = ", ".join(f'CAST(NULL AS {kind}) AS "{name}"' for name, kind in COLUMNS.items())
_EMPTY = f"SELECT {_NULLS} WHERE false"


def _select(paths: Sequence[Path]) -> str:
    files = ", ".join(map(_quoted_path, paths))
    return f"SELECT {_NAMES} FROM read_parquet([{files}])"  # noqa: S608 - quoted


def _select_merged(folder: Path, launch_ids: Collection[str]) -> list[str]:
    """Return a SELECT of these launches' samples in the merged file; none if there is none."""
    merged = folder / MERGED
    if not launch_ids or not merged.exists():
        return []
    wanted = ", ".join(_quote(launch_id) for launch_id in sorted(launch_ids))
    return [f"{_select([merged])} WHERE launch IN ({wanted})"]


def queries(
    folder: Path, launch_ids: Collection[str], sqls: Sequence[str]
) -> list[list[tuple[Any, ...]]]:
    """Run queries over the table `samples` (with the COLUMNS) of these launches; return their rows.

    Raises StoreError if a samples file is damaged or a query is not valid SQL.
    """
    import duckdb

    own = [path for path in own_files(folder) if path.stem in launch_ids]
    with duckdb.connect() as connection, _store_errors(folder):
        if len(sqls) > 1 and own:
            # A run in progress may have thousands of files: each is opened once, a few at a time.
            in_merged = _select_merged(folder, set(launch_ids) - {path.stem for path in own})
            batches = range(0, len(own), _BATCH)
            parts = [*in_merged, *(_select(own[start : start + _BATCH]) for start in batches)]
            connection.execute(f"SET threads = 1; CREATE TEMP TABLE found AS {_EMPTY}")
            for part in parts:
                connection.execute(f"INSERT INTO found {part}")
            connection.execute("RESET threads")
            found = "SELECT * FROM found"
        else:
            found = samples_query(folder, launch_ids)
        return [connection.execute(f"WITH samples AS ({found}) {sql}").fetchall() for sql in sqls]


def columns_of(
    folder: Path, launch_ids: Collection[str], condition: str, values: Sequence[object]
) -> dict[str, Any]:
    """Return the samples that meet an SQL condition (with `?` for `values`).

    One numpy array per column of COLUMNS, ordered by cell, kind, block, launch, series and time.
    """
    import duckdb

    with duckdb.connect() as connection, _store_errors(folder):
        statement = (
            f"SELECT * FROM ({samples_query(folder, launch_ids)}) WHERE {condition} "  # noqa: S608
            "ORDER BY cell, kind, block, launch, series, at_ns"
        )
        return dict(connection.execute(statement, list(values)).fetchnumpy())


def _copy(launch: Launch, run_id: str, destination: Path) -> str:
    series = ", ".join(_quote(part.series) for part in launch.samples)
    return f"""
        COPY (
            SELECT {_quote(run_id)} AS run, {_quote(launch.cell_id)} AS cell,
                {_quote(launch.id)} AS launch, {int(launch.block)}::INTEGER AS block,
                {int(launch.position)}::INTEGER AS position, {_quote(launch.kind)} AS kind,
                ([{series}]::VARCHAR[])[series_index] AS series, at_ns, value, count
            FROM columns
        ) TO {_quote(str(destination))} (FORMAT parquet)
    """  # noqa: S608 - every text is quoted, every number is an int


def _quote(text: str) -> str:
    """Quote a text for SQL; NUL is refused because DuckDB's parser ends a text there."""
    if "\0" in text:
        raise StoreError(f"{text!r} has a NUL character and cannot be stored")
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        text = _plain_text(error)
        for number in _UNWRITABLE:
            if os.strerror(number) in text:
                with writing(path):
                    raise OSError(number, os.strerror(number)) from error
        raise StoreError(f"samples in {path}: {text}") from error


def _plain_text(error: Exception) -> str:
    """Return an error of the database in one line; some are JSON with the message in it."""
    text = str(error).strip()
    with suppress(ValueError, KeyError, TypeError):
        text = str(json.loads(text[text.index("{") :])["exception_message"])
    return " ".join(text.split())
