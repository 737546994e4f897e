"""A step summary for GitHub: `edge-harness export latest --format summary >> "$GITHUB_STEP_SUMMARY"`.

GitHub drops a summary of more than 1 MiB, so a longer one ends early and says so.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.markdown import escape, markdown
from harness.table import MEASURED, PENDING, Row
from harness.table.rows import Measured, rows_of

LIMIT_BYTES = 1_000_000
"""Under GitHub's 1,048,576, with room for what other commands of the step wrote."""


def write(measured: Measured, *, emulated: bool) -> str:
    """Write a heading with the counts and the table of every row, whatever `emulated` is."""
    del emulated
    rows = rows_of(measured)
    heading = f"### {_heading(rows)}\n\n"
    shown = len(rows)
    text = _text(heading, rows, shown, measured.run.id)
    while shown > 1 and len(text.encode(errors="replace")) > LIMIT_BYTES:
        shown //= 2
        text = _text(heading, rows, shown, measured.run.id)
    return text


def _text(heading: str, rows: Sequence[Row], shown: int, run: str) -> str:
    left = len(rows) - shown
    more = f"\n{left} more rows: edge-harness show {escape(run)}\n" if left else ""
    return f"{heading}{markdown(rows[:shown])}{more}\n"


def _heading(rows: Sequence[Row]) -> str:
    models = ", ".join(dict.fromkeys(escape(str(row["model"])) for row in rows))
    statuses = [row["status"] for row in rows]
    ok = sum(status in MEASURED for status in statuses)
    pending = statuses.count(PENDING)
    counts = [f"{ok} of {len(rows)} measured"]
    if failed := len(rows) - ok - pending:
        counts.append(f"{failed} failed")
    if pending:
        counts.append(f"{pending} pending")
    return f"edge-harness: {models}: {', '.join(counts)}"
