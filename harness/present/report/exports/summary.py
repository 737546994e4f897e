"""A step summary for GitHub: `edge-harness export latest --format summary >> "$GITHUB_STEP_SUMMARY"`.

GitHub drops a summary of more than 1 MiB, so a longer one is cut and ends with a note.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.present.report.exports import verdicts
from harness.present.report.markdown import escape, markdown, records
from harness.records.table import MEASURED, PENDING, Row, trust
from harness.records.table.rows import Measured, rows_of

LIMIT_BYTES = 1_000_000
"""Below GitHub's 1,048,576, to leave some for the output of other commands of the step."""


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write a heading with the counts and the table of every row, whatever `emulated` is.

    For a gate's run, write its verdict and its rows with the reasons.
    """
    del emulated, include_suspect
    gate = verdicts.of(measured.run)
    if gate is not None:
        return judged(gate)
    rows = rows_of(measured)
    heading = f"### {_heading(rows)}\n\n"
    shown = len(rows)
    text = _text(heading, rows, shown, measured.run.id)
    while shown > 1 and len(text.encode(errors="replace")) > LIMIT_BYTES:
        shown //= 2
        text = _text(heading, rows, shown, measured.run.id)
    return text


def judged(gate: Mapping[str, Any]) -> str:
    """Write a gate's verdict, one row per comparison, and the reasons, regressions first."""
    rows = verdicts.table(gate)
    sides = f"A {escape(gate['baseline'])}, B {escape(gate['candidate'])}"
    lines = [f"### edge-harness gate: {gate['verdict'] or 'no verdict'}", "", sides, ""]
    if rows:
        lines += [records(rows, list(rows[0]))]
    order = {"REGRESSION": 0, "INCONCLUSIVE": 1}
    for row in sorted(gate["rows"], key=lambda one: order.get(one["verdict"], len(order))):
        where = f"{row['model']} {row['recipe']} on {row['device']}, {row['metric']}"
        lines.append(f"- {escape(where)}: {row['verdict'] or 'shown'}: {escape(row['reason'])}")
    for one in gate["failed"]:
        where = f"{one['model']} {one['recipe']} on {one['device']}"
        lines.append(f"- {escape(where)}: {escape(one['kind'])}: {escape(one['reason'])}")
    lines += [f"- {escape(one['device'])}: away: {escape(one['reason'])}" for one in gate["away"]]
    text = "\n".join(lines) + "\n\n"
    cut = text.encode(errors="replace")[:LIMIT_BYTES].decode(errors="ignore")
    return text if len(cut) == len(text) else f"{cut.rpartition(chr(10))[0]}\n- ...\n"


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
    if doubtful := len(trust.not_valid(rows)):
        counts.append(f"{doubtful} not VALID")
    if failed := len(rows) - ok - pending:
        counts.append(f"{failed} failed")
    if pending:
        counts.append(f"{pending} pending")
    return f"edge-harness: {models}: {', '.join(counts)}"
