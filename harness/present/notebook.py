"""A run's table as text for `print` and as HTML for a notebook."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape

from harness.present.screen import tables
from harness.records.table import Row, display

_WIDTH = 160
"""The width of a table as text, in characters; columns that do not fit are named below it."""


def text(rows: Sequence[Row], lines: Sequence[str] = ()) -> str:
    """Return the table with its notes and the given lines, without a newline at the end."""
    stream = io.StringIO()
    tables.table(rows, file=stream, width=_WIDTH)
    return "\n".join([stream.getvalue().rstrip("\n"), *map(display.clean, lines)])


def html(rows: Sequence[Row], lines: Sequence[str] = ()) -> str:
    """Return the table with its notes and the given lines as one HTML element."""
    columns = display.columns(rows) if rows else []
    heads = "".join(f"<th>{escape(column.title)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(_cell(column, row) for column in columns) + "</tr>" for row in rows
    )
    notes = (
        [*display.explained(rows), *display.evidence(rows), *display.legend(rows).splitlines()]
        if rows
        else ["no rows"]
    )
    below = "".join(f"<div>{escape(display.clean(line))}</div>" for line in [*notes, *lines])
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>" if rows else ""
    return f"<div>{table}{below}</div>"


def _cell(column: display.TableColumn, row: Row) -> str:
    side = "right" if column.numeric else "left"
    return f'<td style="text-align: {side}">{escape(display.clean(column.text(row)))}</td>'
