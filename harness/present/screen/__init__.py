"""Print to a terminal. Texts from a device are cleaned of control characters first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import lazy

if TYPE_CHECKING:
    from harness.present.screen.gates import gate
    from harness.present.screen.printing import CheckLine, checks, inspection, out, record, records
    from harness.present.screen.progress import ScreenProgress
    from harness.present.screen.tables import comparison, table
else:
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "gates": ("gate",),
            "printing": ("CheckLine", "checks", "inspection", "out", "record", "records"),
            "progress": ("ScreenProgress",),
            "tables": ("comparison", "table"),
        },
    )

__all__ = [
    "CheckLine",
    "ScreenProgress",
    "checks",
    "comparison",
    "gate",
    "inspection",
    "out",
    "record",
    "records",
    "table",
]
