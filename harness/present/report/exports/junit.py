"""JUnit XML for Jenkins, GitLab and GitHub reporters: one suite per device, one case per row.

It conforms to the schema of Jenkins' xUnit plug-in (junit-10.xsd). The result of a row:

- fully measured, or partly if `min_delegated` allows it: passed;
- a fault of the model (inaccurate, rejected, crashed, ... or too little delegated): `failure`;
- a fault of the lab (unreachable, silent, busy, ...): `error`;
- no fault (pending, unsupported, partly measured without a limit): `skipped`.

A gate's run has one case per judged row instead: a regression is a `failure`, inconclusive is
`skipped`, and a device that was away is an `error`. So is a damaged row, in a run of any kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree as ET

from harness.analysis.pick import enough_delegated, key_of
from harness.present.report.exports import verdicts
from harness.present.report.exports.entries import details, unique
from harness.records.table import DAMAGED, PENDING, Row, display, trust
from harness.records.table.rows import Measured, rows_of

Ending = Literal["passed", "failure", "error", "skipped"]

MODEL_FAULTS = (
    *(
        "inaccurate",
        "fell_back",
        "invalid",
        "suspect",
        "rejected",
        "crashed",
        "out_of_memory",
        "not_built",
        "untrusted",
    ),
)
"""Statuses that a change of the model can cause and fix; other failures are faults of the lab."""

NO_FAULTS = (PENDING, "unsupported")

_VERDICTS: Mapping[str, Ending] = {"REGRESSION": "failure", "INCONCLUSIVE": "skipped"}
"""The endings of verdicts; the other verdicts pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test case, as data."""

    suite: str
    """The device."""
    group: str
    """The model: `classname`."""
    name: str
    ending: Ending
    kind: str = ""
    """The status or verdict: `type` of a case that did not pass."""
    reason: str = ""
    seconds: float = 0.0
    details: str = ""


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write every row, whatever `emulated` is; details of emulators have the flag `emulated`.

    A row that is not VALID is skipped with its reason; with `include_suspect` a SUSPECT one passes.
    """
    del emulated
    record = measured.run.record
    gate = verdicts.of(measured.run)
    properties = {"run": record.id, "kind": record.kind, "plan": record.plan_digest}
    found = cases(measured, include_suspect=include_suspect)
    if gate is not None:
        found = [*judged(gate), *(case for case in found if case.kind == DAMAGED)]
    return document(found, properties, record.created)


def cases(measured: Measured, *, include_suspect: bool = False) -> list[Case]:
    """Return one case per row of a run."""
    rows = rows_of(measured)
    allowed = enough_delegated(measured, rows)
    found = []
    for row, cell in zip(rows, measured.run.record.cells, strict=True):
        ending = _ending(
            row,
            allowed=key_of(row) in allowed,
            limited=cell.accept.min_delegated is not None,
        )
        doubt = trust.doubt(row, include_suspect=include_suspect) if ending == "passed" else None
        launches = measured.launches.get(cell.id, ())
        case = Case(
            suite=row["device"],
            group=row["model"],
            name=_name(row),
            ending="skipped" if doubt else ending,
            kind=row["verdict"] if doubt else row["status"],
            reason=(row["verdict_reason"] if doubt else row["reason"]) or "",
            seconds=sum(launch.wall_ns for launch in launches if launch.kind != "bare") / 1e9,
            details=details(row) if row["latency_p50_ms"] is not None else "",
        )
        found.append(case)
    return found


def judged(gate: Mapping[str, Any]) -> list[Case]:
    """Return one case per judged row of a gate's document, per failure and per device away."""
    rows = [
        Case(
            suite=row["device"],
            group=row["model"],
            name=f"{_name(row)} {row['metric']}",
            ending=_VERDICTS.get(row["verdict"], "passed"),
            kind=row["verdict"],
            reason=row["reason"],
            details=f"{row['verdict']}: {row['reason']}\n"
            f"A {verdicts.side(row, 'a')}, B {verdicts.side(row, 'b')}, "
            f"ratio {verdicts.interval(row) or display.NOTHING}, {row['pairs']} pairs",
        )
        for row in gate["rows"]
        if row["judged"]
    ]
    failed = [
        Case(
            suite=one["device"],
            group=one["model"],
            name=_name(one),
            ending="failure" if one["kind"] in MODEL_FAULTS else "error",
            kind=one["kind"],
            reason=one["reason"],
        )
        for one in gate["failed"]
    ]
    away = [
        Case(
            suite=one["device"],
            group="device",
            name="is there",
            ending="error",
            kind="away",
            reason=one["reason"],
        )
        for one in gate["away"]
    ]
    return [*rows, *failed, *away]


def document(found: Sequence[Case], properties: dict[str, str], created: str) -> str:
    """Write cases as one XML document, without the characters that XML 1.0 does not allow."""
    root = ET.Element("testsuites", {"name": "edge-harness", **_counts(found)})
    for suite in dict.fromkeys(case.suite for case in found):
        inside = [case for case in found if case.suite == suite]
        attributes = {
            "name": _text(suite),
            "hostname": _text(suite),
            "timestamp": _text(created),
            "skipped": str(_count(inside, "skipped")),
        }
        element = ET.SubElement(root, "testsuite", attributes | _counts(inside))
        table = ET.SubElement(element, "properties")
        for key, value in properties.items():
            ET.SubElement(table, "property", name=key, value=_text(value))
        names = unique(f"{_text(case.group)}\n{_text(case.name)}" for case in inside)
        for case, whole in zip(inside, names, strict=True):
            _add(element, case, whole.partition("\n")[2])
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _add(suite: ET.Element, case: Case, name: str) -> None:
    element = ET.SubElement(
        suite, "testcase", classname=_text(case.group), name=name, time=f"{case.seconds:.3f}"
    )
    if case.ending != "passed":
        reason = _text(case.reason)
        ET.SubElement(
            element, case.ending, type=_text(case.kind), message=f"{_text(case.kind)}: {reason}"
        ).text = reason
    if case.details:
        ET.SubElement(element, "system-out").text = _clean_lines(case.details)


def _ending(row: Row, *, allowed: bool, limited: bool) -> Ending:
    status = row["status"]
    if status == "ok" or allowed:
        return "passed"
    if status == "partial":
        return "failure" if limited else "skipped"
    if status in NO_FAULTS:
        return "skipped"
    return "failure" if status in MODEL_FAULTS else "error"


def _name(row: Mapping[str, Any]) -> str:
    threads = row["threads"]
    return f"{row['recipe']} [{threads} thread{'s' if threads > 1 else ''}]"


def _counts(found: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(found)),
        "failures": str(_count(found, "failure")),
        "errors": str(_count(found, "error")),
        "time": f"{sum(case.seconds for case in found):.3f}",
    }


def _count(found: Iterable[Case], ending: Ending) -> int:
    return sum(case.ending == ending for case in found)


def _text(value: object) -> str:
    return display.clean(value) or "-"


def _clean_lines(text: str) -> str:
    return "\n".join(_text(line) for line in text.splitlines())
