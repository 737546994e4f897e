"""The report of a run, a gate or doctor for a CI system, as texts; nothing here writes a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.present.ci import github
from harness.present.ci.github import Annotation
from harness.present.report.exports import junit, summary, verdicts
from harness.records.table import PENDING
from harness.records.table.rows import Measured, rows_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CiReport:
    """The texts for a CI system."""

    junit: str
    summary: str
    """Markdown."""
    annotations: tuple[Annotation, ...] = ()
    """The most important first."""


def of_run(measured: Measured, *, complete: bool = True, file: str | None = None) -> CiReport:
    """Report a stored run, or a gate with its verdict.

    With `complete=False`, and for a run that lacks outcomes or a verdict, every text says that it is
    incomplete, and how the run is continued. `file` is the plan, for the annotations.
    """
    ended, rows = verdicts.conclusion(measured, stopped=not complete), rows_of(measured)
    note = ended.incomplete
    if ended.gate is not None:
        found = [*github.of_gate(ended.gate, file), *github.of_damage(rows, file)]
    else:
        found = github.of_rows([row for row in rows if not note or row["status"] != PENDING], file)
    if note:
        title = f"incomplete: {measured.run.record.kind} {measured.run.id}"
        found = [Annotation(kind="warning", title=title, message=note, file=file), *found]
    return CiReport(
        junit=junit.of_run(measured, ended),
        summary=summary.of_run(measured, ended),
        annotations=tuple(found),
    )


def of_gate(gate: Mapping[str, Any], created: str, *, file: str | None = None) -> CiReport:
    """Report the document of a gate that stored no run, because it measured nothing.

    `created` is the time, ISO 8601.
    """
    properties = {"kind": "gate", "complete": str(not gate.get("incomplete")).lower()}
    return CiReport(
        junit=junit.document(junit.judged(gate), properties, created),
        summary=summary.judged(gate),
        annotations=tuple(github.of_gate(gate, file)),
    )


def of_checks(
    found: Mapping[str, Sequence[Mapping[str, Any]]], created: str, *, file: str | None = None
) -> CiReport:
    """Report the checks of `doctor --json`, by device; `created` is the time, ISO 8601."""
    return CiReport(
        junit=junit.of_checks(found, created),
        summary=summary.of_checks(found),
        annotations=tuple(github.of_checks(found, file)),
    )


def of_error(command: str, message: str, created: str, *, file: str | None = None) -> CiReport:
    """Report a command that ended before it stored anything."""
    case = junit.Case(
        suite="edge-harness",
        group="edge-harness",
        name=command,
        ending="error",
        kind="error",
        reason=message,
    )
    return CiReport(
        junit=junit.document([case], {"kind": command, "complete": "false"}, created),
        summary=summary.of_error(command, message),
        annotations=(
            Annotation(kind="error", title=f"edge-harness {command}", message=message, file=file),
        ),
    )
