"""A step summary for GitHub: `edge-harness export latest --format summary >> "$GITHUB_STEP_SUMMARY"`.

GitHub drops a summary of more than 1 MiB, so a longer one is cut and ends with a note.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.present.report.exports import verdicts
from harness.present.report.markdown import escape, markdown, prose, records
from harness.printable import counted
from harness.records.table import MEASURED, PENDING, Row, trust
from harness.records.table.rows import Measured, rows_of

LIMIT_BYTES = 1_000_000
"""Below GitHub's 1,048,576, to leave some for the output of other commands of the step."""


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write a heading with the counts and the table of every row, whatever `emulated` is.

    For a gate's run, write its verdict and its rows with the reasons.
    """
    del emulated, include_suspect
    return of_run(measured, verdicts.conclusion(measured))


def of_run(measured: Measured, conclusion: verdicts.Conclusion) -> str:
    """Write the summary of a run or a gate."""
    if conclusion.gate is not None:
        return judged(conclusion.gate)
    rows = rows_of(measured)
    incomplete = conclusion.incomplete
    note = f"**Incomplete:** {prose(incomplete)}\n\n" if incomplete else ""
    state = "incomplete: " if incomplete else ""
    heading = f"### edge-harness: {state}{_heading(rows)}\n\n{note}"
    shown = len(rows)
    text = _text(heading, rows, shown, measured.run.id)
    while shown > 1 and len(text.encode(errors="replace")) > LIMIT_BYTES:
        shown //= 2
        text = _text(heading, rows, shown, measured.run.id)
    return text


def of_checks(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Write the checks of `doctor --json`, by device: a table of those that did not pass."""
    made = [(device, check) for device, checks in found.items() for check in checks]
    failed = sum(check["status"] == "fail" for _, check in made)
    warned = sum(check["status"] == "warn" for _, check in made)
    counts = f"{failed} failed, {counted(warned, 'warning')}, of {counted(len(made), 'check')}"
    lines = [f"### edge-harness doctor: {counts}", ""]
    order = {"fail": 0, "warn": 1, "skip": 2}
    shown = [
        {
            "device": device,
            "check": check["name"],
            "status": check["status"],
            "found": check["detail"],
            "fix": check.get("mend") or "",
        }
        for device, check in made
        if check["status"] in order
    ]
    if shown:
        shown.sort(key=lambda row: order[row["status"]])
        lines += [records(shown, list(shown[0]))]
    return clipped("\n".join(lines) + "\n", LIMIT_BYTES)


def of_error(command: str, message: str) -> str:
    """Write that a command ended before it stored anything."""
    return f"### edge-harness {command}: nothing was measured\n\n{prose(message)}\n\n"


def clipped(text: str, limit: int) -> str:
    """Cut a summary to so many bytes, at the end of a line, with a note; empty if none fits."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return text
    note = "\n\nThe rest does not fit into the job summary.\n"
    cut = data[: max(0, limit - len(note))].decode(errors="ignore")
    whole = cut.rpartition("\n")[0]
    return whole + note if whole else ""


def judged(gate: Mapping[str, Any]) -> str:
    """Write a gate's verdict, one row per comparison, and the reasons, regressions first."""
    rows = verdicts.table(gate)
    sides = f"A {escape(gate['baseline'])}, B {escape(gate['candidate'])}"
    sides += f"; run {escape(gate['run'])}" if gate["run"] else ""
    incomplete = gate.get("incomplete")
    heading = f"{gate['verdict'] or 'no verdict'}{', incomplete' if incomplete else ''}"
    lines = [f"### edge-harness gate: {heading}", "", sides, ""]
    lines += [prose(incomplete), ""] if incomplete else []
    if rows:
        lines += [records(rows, list(rows[0]))]
    lines += [part for line in verdicts.quantiles(gate) for part in (prose(line), "")]
    order = {"REGRESSION": 0, "INCONCLUSIVE": 1}
    for row in sorted(gate["rows"], key=lambda one: order.get(one["verdict"], len(order))):
        where = f"{row['model']} {row['recipe']} on {row['device']}, {row['metric']}"
        lines.append(f"- {escape(where)}: {row['verdict'] or 'shown'}: {prose(row['reason'])}")
    for one in gate["failed"]:
        where = f"{one['model']} {one['recipe']} on {one['device']}"
        lines.append(f"- {escape(where)}: {escape(one['kind'])}: {prose(one['reason'])}")
    lines += [f"- {escape(one['device'])}: away: {prose(one['reason'])}" for one in gate["away"]]
    return clipped("\n".join(lines) + "\n\n", LIMIT_BYTES)


def _text(heading: str, rows: Sequence[Row], shown: int, run: str) -> str:
    left = len(rows) - shown
    more = f"\n{counted(left, 'more row')}: edge-harness show {escape(run)}\n" if left else ""
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
    return f"{models}: {', '.join(counts)}"
