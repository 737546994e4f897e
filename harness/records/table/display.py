"""How rows look to a person: which columns, in which units, and what the words mean.

Shared by the terminal, Markdown and HTML, so a number is written the same way everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.devices.delegation import CPU_TARGETS
from harness.printable import clean as clean  # noqa: PLC0414 - also offered here
from harness.printable import clean_lines as clean_lines  # noqa: PLC0414 - also offered here
from harness.records.table import MEASURED, Row

NOTHING = "-"

_NAMED = 3

FLAGS: Mapping[str, str] = {
    "backlog": "a stream ended with frames that were due and never ran; they count as missed",
    "drift": "latency changed by more than 2 % inside a launch",
    "emulated": "not real hardware: proves that it works, says nothing of speed",
    "hot": "measured on a heated plateau on purpose",
    "hot_start": "a launch started before the device had cooled",
    "imported": "numbers from another tool, not measured here",
    "no_xnnpack": "the XNNPACK delegate was not made: not comparable with runs that had it",
    "off_chip": "weights that the Edge TPU has no room for travel to it with every inference",
    "random_calibration": "calibrated on random data: latency only, accuracy means nothing",
    "random_inputs": "outputs were checked on random inputs",
    "sample_cap": "a launch ended at 1,000,000 samples",
    "simulated": "a simulator's numbers",
    "suspect": "the time is hard to believe of the accelerator: see the reason",
    "thinned": "of a long launch every second, fourth, ... sample is kept, evenly spaced",
    "uncontrolled": "the processor's frequency was not pinned",
    "unsteady": "warm-up ended at its cap before latency was steady",
}

SCENARIOS: Mapping[str, str] = {
    "stream": "stream: latency counts from the scheduled start of a frame; missed: frames that "
    "were not done one period after it",
    "offline": "offline: inf/s: inferences a second; a sample averages a block of about 10 ms",
    "sustained": "sustained: last/first: p50 of the last minute over that of the first",
}
"""What the columns of a scenario mean; `single` needs no words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """A column as a person sees it."""

    title: str
    text: Callable[[Row], str]
    numeric: bool = True
    rank: int = 0
    """Columns of a higher rank go first where the page is too narrow; 0 never goes."""


def number(value: float | None, decimals: int) -> str:
    """Write a number with thousands apart, or a dash where there is none."""
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def milliseconds(value: float | None) -> str:
    """Write milliseconds with three significant digits, at most four decimals."""
    if value is None:
        return NOTHING
    if value <= 0:
        return f"{value:g}"
    return f"{value:,.{max(0, min(4, 2 - math.floor(math.log10(value))))}f}"


def half_width(row: Row) -> str:
    """Write the 95 % interval of p50 as a share, half of it to each side on the log scale."""
    low, high = row["latency_p50_low_ms"], row["latency_p50_high_ms"]
    if not low or not high:
        return ""
    return f"±{(math.sqrt(high / low) - 1) * 100:.1f}%"


def size(size_bytes: float | None) -> str:
    """Write a file's size in kB or MB (of 10^3 and 10^6 bytes)."""
    if size_bytes is None:
        return NOTHING
    if size_bytes < 1e6:  # noqa: PLR2004 - the unit's own bound
        return f"{size_bytes / 1e3:,.1f} kB"
    return f"{size_bytes / 1e6:,.2f} MB"


def share(value: float | None) -> str:
    """Write an accuracy as a share of 1."""
    return NOTHING if value is None else f"{value:.4f}"


def _delegated(row: Row) -> str:
    if row["delegated_ops"] is None or row["total_ops"] is None:
        return NOTHING
    return f"{row['delegated_ops']}/{row['total_ops']}"


def _p50(row: Row) -> str:
    return f"{milliseconds(row['latency_p50_ms'])} {half_width(row)}".strip()


def _rate(value: float | None) -> str:
    """Write inferences a second with three significant digits or more."""
    return number(value, 0 if value is None or value >= 100 else 2)  # noqa: PLR2004


def _scenario(row: Row) -> str:
    """Name a scenario that is not the usual one."""
    return NOTHING if row["scenario"] in (None, "single") else clean(row["scenario"])


def _word(name: str) -> Callable[[Row], str]:
    return lambda row: clean(NOTHING if row[name] is None else row[name])


ALL: tuple[TableColumn, ...] = (
    TableColumn(title="model", text=_word("model"), numeric=False),
    TableColumn(title="recipe", text=_word("recipe"), numeric=False),
    TableColumn(title="device", text=_word("device"), numeric=False),
    TableColumn(title="target", text=_word("target"), numeric=False, rank=8),
    TableColumn(title="thr", text=_word("threads"), rank=4),
    TableColumn(title="scenario", text=_scenario, numeric=False, rank=1),
    TableColumn(title="status", text=_word("status"), numeric=False),
    TableColumn(title="p50 ms", text=_p50),
    TableColumn(title="p90 ms", text=lambda row: milliseconds(row["latency_p90_ms"]), rank=2),
    TableColumn(title="p99 ms", text=lambda row: milliseconds(row["latency_p99_ms"]), rank=6),
    TableColumn(title="inf/s", text=lambda row: _rate(row["throughput_per_s"]), rank=1),
    TableColumn(title="missed", text=lambda row: number(row["missed_deadlines"], 0), rank=1),
    TableColumn(title="last/first", text=lambda row: number(row["sustained_ratio"], 3), rank=1),
    TableColumn(title="load ms", text=lambda row: milliseconds(row["load_ms"]), rank=9),
    TableColumn(title="first ms", text=lambda row: milliseconds(row["first_ms"]), rank=10),
    TableColumn(title="peak MB", text=lambda row: number(row["peak_rss_mb"], 1), rank=3),
    TableColumn(title="model MB", text=lambda row: number(row["model_memory_mb"], 1), rank=11),
    TableColumn(title="size", text=lambda row: size(row["size_bytes"]), rank=1),
    TableColumn(title="accuracy", text=lambda row: share(row["accuracy"]), rank=1),
    TableColumn(title="delegated", text=_delegated, rank=7),
    TableColumn(
        title="flags", text=lambda row: clean(" ".join(row["flags"])), numeric=False, rank=5
    ),
)


def columns(rows: Sequence[Row]) -> list[TableColumn]:
    """Choose the columns that tell these rows apart or say something; the rest would be noise.

    `target` and `thr` are shown where rows differ in them, a column of dashes never.
    """
    chosen = []
    for column in ALL:
        texts = {column.text(row) for row in rows}
        if column.title in ("target", "thr"):
            keep = len(texts) > 1
        else:
            keep = column.rank == 0 or bool(texts - {"", NOTHING})
        if keep:
            chosen.append(column)
    return chosen


def explained(rows: Sequence[Row]) -> list[str]:
    """Write why rows have no numbers or only part of them, a line for each reason.

    Where an accelerator was asked for, every row says what ran where and how that is known.
    """
    same: dict[tuple[str, str], list[str]] = {}
    accelerated = any(row["target"] not in CPU_TARGETS for row in rows)
    for row in rows:
        # Beside an accelerator, also the rows that are well say how that is known.
        known = row["verdict_reason"] if accelerated or row["verdict"] == "SUSPECT" else None
        reason = row["reason"] or known
        if reason:
            word = row["status"] if row["verdict"] is None else f"{row['status']}, {row['verdict']}"
            same.setdefault((clean(word), clean(reason)), []).append(name(row))
    lines = []
    for (status, reason), names in same.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{', '.join(names[:_NAMED])}{more}: {status}: {reason}")
    return lines


def name(row: Row) -> str:
    """Write which row this is."""
    threads = f", {row['threads']} threads" if row["threads"] != 1 else ""
    return clean(f"{row['model']} {row['recipe']} on {row['device']}{threads}")


def flag_meanings(rows: Sequence[Row]) -> dict[str, str]:
    """Return the flags these rows have with what each means; a plug-in's own says nothing."""
    found = sorted({clean(flag) for row in rows for flag in row["flags"]})
    return {flag: FLAGS.get(flag, "") for flag in found}


def legend(rows: Sequence[Row]) -> str:
    """Write what a reader of the table needs to know, in as few lines as there are things to say."""
    lines = []
    if any(row["status"] in MEASURED for row in rows):
        lines.append(
            "p50: median of the launches' medians ± 95 % interval over launches; p90, p99 pooled "
            "over inferences, - where there are too few"
        )
    scenarios = {row["scenario"] for row in rows}
    lines += [meaning for name, meaning in SCENARIOS.items() if name in scenarios]
    if any(row["accuracy_source"] == "host" for row in rows):
        lines.append("accuracy: measured on the host with the same file")
    lines += [f"{flag}: {meaning}" for flag, meaning in flag_meanings(rows).items() if meaning]
    return "\n".join(lines)
