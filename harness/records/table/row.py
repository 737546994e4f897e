"""A row: one cell of a run, read through the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness import columns
from harness.types import Direction

PENDING = "pending"
DAMAGED = "damaged"
"""The status of a row whose record has missing or changed parts."""
MEASURED = ("ok", "partial")
"""The statuses of rows that have numbers."""


class Row(Mapping[str, Any]):
    """The values of one cell by column (harness.columns); a value that was not measured is None.

        row["latency_p50_ms"], row.number("size_bytes"), row.status, row.better("accuracy")

    A row is immutable. `plain()` is a dictionary for JSON; pandas accepts rows directly.
    """

    __slots__ = ("_continued_as", "_metric", "_metric_direction", "_values")

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        metric: str | None = None,
        metric_direction: Direction = "higher",
        continued_as: str | None = None,
    ) -> None:
        """Take the values in the order of the columns, the metric, and its better direction.

        `continued_as` is the device of the row that was measured in place of this one.
        """
        self._continued_as = continued_as
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
        """Return the model, recipe and device of the row."""
        return f"<Row {self.get('model')} {self.get('recipe')} on {self.get('device')}>"

    @property
    def status(self) -> str:
        """`ok`, `partial`, `pending`, `damaged`, or the kind of failure."""
        return str(self._values["status"])

    @property
    def missing(self) -> bool:
        """Whether the row is pending and no other device was measured in its place."""
        return self.status == PENDING and self._continued_as is None

    @property
    def measured(self) -> bool:
        """Whether the row has numbers."""
        return self.status in MEASURED

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of the row."""
        return tuple(self._values.get("flags") or ())

    @property
    def metric(self) -> str | None:
        """The metric of `accuracy`; None if the variant was not evaluated."""
        return self._metric

    def text(self, column: str) -> str | None:
        """Return a value as text; None for null."""
        value = self._values[column]
        return None if value is None else str(value)

    def number(self, column: str) -> float | None:
        """Return a value as a number; None for null. Raises ValueError for text."""
        value = self._values[column]
        return None if value is None else float(value)

    def better(self, column: str) -> Direction | None:
        """Return which values of a column are better; None for text or if neither is."""
        known = columns.get(column)
        return self._metric_direction if known.by_metric else known.better

    def plain(self) -> dict[str, Any]:
        """Return the values by column, as JSON types."""
        return dict(self._values)


def better(row: Mapping[str, Any], column: str) -> Direction | None:
    """Return which values of a column are better, also for a plain mapping."""
    return row.better(column) if isinstance(row, Row) else columns.get(column).better


def metric_of(row: Mapping[str, Any]) -> str | None:
    """Return the metric of a row's accuracy; None for a plain mapping."""
    return row.metric if isinstance(row, Row) else None
