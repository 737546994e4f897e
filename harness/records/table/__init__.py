"""Records to tables: the rows of a run, runs side by side, a pandas frame.

rows(run)             a Row per cell, with exactly COLUMNS
compare([a, b])       a Row per row of every run, with exactly COMPARED
frame(run)            the rows as a pandas frame
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records.store import StoredRun
from harness.records.table.compare import COMPARED, compare
from harness.records.table.rows import COLUMNS, MEASURED, PENDING, Row, rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "COMPARED", "MEASURED", "PENDING", "Row", "compare", "frame", "rows"]


def frame(run: StoredRun) -> pd.DataFrame:
    """Return the rows as a pandas frame with COLUMNS; nulls are None or NaN as pandas has them."""
    import pandas as pd

    return pd.DataFrame([row.plain() for row in rows(run)], columns=list(COLUMNS))
