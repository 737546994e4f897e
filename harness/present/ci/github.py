"""Annotations of GitHub: `::error file=plan.toml,title=REGRESSION::small int8 on pi is slower`.

GitHub executes such a line of a step's output, stdout or stderr. It keeps at most ten annotations of
each kind per step. Source, also of the escapes:
https://docs.github.com/actions/reference/workflow-commands-for-github-actions and
`packages/core/src/command.ts` of github.com/actions/toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.present.report.exports.junit import MODEL_FAULTS
from harness.printable import clean
from harness.records.table import DAMAGED, MEASURED, PENDING, Row, display

AnnotationKind = Literal["error", "warning", "notice"]

MAX_PER_KIND = 10
MAX_MESSAGE, MAX_TITLE = 2_000, 200
_ORDER: Mapping[str, AnnotationKind] = {
    "REGRESSION": "error",
    "INCONCLUSIVE": "warning",
    "SLOWER_WITHIN_MARGIN": "warning",
    "IMPROVED": "notice",
}
"""The annotated verdicts, the gravest first; the others have no annotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One annotation; texts need not be escaped."""

    kind: AnnotationKind
    title: str
    message: str
    file: str | None = None
    """The file that it is shown at, relative to the repository."""

    def line(self) -> str:
        """Write the workflow command."""
        title, message = _cut(clean(self.title), MAX_TITLE), _cut(clean(self.message), MAX_MESSAGE)
        named = {"file": self.file and clean(self.file), "title": title}
        properties = ",".join(f"{key}={_property(text)}" for key, text in named.items() if text)
        return f"::{self.kind} {properties}::{_data(message)}"


def lines(found: Iterable[Annotation]) -> list[str]:
    """Write annotations, the most important first: of each kind ten, the last one for the rest."""
    made: list[str] = []
    given = list(found)
    for kind in ("error", "warning", "notice"):
        own = [one for one in given if one.kind == kind]
        shown = own if len(own) <= MAX_PER_KIND else own[: MAX_PER_KIND - 1]
        if left := own[len(shown) :]:
            titles = ", ".join(one.title for one in left)
            more = f"{len(left)} more; the job summary has all: {titles}"
            shown = [*shown, replace(left[0], title=f"and {len(left)} more", message=more)]
        made += [one.line() for one in shown]
    return made


def of_gate(gate: Mapping[str, Any], file: str | None) -> list[Annotation]:
    """Return the annotations of a gate's document, the gravest first."""
    order = list(_ORDER)
    rows = [row for row in gate["rows"] if row["judged"] and row["verdict"] in _ORDER]
    rows.sort(key=lambda row: (order.index(row["verdict"]), -_change(row)))
    found = [
        Annotation(
            kind=_ORDER[row["verdict"]],
            title=f"{row['verdict']}: {display.name(row)}, {row['metric']}",
            message=row["reason"],
            file=file,
        )
        for row in rows
    ]
    found += [
        Annotation(
            kind="error",
            title=f"could not be run: {display.name(one)}",
            message=f"{one['kind']}: {one['reason']}",
            file=file,
        )
        for one in gate["failed"]
    ]
    found += [
        Annotation(
            kind="error", title=f"{one['device']} was away", message=one["reason"], file=file
        )
        for one in gate["away"]
    ]
    return found


def _change(row: Mapping[str, Any]) -> float:
    """Return how large a change is, to order rows of one verdict."""
    ratio = row["ratio"]
    if ratio is None:
        return abs(float(row.get("drop") or 0.0))
    return max(float(ratio), 1 / float(ratio)) - 1


def of_rows(rows: Sequence[Row], file: str | None) -> list[Annotation]:
    """Return the annotations of a run's rows: faults of models, of the lab, then doubts."""
    made = []
    for row in rows:
        kind = _kind(row)
        if kind is not None:
            reason = row["reason"] or row["verdict_reason"] or "no reason given"
            title = f"{_status(row)}: {display.name(row)}"
            made.append(Annotation(kind=kind, title=title, message=reason, file=file))
    return sorted(made, key=lambda one: one.title.partition(":")[0] not in MODEL_FAULTS)


def _kind(row: Row) -> AnnotationKind | None:
    status = row["status"]
    if status in MEASURED:
        return "warning" if status == "partial" or row["verdict"] == "SUSPECT" else None
    if status == PENDING:
        return "warning"
    return "notice" if status == "unsupported" else "error"


def _status(row: Row) -> str:
    return "suspect" if row["verdict"] == "SUSPECT" and row["status"] == "ok" else row["status"]


def of_damage(rows: Sequence[Row], file: str | None) -> list[Annotation]:
    """Return the annotations of damaged rows only, for a gate, whose rows have no verdict."""
    return of_rows([row for row in rows if row["status"] == DAMAGED], file)


def of_checks(
    found: Mapping[str, Sequence[Mapping[str, Any]]], file: str | None
) -> list[Annotation]:
    """Return the annotations of `doctor --json`: failed checks, then warnings."""
    kinds: Mapping[str, AnnotationKind] = {"fail": "error", "warn": "warning"}
    return [
        Annotation(
            kind=kinds[check["status"]],
            title=f"{device}: {check['name']}",
            message=check["detail"] + (f"; fix: {check['mend']}" if check.get("mend") else ""),
            file=file,
        )
        for device, checks in found.items()
        for check in checks
        if check["status"] in kinds
    ]


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
