"""JUnit XML for Jenkins, GitLab and GitHub reporters: one suite per device, one case per row.

It conforms to the schema of Jenkins' xUnit plug-in (junit-10.xsd). The result of a row:

- fully measured, or partly if `min_delegated` allows it: passed;
- a fault of the model (inaccurate, rejected, crashed, ... or too little delegated): `failure`;
- a fault of the lab (unreachable, silent, busy, ...): `error`;
- no fault (pending, unsupported, partly measured without a limit): `skipped`.

A gate's run has one case per judged row instead: a regression is a `failure`, inconclusive is
`skipped`, and a device that was away is an `error`. So are a damaged row, and a run or gate as a whole
that was stopped before its end.

`time` is that of the launches on the device; the cases of a gate that are computed from the same
launches share it. A case without launches has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree as ET

from harness import printable
from harness.analysis.gate.contest import LAUNCH_METRICS
from harness.analysis.gate.document import counted
from harness.analysis.pick import enough_delegated, key_of
from harness.present.report.exports import verdicts
from harness.present.report.exports.entries import NAME_LIMIT, details, unique
from harness.records.table import DAMAGED, PENDING, Row, display, trust
from harness.records.table.rows import Measured, rows_of
from harness.types import Launch

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

MAX_MESSAGE, MAX_TEXT = 1_000, 100_000
"""Characters of a message (an attribute, which readers show in one line) and of a text."""

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
    seconds: float | None = None
    """The time of its launches; None without any."""
    details: str = ""


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write every row, whatever `emulated` is; details of emulators have the flag `emulated`.

    A row that is not VALID is skipped with its reason; with `include_suspect` a SUSPECT one passes.
    """
    del emulated
    return of_run(measured, verdicts.conclusion(measured), include_suspect=include_suspect)


def of_run(
    measured: Measured, conclusion: verdicts.Conclusion, *, include_suspect: bool = False
) -> str:
    """Write every row of a run, or the verdicts of a gate, and an error if it is incomplete."""
    record, gate = measured.run.record, conclusion.gate
    found = cases(measured, include_suspect=include_suspect)
    if gate is not None:
        damaged = (case for case in found if case.kind == DAMAGED)
        found = [*judged(gate, _seconds_of(measured, gate)), *damaged]
    elif conclusion.incomplete:
        found = [*found, _incomplete(record.kind, conclusion.incomplete)]
    properties = {
        "run": record.id,
        "kind": record.kind,
        "plan": record.plan_digest,
        "complete": str(not conclusion.incomplete).lower(),
    }
    return document(found, properties, record.created)


def _incomplete(kind: str, reason: str) -> Case:
    """Return the case of a run as a whole that was stopped before its end."""
    return Case(
        suite="edge-harness",
        group=kind,
        name="is complete",
        ending="error",
        kind="incomplete",
        reason=reason,
    )


def of_checks(found: Mapping[str, Sequence[Mapping[str, Any]]], created: str) -> str:
    """Write the checks of `doctor --json`, by device; a warning passes, with its text as output."""
    endings: Mapping[str, Ending] = {"fail": "failure", "skip": "skipped"}
    made = [
        Case(
            suite=device,
            group="doctor",
            name=check["name"],
            ending=endings.get(check["status"], "passed"),
            kind=check["status"],
            reason=f"{check['detail']}{_fix(check)}",
            details=f"{check['status']}: {check['detail']}{_fix(check)}",
        )
        for device, checks in found.items()
        for check in checks
    ]
    return document(made, {"kind": "doctor"}, created)


def _fix(check: Mapping[str, Any]) -> str:
    return f"; fix: {check['mend']}" if check.get("mend") else ""


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
            seconds=_seconds(one for one in launches if one.kind != "bare"),
            details=details(row) if row["latency_p50_ms"] is not None else "",
        )
        found.append(case)
    return found


def _seconds(launches: Iterable[Launch]) -> float | None:
    found = [launch.wall_ns for launch in launches]
    return sum(found) / 1e9 if found else None


Place = tuple[str, str, str, int, str]
"""Model, recipe, device, threads and metric of a gate's row."""


def _seconds_of(measured: Measured, gate: Mapping[str, Any]) -> dict[Place, float]:
    """Return the seconds of a gate's rows: of their launches, or of the evaluation on the host."""
    rows = [row for row in gate["rows"] if row["judged"]]
    found = {_place(row): row["seconds"] for row in rows if row.get("seconds") is not None}
    for contest in gate["contests"]:
        launches = [one for side in ("a", "b") for one in measured.launches.get(contest[side], ())]
        own = [row for row in rows if _place(row)[:4] == _place({**contest, "metric": ""})[:4]]
        for kind, metrics in (("timed", LAUNCH_METRICS), ("memory", ("memory",))):
            sharing = [row for row in own if row["metric"] in metrics]
            seconds = _seconds(one for one in launches if one.kind == kind and one.block >= 0)
            if seconds is not None:
                found |= {_place(row): seconds / len(sharing) for row in sharing}
    return found


def _place(row: Mapping[str, Any]) -> Place:
    return (row["model"], row["recipe"], row["device"], row["threads"], row["metric"])


def judged(gate: Mapping[str, Any], seconds: Mapping[Place, float] | None = None) -> list[Case]:
    """Return one case per judged row of a gate's document, per failure and per device away.

    A gate that was stopped has a case of its own that says so. `seconds` are those of the rows, by place.
    """
    known = seconds or {}
    rows = [
        Case(
            suite=row["device"],
            group=row["model"],
            name=f"{_name(row)} {row['metric']}",
            ending=_VERDICTS.get(row["verdict"], "passed"),
            kind=row["verdict"],
            reason=row["reason"],
            seconds=known.get(_place(row)),
            details=f"{row['verdict']}: {row['reason']}\n" + ", ".join(_numbers(row)),
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
    why = gate.get("incomplete")
    return [*rows, *failed, *away, *([_incomplete("gate", why)] if why else [])]


def _numbers(row: Mapping[str, Any]) -> Iterable[str]:
    """Yield the numbers of a gate's row."""
    yield f"A {verdicts.side(row, 'a')}"
    yield f"B {verdicts.side(row, 'b')}"
    if row["ratio"] is not None:
        yield f"ratio {verdicts.interval(row)}"
    if row.get("drop") is not None:
        yield f"drop {row['drop']:+.4f} ({row['drop_low']:+.4f} to {row['drop_high']:+.4f})"
    if count := counted(row):
        yield count


def document(found: Sequence[Case], properties: dict[str, str], created: str) -> str:
    """Write cases as one XML document, without the characters that XML 1.0 does not allow."""
    root = ET.Element("testsuites", {"name": "edge-harness", **_counts(found)})
    for suite in dict.fromkeys(case.suite for case in found):
        inside = [case for case in found if case.suite == suite]
        attributes = {
            "name": _name_text(suite),
            "hostname": _name_text(suite),
            "timestamp": _name_text(created),
            "skipped": str(_count(inside, "skipped")),
        }
        element = ET.SubElement(root, "testsuite", attributes | _counts(inside))
        table = ET.SubElement(element, "properties")
        for key, value in properties.items():
            ET.SubElement(table, "property", name=key, value=_name_text(value))
        names = unique(f"{_name_text(case.group)}\n{_name_text(case.name)}" for case in inside)
        for case, whole in zip(inside, names, strict=True):
            _add(element, case, whole.partition("\n")[2])
    ET.indent(root)
    body = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _add(suite: ET.Element, case: Case, name: str) -> None:
    element = ET.SubElement(suite, "testcase", classname=_name_text(case.group), name=name)
    if case.seconds is not None:
        element.set("time", f"{case.seconds:.3f}")
    if case.ending != "passed":
        reason, kind = _text(case.reason), _text(case.kind)
        ET.SubElement(
            element, case.ending, type=kind, message=_cut(f"{kind}: {reason}", MAX_MESSAGE)
        ).text = _cut(reason, MAX_TEXT)
    if case.details:
        ET.SubElement(element, "system-out").text = _cut(_clean_lines(case.details), MAX_TEXT)


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
    return f"{row['recipe']} [{printable.counted(row['threads'], 'thread')}]"


def _counts(found: Sequence[Case]) -> dict[str, str]:
    return {
        "tests": str(len(found)),
        "failures": str(_count(found, "failure")),
        "errors": str(_count(found, "error")),
        "time": f"{sum(case.seconds or 0.0 for case in found):.3f}",
    }


def _count(found: Iterable[Case], ending: Ending) -> int:
    return sum(case.ending == ending for case in found)


def _text(value: object) -> str:
    return display.clean(value) or "-"


def _name_text(value: object) -> str:
    return _cut(_text(value), NAME_LIMIT)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _clean_lines(text: str) -> str:
    return "\n".join(_text(line) for line in text.splitlines())
