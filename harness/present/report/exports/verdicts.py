"""Read a gate's verdict from its run's folder (gate.json; docs/gate.md has its keys)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.analysis.gate import document
from harness.columns import NS_PER_MS
from harness.errors import StoreError
from harness.records.store.read import StoredRun
from harness.records.table import display


def of(run: StoredRun) -> Mapping[str, Any] | None:
    """Return the gate's document; None for a run of another kind or an interrupted gate.

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
