"""Rows for programs: CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.printable import escaped
from harness.records.table import COLUMNS, Row, display


def to_csv(records: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """Write records as CSV with a heading (RFC 4180); null is empty, lists are joined by spaces.

    Control characters are removed. A text that a spreadsheet would evaluate as a formula gets a
    leading apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([_cell(record[column]) for column in columns])
    return text.getvalue()


def document(run_id: str, table: Sequence[Row]) -> dict[str, Any]:
    """Return a run's rows as the JSON document of `show --format json`."""
    return {"run": run_id, "rows": [row.plain() for row in table]}


def json_text(document: object) -> str:
    """Write indented JSON, one line per value."""
    return escaped(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _cell(value: object) -> object:
    if isinstance(value, (list, tuple)):
        value = " ".join(str(item) for item in value)
    if not isinstance(value, str):
        return value
    text = display.clean(value)
    return "'" + text if text[:1] in {"=", "+", "-", "@"} else text
