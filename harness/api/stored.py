"""Read stored runs: list, show, compare and report them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import assets
from harness.api import arguments
from harness.api.arguments import AnyPath, Several
from harness.records import store

if TYPE_CHECKING:
    import pandas as pd

    from harness.records import table
    from harness.records.table.rows import Measured

OnRead = Callable[["Measured"], None]
"""Is called with every run that is read; `damage` has what is damaged in it."""


def ignore_read(measured: Measured) -> None:
    """Do nothing."""
    del measured


def read_run(
    selector: str, *, results: AnyPath | None = None, on_read: OnRead = ignore_read
) -> Measured:
    """Open, read and verify a stored run; raises StoreError."""
    from harness.records.table.rows import read

    measured = read(open_run(selector, results=results))
    on_read(measured)
    return measured


def runs(*, results: AnyPath | None = None) -> list[dict[str, Any]]:
    """List the stored runs, newest first."""
    return [summary.plain() for summary in _store(results).runs()]


def open_run(selector: str, *, results: AnyPath | None = None) -> store.StoredRun:
    """Open a stored run by id, unique prefix or `latest`; raises StoreError."""
    return _store(results).open(selector)


def rows(selector: str, *, results: AnyPath | None = None) -> list[table.Row]:
    """Return the rows of a stored run; the columns are `harness.records.table.COLUMNS`."""
    from harness.records import table

    return table.rows(open_run(selector, results=results))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownRun:
    """A stored run as `show` prints it."""

    id: str
    rows: list[table.Row]
    lines: list[str]
    """The lines below the table: :func:`minutes`, then :func:`places`."""
    gate: Mapping[str, Any] | None = None
    """The document of a gate with its verdict (docs/gate.md); None for other runs."""

    def plain(self) -> dict[str, Any]:
        """Return it as `show --format json` prints it."""
        found: dict[str, Any] = {"run": self.id, "rows": [row.plain() for row in self.rows]}
        return found if self.gate is None else {**found, "gate": dict(self.gate)}

    def __str__(self) -> str:
        """Return the table and the lines below it."""
        from harness.present import notebook

        return notebook.text(self.rows, self.lines)

    def _repr_html_(self) -> str:
        """Return the table and the lines below it for a notebook."""
        from harness.present import notebook

        return notebook.html(self.rows, self.lines)


def show(
    selector: str, *, results: AnyPath | None = None, on_read: OnRead = ignore_read
) -> ShownRun:
    """Read a stored run once; return its rows and the lines below them."""
    from harness.records.table import minutes, places
    from harness.records.table.rows import rows_of

    measured = read_run(selector, results=results, on_read=on_read)
    run = measured.run
    rows = rows_of(measured)
    lines = [*minutes.lines(measured, rows), *places.lines(run)]
    gate: Mapping[str, Any] | None = None
    if run.record.kind == "gate":
        from harness.present.report.exports import verdicts

        gate = verdicts.of(run)
        lines += verdicts.remarks(gate) if gate else []
    return ShownRun(id=run.id, rows=rows, lines=lines, gate=gate)


def places(run: store.StoredRun) -> list[str]:
    """Return one line per device of a run: its facts, and how its profile was verified."""
    from harness.records.table import places as table_places

    return table_places.lines(run)


def minutes(run: store.StoredRun) -> list[str]:
    """Return one line per sustained row of a run with the p50 of each minute, ms."""
    from harness.records.table import minutes as table_minutes
    from harness.records.table.rows import read

    return table_minutes.lines(read(run))


def load(selector: str, *, results: AnyPath | None = None) -> pd.DataFrame:
    """Return a run's rows as a pandas frame."""
    from harness.records import table

    return table.frame(open_run(selector, results=results))


def compare(
    selectors: Several[str],
    *,
    include_suspect: bool = False,
    results: AnyPath | None = None,
    on_read: OnRead = ignore_read,
) -> list[table.Row]:
    """Compare runs: ratios with intervals, or "below noise".

    Rows that are not VALID have no numbers and the difference "left out", unless `include_suspect`.
    """
    from harness.records.table.compare import compare_measured

    return compare_measured(
        [
            read_run(selector, results=results, on_read=on_read)
            for selector in arguments.texts(selectors)
        ],
        include_suspect=include_suspect,
    )


def report(
    selector: str,
    output: AnyPath | None = None,
    *,
    results: AnyPath | None = None,
    on_read: OnRead = ignore_read,
) -> Path:
    """Write one self-contained HTML page of a run; return its path.

    Without `output` the page is in the run's folder; a folder gets `report.html`. Raises ConfigError
    if `output` cannot be written, StoreError for the run or its folder.
    """
    from harness.present.report import exports, html

    measured = read_run(selector, results=results, on_read=on_read)
    target = arguments.optional_path(output) or measured.run.path
    if target.is_dir():
        target /= "report.html"
    if output is None:
        html.write_measured(measured, target)
    else:
        exports.save(html.page_of(measured), target)
    return target


def _store(results: AnyPath | None) -> store.Store:
    return store.Store(arguments.optional_path(results) or assets.results_folder())
