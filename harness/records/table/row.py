"""A row: one cell of a run, read through the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness import columns
from harness.types import Direction

PENDING = "pending"
MEASURED = ("ok", "partial")
"""The statuses that have numbers."""


class Row(Mapping[str, Any]):
    """The values of one cell by column (harness.columns); what was not measured is None, never 0.

        row["latency_p50_ms"], row.number("size_bytes"), row.status, row.better("accuracy")

    It cannot be changed. `plain()` is a dictionary for JSON; pandas takes rows as they are.
    """

    __slots__ = ("_metric", "_metric_direction", "_values")

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        metric: str | None = None,
        metric_direction: Direction = "higher",
    ) -> None:
        """Take the values in the order they are shown, and which accuracy is better."""
        self._values = values
        self._metric = metric
        self._metric_direction = metric_direction

    def __getitem__(self, column: str) -> Any:  # noqa: ANN401 - as many types as columns
        """Return a value; raises KeyError for a column that the row does not have."""
        return self._values[column]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the columns, in order."""
        return iter(self._values)

    def __len__(self) -> int:
        """Count the columns."""
        return len(self._values)

    def __repr__(self) -> str:
        """Say which row it is."""
        return f"<Row {self.get('model')} {self.get('recipe')} on {self.get('device')}>"

    @property
    def status(self) -> str:
        """`ok`, `partial`, `pending`, or the kind of failure."""
        return str(self._values["status"])

    @property
    def measured(self) -> bool:
        """Whether the row has numbers."""
        return self.status in MEASURED

    @property
    def flags(self) -> tuple[str, ...]:
        """What qualifies the row."""
        return tuple(self._values.get("flags") or ())

    @property
    def metric(self) -> str | None:
        """The metric that `accuracy` is by; None where nothing was evaluated."""
        return self._metric

    def text(self, column: str) -> str | None:
        """Return a value of a column of text."""
        value = self._values[column]
        return None if value is None else str(value)

    def number(self, column: str) -> float | None:
        """Return a value of a column of numbers; raises ValueError for text."""
        value = self._values[column]
        return None if value is None else float(value)

    def better(self, column: str) -> Direction | None:
        """Say which values of a column are better; None for text and where neither is."""
        known = columns.get(column)
        return self._metric_direction if known.by_metric else known.better

    def plain(self) -> dict[str, Any]:
        """Return the values by column, as JSON has them."""
        return dict(self._values)


def better(row: Mapping[str, Any], column: str) -> Direction | None:
    """Say which values of a column are better, also of a row that is a plain mapping."""
    return row.better(column) if isinstance(row, Row) else columns.get(column).better


def metric_of(row: Mapping[str, Any]) -> str | None:
    """Return the metric that a row's accuracy is by, also of a plain mapping (None)."""
    return row.metric if isinstance(row, Row) else None
