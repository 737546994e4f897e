"""Format rows for people: the columns, the units, and the meanings of flags and statuses.

The terminal, Markdown and HTML share it, so a number has the same format everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness import columns as columns_of
from harness.columns import Column, Form, Look
from harness.devices.delegation import CPU_TARGETS
from harness.printable import clean as clean  # noqa: PLC0414 - re-exported
from harness.printable import clean_lines as clean_lines  # noqa: PLC0414 - re-exported
from harness.printable import counted as counted  # noqa: PLC0414 - re-exported
from harness.records.table import trust
from harness.records.table.row import MEASURED, better, metric_of
from harness.stats import MAX_FACTOR

NOTHING = "-"

_NAMED = 3

FLAGS: Mapping[str, str] = {
    "backlog": "a stream ended with frames that were due and never ran; they count as missed",
    "drift": "latency changed by more than 2 % inside a launch",
    "emulated": "not real hardware: shows that it works, but not how fast it is",
    "hot": "measured hot: heated first as the plan requests, or above the profile's limit",
    "hot_start": "a launch started before the device had cooled",
    "imported": "numbers from another tool, not measured here",
    "left_running": "a process that a launch left running ran beside it: the log has its name",
    "no_xnnpack": "the XNNPACK delegate was not made: not comparable with runs that had it",
    "off_chip": "weights that do not fit the Edge TPU's memory are sent with every inference",
    "outputs_drifted": "after the timed inferences of a launch the same input gave other outputs",
    "outputs_unchecked": "no outputs were checked, so nothing shows that they are right",
    "outputs_unreferenced": "no host can run the file: its outputs were checked by themselves, not "
    "against a reference",
    "random_calibration": "calibrated on random data: latency only, accuracy means nothing",
    "random_inputs": "outputs were checked on random inputs",
    "sample_cap": "a launch ended at 1,000,000 samples",
    "simulated": "a simulator's numbers",
    "suspect": "the number is doubtful, for the row's own reason: see its verdict_reason",
    "throttled": "the processor was slowed down by heat or its supply during a launch",
    "thinned": "every second, fourth, ... sample of a long launch is kept, evenly spaced",
    "unchecked": "stored without checksums: damage that leaves readable text is not noticed",
    "under_voltage": "the supply was too weak during a launch",
    "uncontrolled": "the processor's frequency was not pinned, or its governor changed",
    "unsteady": "warm-up ended at its cap before latency was steady",
    "wide_weights": "some weights are wider than the recipe's name says: the notes list them",
}

SCENARIOS: Mapping[str, str] = {
    "stream": "stream: latency counts from the scheduled start of a frame; missed: frames that "
    "were not done one period after it",
    "offline": "offline: inf/s: inferences a second; a sample averages a block of about 10 ms",
    "sustained": "sustained: last/first: p50 of the last minute over that of the first",
}
"""The meanings of a scenario's columns; `single` needs none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """A column of a table for people."""

    column: Column
    look: Look
    of_device: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """For `flags`: those of all rows of a device, which :func:`legend` has once per device."""

    @property
    def title(self) -> str:
        """The heading."""
        return self.look.title

    @property
    def numeric(self) -> bool:
        """Whether it is aligned to the right."""
        return self.column.kind == "number"

    @property
    def rank(self) -> int:
        """Columns of a higher rank are left out first if the page is too narrow; 0 never is."""
        return self.look.rank

    def text(self, row: Mapping[str, Any]) -> str:
        """Format the row's value."""
        column, value = self.column, row[self.column.name]
        if column.kind == "list":
            common = self.of_device.get(row["device"], ())
            return clean(" ".join(one for one in value if one not in common))
        if column.of is not None:
            whole = row[column.of]
            return NOTHING if value is None or whole is None else f"{value}/{whole}"
        text = _FORMS[self.look.form](value, row, self.look)
        spread = half_width(row, column) if column.low else ""
        return f"{text} {spread}".strip()


def number(value: float | None, decimals: int) -> str:
    """Format a number with thousands separators; a dash for None."""
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def milliseconds(value: float | None) -> str:
    """Format milliseconds with three significant digits and at most four decimals."""
    if value is None:
        return NOTHING
    if value <= 0:
        return f"{value:g}"
    return f"{value:,.{max(0, min(4, 2 - math.floor(math.log10(value))))}f}"


def half_width(row: Mapping[str, Any], column: Column | None = None) -> str:
    """Format the distance of a value (p50 by default) to the farther end of its 95 % interval, in %.

    The interval is within value / (1 + x) and value * (1 + x). Empty without an interval, or if it is
    too wide to say anything.
    """
    of = column or columns_of.get("latency_p50_ms")
    value, low, high = row[of.name], row[of.low or ""], row[of.high or ""]
    if not value or not low or not high:
        return ""
    factor = max(high / value, value / low)
    return f"±{(factor - 1) * 100:.1f}%" if factor <= MAX_FACTOR else ""


def size(size_bytes: float | None) -> str:
    """Format a file's size in kB (10^3 bytes) or MB (10^6 bytes)."""
    if size_bytes is None:
        return NOTHING
    if size_bytes < 1e6:  # noqa: PLR2004 - the unit's own bound
        return f"{size_bytes / 1e3:,.1f} kB"
    return f"{size_bytes / 1e6:,.2f} MB"


def accuracy(value: float | None, row: Mapping[str, Any]) -> str:
    """Format a row's accuracy: a share of 1, or an error with its metric."""
    if value is None:
        return NOTHING
    if better(row, "accuracy") == "lower":
        return f"{value:.4g} {clean(metric_of(row) or '')}".strip()
    return f"{value:.4f}"


def _rate(value: float | None) -> str:
    """Format inferences per second with three significant digits or more."""
    return number(value, 0 if value is None or value >= 100 else 2)  # noqa: PLR2004


_FORMS: Mapping[Form, Callable[[Any, Mapping[str, Any], Look], str]] = {
    "text": lambda value, _, __: clean(NOTHING if value is None else value),
    "usual": lambda value, _, look: NOTHING if value in (None, look.usual) else clean(value),
    "milliseconds": lambda value, _, __: milliseconds(value),
    "decimals": lambda value, _, look: number(value, look.digits),
    "bytes": lambda value, _, __: size(value),
    "rate": lambda value, _, __: _rate(value),
    "accuracy": lambda value, row, _: accuracy(value, row),
    "share": lambda value, _, __: NOTHING if value is None else f"{value:.4f}",
}


@functools.cache
def _all() -> tuple[TableColumn, ...]:
    """Return all columns of tables for people, from left to right."""
    found = [TableColumn(column=one, look=one.look) for one in columns_of.ALL if one.look]
    return tuple(sorted(found, key=lambda one: one.look.place))


def columns(rows: Sequence[Mapping[str, Any]]) -> list[TableColumn]:
    """Choose the columns to show: by each column's `when`, those that differ or have values."""
    chosen = []
    of_device = device_flags(rows)
    for known in _all():
        column = replace(known, of_device=of_device) if known.column.kind == "list" else known
        texts = {column.text(row) for row in rows}
        keep = {
            "always": True,
            "differs": len(texts) > 1,
            "known": bool(texts - {"", NOTHING}),
            "unusual": bool(texts - {"", NOTHING, column.look.usual}),
        }
        if keep[column.look.when]:
            chosen.append(column)
    return chosen


def explained(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Explain why rows have no numbers, only some of them, or doubtful ones, one line per reason."""
    return _by_reason(
        (row, row["reason"] or (row["verdict_reason"] if row["verdict"] == "SUSPECT" else None))
        for row in rows
    )


def evidence(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what ran where in the valid rows and the evidence, one line per reason.

    Empty if no row targets an accelerator.
    """
    if all(row["target"] in CPU_TARGETS for row in rows):
        return []
    return _by_reason(
        (row, row["verdict_reason"])
        for row in rows
        if not row["reason"] and row["verdict"] == "VALID"
    )


def _by_reason(reasons: Iterable[tuple[Mapping[str, Any], str | None]]) -> list[str]:
    """Return one line per status and reason, with the rows that have it; rows without are left out."""
    same: dict[tuple[str, str], list[str]] = {}
    for row, reason in reasons:
        if reason:
            status = row["status"]
            if row["verdict"] is not None:
                status = f"{status}, {row['verdict']}"
            same.setdefault((clean(status), clean(reason)), []).append(name(row))
    lines = []
    for (status, reason), names in same.items():
        lines.append(f"{_names(names)}: {status}: {reason}")
    return lines


def left_out(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which rows have numbers and are not VALID, each with its reason; empty if none is."""
    found = trust.not_valid(rows)
    if not found:
        return []
    count = f"{len(found)} of {counted(len(rows), 'row')} {'is' if len(found) == 1 else 'are'} not VALID"
    return [
        f"{count}; pick, gate, compare and search leave them out unless {trust.OPTION}:",
        *(f"  {name(row)}: {clean(reason)}" for row, reason in found),
    ]


def name(row: Mapping[str, Any]) -> str:
    """Return a row's name: model, recipe, device, and threads if more than one."""
    threads = f", {row['threads']} threads" if row["threads"] != 1 else ""
    return clean(f"{row['model']} {row['recipe']} on {row['device']}{threads}")


def device_flags(rows: Sequence[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Return, by device, the flags that all its measured rows have; only if these are several."""
    found: dict[str, list[frozenset[str]]] = {}
    for row in rows:
        if row["status"] in MEASURED:
            found.setdefault(row["device"], []).append(frozenset(row["flags"]))
    return {
        device: common
        for device, sets in found.items()
        if len(sets) > 1 and (common := frozenset.intersection(*sets))
    }


def device_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line with the flags of all rows of a device; devices with the same flags share it."""
    devices: dict[str, list[str]] = {}
    for device, flags in device_flags(rows).items():
        devices.setdefault(", ".join(map(clean, sorted(flags))), []).append(clean(device))
    return [f"every row of {', '.join(names)}: {flags}" for flags, names in devices.items()]


def condition_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how many launches of which rows were throttled, under voltage or hot, a line per count."""
    same: dict[str, list[str]] = {}
    for row in rows:
        if row.get("conditions"):
            same.setdefault(clean(row["conditions"]), []).append(name(row))
    return [f"{_names(names)}: {conditions}" for conditions, names in same.items()]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def flag_meanings(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the flags of these rows with their meanings; empty for a flag of a plug-in."""
    found = sorted({clean(flag) for row in rows for flag in row["flags"]})
    return {flag: FLAGS.get(flag, "") for flag in found}


def flagged_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return, by flag, the names of its rows, for a table without the column of flags.

    Flags that all rows of a device have are left out: :func:`device_lines` has them.
    """
    of_device = device_flags(rows)
    found: dict[str, list[str]] = {}
    for row in rows:
        for flag in row["flags"]:
            if flag not in of_device.get(row["device"], ()):
                found.setdefault(clean(flag), []).append(name(row))
    return {flag: _names(names) for flag, names in found.items()}


def legend(
    rows: Sequence[Mapping[str, Any]], *, flags: bool = True, has_flag_column: bool = True
) -> str:
    """Return the lines that explain the table's columns and flags, only those that apply.

    Pass `flags=False` if the flags are explained elsewhere, as on the HTML page. Without a column
    of flags, the rows of each flag are named.
    """
    lines = []
    if any(row["status"] in MEASURED for row in rows):
        lines.append(
            "p50: median of the launches' medians ± 95 % interval over launches; p90, p99 pooled "
            "over inferences, - if there are too few"
        )
    scenarios = {row["scenario"] for row in rows}
    lines += [meaning for name, meaning in SCENARIOS.items() if name in scenarios]
    lines += _accuracy_legend(rows)
    lines += device_lines(rows)
    lines += condition_lines(rows)
    meanings = flag_meanings(rows) if flags else {}
    of_rows = {} if has_flag_column else flagged_rows(rows)
    for flag, meaning in meanings.items():
        where = f" ({of_rows[flag]})" if flag in of_rows else ""
        if meaning or where:
            lines.append(f"{flag}{where}{': ' if meaning else ''}{meaning}")
    return "\n".join(lines)


def _accuracy_legend(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    evaluated = [row for row in rows if row["accuracy_source"] == "host"]
    if not evaluated:
        return []
    errors = {metric_of(row) for row in evaluated if better(row, "accuracy") == "lower"}
    lower = f"; {', '.join(sorted(map(clean, errors)))}: an error, lower is better"
    return [f"accuracy: measured on the host with the same file{lower if errors else ''}"]
