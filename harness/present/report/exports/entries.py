"""Shared by the formats: the rows that were measured on a device, with stable names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.analysis.pick import NOT_MEASURED, enough_delegated, key_of
from harness.columns import Column
from harness.errors import StoreError
from harness.records.table import Row, display, trust
from harness.records.table.quantiles import LaunchQuantiles
from harness.records.table.rows import Measured, rows_of
from harness.types import Cell, DeviceFacts, Launch

NAME_LIMIT = 1024
"""Characters: Bencher's limit for a benchmark's name, the smallest of the formats."""

_CUT = 16
_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportEntry:
    """A measured row with its name in other tools."""

    name: str
    row: Row
    cell: Cell
    launches: tuple[tuple[Launch, LaunchQuantiles], ...]
    """Timed launches that have samples, ordered by block."""
    facts: DeviceFacts | None


def entries(
    measured: Measured, *, emulated: bool, include_suspect: bool = False
) -> list[ExportEntry]:
    """Return the rows that are suitable for trends, in the plan's order.

    These are the `ok` rows and the partial rows that `min_delegated` allows. Rows of emulators are
    included only if `emulated` is true, since their times are not those of a device, and rows whose
    verdict is SUSPECT only if `include_suspect`. Raises StoreError if there is none, because most
    tools fail on an empty file.
    """
    rows = rows_of(measured)
    names = unique(name(row) for row in rows)
    allowed = enough_delegated(measured, rows)
    found = [
        ExportEntry(
            name=called,
            row=row,
            cell=cell,
            launches=_timed(measured, cell),
            facts=_facts(measured, cell),
        )
        for called, row, cell in zip(names, rows, measured.run.record.cells, strict=True)
        if row["latency_p50_ms"] is not None
        and (row["status"] == "ok" or key_of(row) in allowed)
        and (emulated or not set(row["flags"]) & set(NOT_MEASURED))
        and trust.doubt(row, include_suspect=include_suspect) is None
    ]
    if not found:
        doubtful = [(row, why) for row, why in trust.not_valid(rows) if row["status"] == "ok"]
        if doubtful and not include_suspect:
            reasons = "; ".join(f"{display.name(row)}: {why}" for row, why in doubtful[:_NAMED])
            raise StoreError(
                f"run {measured.run.id} has no VALID row to export in this format: {reasons}; "
                f"{trust.INCLUDE}"
            )
        raise StoreError(
            f"run {measured.run.id} has no row that was fully measured on a device, so there is "
            "nothing to export in this format; junit, csv and summary have the reason of every row"
        )
    return found


def name(row: Mapping[str, Any]) -> str:
    """Return a row's name, the same in every run: `kws/int8/bench-pi/threads:1`.

    A scenario other than `single` is added at the end, since its times belong to another trend.

    Control characters are removed from the parts. A slash or a percent sign in a part is escaped as
    in a URL, so that different rows have different names.
    """
    parts = [_part(row[key]) for key in ("model", "recipe", "device")]
    parts.append(f"threads:{row['threads']}")
    scenario = row.get("scenario") or "single"
    if scenario != "single":
        parts.append(_part(scenario))
    whole = "/".join(parts)
    if len(whole) <= NAME_LIMIT:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:_CUT]
    return f"{whole[: NAME_LIMIT - _CUT - 1]}~{digest}"


def unique(names: Iterable[str]) -> list[str]:
    """Number equal names: the second gets ` #2`."""
    seen: dict[str, int] = {}
    found = []
    for one in names:
        seen[one] = seen.get(one, 0) + 1
        found.append(one if seen[one] == 1 else f"{one} #{seen[one]}")
    return found


def measure_name(row: Row, name: str, column: Column) -> str:
    """Return the name of a value: the format's, or the metric if its better direction differs.

    A tool that treats `accuracy` as better if higher must not get an error under that name.
    """
    differs = column.by_metric and row.better(column.name) != column.better
    return display.clean(row.metric or name) if differs else name


def known(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out nulls: no format has a value for "not measured"."""
    return {key: value for key, value in pairs.items() if value is not None}


def details(row: Row) -> str:
    """Write a row as in the table, one line per column with a value."""
    texts = ((column.title, column.text(row)) for column in display.columns([row]))
    return "\n".join(
        f"{title}: {text}" for title, text in texts if text not in ("", display.NOTHING)
    )


def _part(value: object) -> str:
    return display.clean(value).replace("%", "%25").replace("/", "%2F") or "-"


def _timed(measured: Measured, cell: Cell) -> tuple[tuple[Launch, LaunchQuantiles], ...]:
    outcome = measured.outcomes.get(cell.id)
    quantiles = measured.quantiles.launches
    return tuple(
        (launch, quantiles[launch.id])
        for launch in sorted(
            outcome.launches if outcome else (), key=lambda one: (one.block, one.position)
        )
        if launch.kind == "timed" and launch.id in quantiles
    )


def _facts(measured: Measured, cell: Cell) -> DeviceFacts | None:
    record = measured.run.record.devices.get(cell.device)
    return record.facts if record else None
