"""Write rows as Markdown for a README, an issue or a step summary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.table import Row, display

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#&])")
_CODE = re.compile(r"((?<!`)`[^`<>\[\]]+`(?!`))")
"""A command between backticks; what could be HTML or a link is no command of ours."""


def markdown(rows: Sequence[Row], places: Sequence[str] = ()) -> str:
    """Write the table of a run, why rows have no numbers, the legend, and the devices."""
    columns = display.columns(rows)
    lines = _table(
        [column.title for column in columns],
        [[column.text(row) for column in columns] for row in rows],
        [column.numeric for column in columns],
    )
    for text in (
        *display.explained(rows),
        *display.evidence(rows),
        *display.legend(rows).splitlines(),
        *places,
    ):
        lines += ["", prose(text)]
    return "\n".join(lines) + "\n"


def records(plain: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Write records as a table with these keys as columns."""
    cells = [[_text(record[column]) for column in columns] for record in plain]
    numeric = [
        all(isinstance(record[column], (int, float, type(None))) for record in plain)
        for column in columns
    ]
    return "\n".join(_table(list(columns), cells, numeric)) + "\n"


def escape(text: str) -> str:
    """Escape a text so that Markdown (and HTML in Markdown) shows it unchanged."""
    return _SPECIAL.sub(r"\\\1", display.clean(text))


def prose(text: str) -> str:
    """Escape a sentence, but leave its commands between backticks as code, to be copied."""
    parts = _CODE.split(display.clean(text))
    return "".join(
        part if place % 2 else _SPECIAL.sub(r"\\\1", part) for place, part in enumerate(parts)
    )


def _text(value: object) -> str:
    if value is None:
        return display.NOTHING
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    return str(value)


def _table(
    titles: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> list[str]:
    rule = ["---:" if right else "---" for right in numeric]
    body = [[escape(cell) for cell in row] for row in cells]
    return [f"| {' | '.join(row)} |" for row in (titles, rule, *body)]
