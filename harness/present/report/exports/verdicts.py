"""Read a gate's verdict from its run's folder (gate.json; docs/gate.md has its keys)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.analysis.gate import document
from harness.columns import NS_PER_MS
from harness.errors import StoreError
from harness.records.store.read import StoredRun
from harness.records.table import display
from harness.records.table.measured import Measured

_MEDIAN = 0.5


def of(run: StoredRun) -> Mapping[str, Any] | None:
    """Return the gate's document; None for a run of another kind or a gate that was killed.

    Raises StoreError if the file cannot be read.
    """
    found = document.read(run)
    if found is None:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise StoreError(
            f"{run.path / document.FILE} is not the document of a gate; restore it from a copy"
        )
    return found


def is_complete(measured: Measured) -> bool:
    """Return whether a run has all its outcomes, and a gate its verdict."""
    run = measured.run
    ended = all(
        cell.id in measured.outcomes or cell.id in measured.damage.cells
        for cell in run.record.cells
    )
    return of(run) is not None if run.record.kind == "gate" else ended


def remarks(gate: Mapping[str, Any] | None) -> list[str]:
    """Return what the rows of a gate's run show beside its verdict; `gate` is None without one."""
    if gate is None:
        return ["this gate has no verdict: it is in progress, or was interrupted"]
    judged = {row["quantile"] for row in gate["rows"] if row.get("quantile") is not None}
    if judged <= {_MEDIAN}:
        return []
    names = " and ".join(f"p{quantile * 100:g}" for quantile in sorted(judged))
    line = (
        f"the gate judged the {names} of each launch, in pairs of A and B; the p50 of the rows is "
        "the median of all launches of one side, so its ratio is another one"
    )
    return [line]


def metric(row: Mapping[str, Any]) -> str:
    """Return the metric of a row, for latency with the quantile of a launch that was judged."""
    quantile = row.get("quantile")
    name = str(row["metric"])
    return name if quantile is None else f"{name} p{quantile * 100:g}"


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
    low, high = row["ratio_low"], row["ratio_high"]
    return f"{row['ratio']:.3f}" + (f" ({low:.3f}-{high:.3f})" if low != high else "")
