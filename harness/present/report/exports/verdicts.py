"""The verdicts of a gate's run, and whether a run is complete (docs/gate.md has the keys)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.analysis.gate import document, stored, stored_results
from harness.columns import NS_PER_MS
from harness.errors import StoreError
from harness.records.store import continuing
from harness.records.store.read import StoredRun
from harness.records.table import display
from harness.records.table.measured import Measured

_MEDIAN = 0.5


def of(run: StoredRun) -> Mapping[str, Any] | None:
    """Return the gate's document; None for a run of another kind.

    A gate that was killed stored none: its launches are judged now, as `judge` does. Raises
    StoreError if the file cannot be read.
    """
    found = document.read(run)
    if found is None:
        return _judged_now(run) if run.record.kind == "gate" else None
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise StoreError(
            f"{run.path / document.FILE} is not the document of a gate; restore it from a copy"
        )
    return found


def _judged_now(run: StoredRun) -> Mapping[str, Any]:
    """Judge a gate without a document; one that is damaged has no verdicts, and says why."""
    try:
        return stored_results.judge_stored(run).plain()
    except StoreError as error:
        plain = stored.result(run, stored.document(run)).plain()
        return {**plain, "incomplete": f"{plain['incomplete']}; not judged: {error}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conclusion:
    """How a run ended."""

    gate: Mapping[str, Any] | None
    """The document of a gate; None for a run of another kind."""
    incomplete: str = ""
    """Why it lacks outcomes or its verdict, and the command that continues it; empty if complete."""


def conclusion(measured: Measured, *, stopped: bool = False) -> Conclusion:
    """Return how a run ended; `stopped` is whether the command that measured it was stopped."""
    run = measured.run
    gate = of(run)
    if gate is not None:
        return Conclusion(gate=gate, incomplete=gate.get("incomplete") or "")
    ended = all(
        cell.id in measured.outcomes or cell.id in measured.damage.cells
        for cell in run.record.cells
    )
    return Conclusion(gate=None, incomplete="" if ended and not stopped else _stopped(run))


def _stopped(run: StoredRun) -> str:
    record = run.record
    options = continuing.results_option(run.path.parent)
    command = continuing.command(run.id, record.kind, record.call, options)
    way = f"; `{command}` continues it" if command else ""
    return f"it was stopped or is in progress, and what was measured is kept{way}"


def remarks(gate: Mapping[str, Any]) -> list[str]:
    """Return why the numbers of a gate's run differ from those of its verdict; none without pairs."""
    if not any(row["pairs"] and row.get("counts") is None for row in gate["rows"]):
        return []
    judged = {row["quantile"] for row in gate["rows"] if row.get("quantile") is not None}
    names = " and ".join(f"p{quantile * 100:g}" for quantile in sorted(judged))
    latency = f", for latency of the {names} of each launch" if judged - {_MEDIAN} else ""
    return [
        (
            "a row has medians over all launches of one side, those of fresh pairs and dropped blocks "
            "too; the gate's A and B are geometric means over its first pairs that count"
            f"{latency}, so they and their ratio are other numbers"
        )
    ]


def metric(row: Mapping[str, Any]) -> str:
    """Return the metric of a row, for latency with the quantile of a launch that was judged."""
    quantile = row.get("quantile")
    name = str(row["metric"])
    return name if quantile is None else f"{name} p{quantile * 100:g}"


LABELS: Mapping[str, str] = {
    "constant": "all pairs have exactly the same ratio: a deterministic device, or a coarse clock",
    "fixed_performance": "Android's fixed-performance mode was on",
    "outputs_differ": "a compiled file's outputs differ from those of the file it is made from",
    "skewed": "a few pairs dominate the mean",
    "summary_mean": "the device's tool reports a launch's mean, not its inferences",
    "summary_median": "the device's tool reports a launch's median, not its inferences",
    "too_noisy": "the pairs scatter too much for a verdict with the largest number of pairs",
    "unconfirmed": "a fresh series of launches did not repeat the regression",
}
"""The meanings of a gate's labels; those of flags are in :data:`display.FLAGS`."""


def legend(gate: Mapping[str, Any]) -> list[str]:
    """Return the lines that explain the metrics, labels and flags of a gate's rows, once each."""
    named = {name for row in gate["rows"] for name in (*row["labels"], *row.get("flags", ()))}
    known = {**display.FLAGS, **LABELS}
    lines = [f"{name}: {known[name]}" for name in sorted(named & set(known))]
    return [*quantiles(gate), *lines]


def quantiles(gate: Mapping[str, Any]) -> list[str]:
    """Return a line for each quantile that represents a launch in a gate's rows."""
    found = {row["quantile"] for row in gate["rows"] if row.get("quantile") is not None}
    return [
        f"latency p{quantile * 100:g}: {quantile * 100:g} % of a launch's inferences take no "
        f"longer{_WHY_LOW if quantile < _MEDIAN else ''}"
        for quantile in sorted(found)
    ]


_WHY_LOW = (
    " (not the median, p50: the machine was restless or shared, and the lowest times show it least)"
)


def table(gate: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a gate's document for people: the comparison, its numbers and its verdict."""
    return [
        {
            "model": row["model"],
            "recipe": row["recipe"],
            "device": row["device"],
            "metric": metric(row),
            "A": side(row, "a"),
            "B": side(row, "b"),
            "B / A (95 %)": interval(row),
            "verdict": row["verdict"] or "shown",
        }
        for row in gate["rows"]
    ]


def side(row: Mapping[str, Any], name: str) -> str:
    """Format a side's value: milliseconds, bytes or a share."""
    value = row[name]
    if value is None:
        return display.NOTHING
    if row["unit"] == "ns":
        return f"{display.milliseconds(value / NS_PER_MS)} ms"
    return f"{value:,.10g} {row['unit'] or ''}".strip()


def interval(row: Mapping[str, Any]) -> str:
    """Format B over A with its 95 % interval; empty if there is no ratio."""
    if row["ratio"] is None:
        return ""
    is_exact = row["ratio_low"] is not None and row["ratio_low"] == row["ratio_high"]
    return f"{row['ratio']:.3f}" + ("" if is_exact else f" ({document.between(row)})")
