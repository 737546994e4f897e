"""Pick the row with the best value of a column under hard constraints, and its probability.

    pick = choose_of(table.rows.read(run), minimize="latency_p50_ms", where=["accuracy>=0.85"])
    pick.winner, pick.reason, pick.probability

`choose` does the same for rows and launches from any source.
"""

from __future__ import annotations

from harness.analysis.pick.chance import probability_lowest
from harness.analysis.pick.choosing import NOT_MEASURED, Key, Pick, RankedRow, choose, key_of
from harness.analysis.pick.constraints import Constraint, parse_constraint
from harness.analysis.pick.of_run import choose_of, enough_delegated, launches_of

__all__ = [
    "NOT_MEASURED",
    "Constraint",
    "Key",
    "Pick",
    "RankedRow",
    "choose",
    "choose_of",
    "enough_delegated",
    "key_of",
    "launches_of",
    "parse_constraint",
    "probability_lowest",
]
