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

    Texts are cleaned as for a terminal; one that a spreadsheet would run as a formula gets a leading
    apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([_cell(record[column]) for column in columns])
    return text.getvalue()


def document(run_id: str, table: Sequence[Row]) -> dict[str, Any]:
    """Return the document of `show --format json`: `{"run": id, "rows": [...]}`."""
    return {"run": run_id, "rows": list(table)}


def json_text(document: object) -> str:
    """Write JSON for people and programs, a line for every value."""
    return escaped(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _cell(value: object) -> object:
    if isinstance(value, (list, tuple)):
        value = " ".join(str(item) for item in value)
    if not isinstance(value, str):
        return value
    text = display.clean(value)
    return "'" + text if text[:1] in {"=", "+", "-", "@"} else text
