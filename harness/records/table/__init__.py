"""Tables from records: the rows of a run, a comparison of runs, a pandas frame.

rows(run)             one Row per cell, with exactly COLUMNS
compare([a, b])       one Row per key and run, with exactly COMPARED
frame(run)            the rows as a pandas frame
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records.store import StoredRun
from harness.records.table.compare import COMPARED, compare
from harness.records.table.rows import COLUMNS, DAMAGED, MEASURED, PENDING, Row, rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "COLUMNS",
    "COMPARED",
    "DAMAGED",
    "MEASURED",
    "PENDING",
    "Row",
    "compare",
    "frame",
    "rows",
]


def frame(run: StoredRun) -> pd.DataFrame:
    """Return the rows as a pandas frame with COLUMNS; nulls are None or NaN, as pandas converts them."""
    import pandas as pd

    return pd.DataFrame([row.plain() for row in rows(run)], columns=list(COLUMNS))
