"""Which measured rows commands rank, compare and judge: those whose verdict is VALID, unless asked.

`pick`, `gate`, `compare`, `search`, the exports for trends, the page and the pytest plug-in all ask
here. A row without a verdict (nothing was measured, or nothing can be judged) has its status instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.records.table.row import MEASURED

OPTION = "--include-suspect"
INCLUDE = f"{OPTION} includes it"
TRUSTED = (None, "VALID")


def why_left_out(
    verdict: str | None, reason: str | None, *, include_suspect: bool = False
) -> str | None:
    """Return why a number with this verdict is left out, in the verdict's own words; None if it is not.

    `include_suspect` allows SUSPECT. INVALID stays out: it is not the target's number.
    """
    if verdict in TRUSTED or (include_suspect and verdict == "SUSPECT"):
        return None
    return f"{verdict}: {reason or 'no reason given'}"


def doubt(row: Mapping[str, Any], *, include_suspect: bool = False) -> str | None:
    """Return why a row is left out, see :func:`why_left_out`; None if it has no number or is trusted."""
    if row["status"] not in MEASURED:
        return None
    return why_left_out(
        row.get("verdict"), row.get("verdict_reason"), include_suspect=include_suspect
    )


def not_valid(rows: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return the rows that have numbers and are left out by default, each with the reason."""
    found = ((row, doubt(row)) for row in rows)
    return [(row, reason) for row, reason in found if reason is not None]
