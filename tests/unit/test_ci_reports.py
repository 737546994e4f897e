"""JUnit, job summaries and annotations for CI, of runs, gates and doctor, whole and stopped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import stored_gates
import synthetic_runs as synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from test_damage import change_line, nul
from test_export_formats import HOSTILE, check_junit, hostile_run
from test_export_gate import result

from harness import api
from harness.analysis.gate.contest import Rules
from harness.analysis.gate.document import Result
from harness.analysis.gate.findings import Accuracy
from harness.cli.ci import CiOptions, CiReporting
from harness.errors import ConfigError, StoreError
from harness.events import RunOpened
from harness.present import ci
from harness.present.ci.github import MAX_MESSAGE, MAX_PER_KIND
from harness.present.ci.targets import SUMMARY_LIMIT_BYTES
from harness.present.report import exports
from harness.records.store import Store
from harness.records.table.rows import read

COMMAND = re.compile(r"::(error|warning|notice) ((?:file=[^:,]*,)?title=[^:,]*)::([^\r\n]*)")
CHECKS = {
    "pi": [
        {"name": "reachable", "status": "ok", "detail": "yes", "mend": None},
        {"name": "swap", "status": "warn", "detail": "in use", "mend": "swapoff -a"},
        {"name": "python", "status": "fail", "detail": HOSTILE, "mend": "apt install | python3"},
        {"name": "gpu", "status": "skip", "detail": "waits for python", "mend": None},
    ]
}


def report_of(root: Path, **options: Any) -> ci.CiReport:
    return ci.of_run(read(Store(root).open("latest")), **options)


def parsed(report: ci.CiReport) -> list[tuple[str, str, str]]:
    found = [COMMAND.fullmatch(line) for line in ci.lines(report.annotations)]
    assert all(found)
    return [(m[1], m[2], m[3]) for m in found if m]


def gate_with_accuracy(root: Path, **options: Any) -> dict[str, Any]:
    row = Accuracy(key=stored_gates.KEY, both=500, only_a=20, only_b=15, neither=5, seconds=1.5)
    return stored_gates.store(root, accuracy=row, **options)


# --- annotations ---------------------------------------------------------------------------------


def test_a_workflow_command_is_escaped_as_github_reads_it() -> None:
    made = ci.Annotation(
        kind="error", title="a, b: 50 %", message="1 %: a, b\r\n::error::x", file="p:1,2"
    )
    assert made.line() == "::error file=p%3A1%2C2,title=a%2C b%3A 50 %25::1 %25: a, b  : :error::x"


@settings(max_examples=200)
@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_ends_or_adds_a_command(title: str, message: str) -> None:
    line = ci.Annotation(kind="notice", title=f"t{title}", message=message).line()
    assert COMMAND.fullmatch(line)
    assert len(line.splitlines()) == 1
    assert not any(unicodedata.category(char)[0] == "C" for char in line)


def test_the_gravest_of_a_gate_come_first(tmp_path: Path) -> None:
    gate_with_accuracy(tmp_path)
    found = parsed(report_of(tmp_path, file="plan.toml"))
    assert [kind for kind, *_ in found] == ["error", "warning"]
    assert found[0][1].startswith("file=plan.toml,title=REGRESSION%3A kws as_is on pi%2C latency")
    assert found[0][2].startswith("slower: +12")
    assert "INCONCLUSIVE%3A kws as_is on pi%2C accuracy" in found[1][1]


def test_failures_devices_away_and_warnings_of_a_gate_are_annotated() -> None:
    found = parsed(ci.of_gate(result(("pi", "phone")).plain(), "now"))
    titles = [title for _, title, _ in found]
    assert titles[0].startswith("title=REGRESSION%3A kws int8 on pi%2C size")
    assert "title=third was away" in titles
    assert {kind for kind, title, _ in found if "could not be run" in title} == {"error"}


def test_identical_files_have_the_same_row_in_every_report() -> None:
    one = stored_gates.contest()
    plain = Result(baseline="a", candidate="a", identical=(one,)).plain()
    assert [row["metric"] for row in plain["rows"]] == ["bytes"]
    report = ci.of_gate(plain, "2026-11-22T08:00:00+00:00")
    tree = check_junit(report.junit)
    assert [case.get("name") for case in tree.iter("testcase")] == ["as_is [1 thread] bytes"]
    properties = {each.get("name"): each.get("value") for each in tree.iter("property")}
    assert properties == {"kind": "gate", "complete": "true"}
    assert "| bytes | 54,321 B | 54,321 B |" in report.summary


def test_at_most_ten_of_a_kind_are_written_and_the_last_counts_the_rest() -> None:
    many = [ci.Annotation(kind="error", title=f"n{n}", message="m") for n in range(25)]
    lines = ci.lines([*many, ci.Annotation(kind="notice", title="t", message="x" * 9999)])
    assert len(lines) == MAX_PER_KIND + 1
    assert lines[MAX_PER_KIND - 1].startswith("::error title=and 16 more::16 more; ")
    assert len(lines[-1]) < MAX_MESSAGE + 50


def test_failed_rows_of_a_run_are_annotated(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    (found,) = parsed(report_of(tmp_path))
    assert found[0] == "error"
    assert found[1].startswith("title=rejected%3A kws")


# --- JUnit ---------------------------------------------------------------------------------------


def test_the_cases_of_a_gate_have_the_time_of_their_launches(tmp_path: Path) -> None:
    rules = Rules(metrics=("latency", "load", "size", "accuracy"))
    plain = gate_with_accuracy(tmp_path, rules=rules)
    tree = check_junit(report_of(tmp_path).junit)
    cases = {case.attrib["name"].split()[-1]: case for case in tree.iter("testcase")}
    times = {name: case.get("time") for name, case in cases.items()}
    # 32 launches of 0.9 s, shared by the two metrics of the same launches.
    assert times == {"latency": "14.400", "load": "14.400", "size": None, "accuracy": "1.500"}
    assert tree.get("time") == "30.300"
    output = cases["accuracy"].findtext("system-out") or ""
    assert "540 inputs" in output
    assert "pairs" not in output
    assert "drop +0.0093 (" in output
    assert "6 pairs" in (cases["latency"].findtext("system-out") or "")
    assert api.judge("latest", results=tmp_path).plain() == plain


def test_doctor_is_valid_junit_with_a_case_per_check() -> None:
    report = ci.of_checks(CHECKS, "2026-11-22T08:00:00+00:00")
    tree = check_junit(report.junit)
    (suite,) = tree
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
    assert [kind for kind, *_ in parsed(report)] == ["error", "warning"]
    assert report.summary.startswith("### edge-harness doctor: 1 failed, 1 warning, of 4 checks\n")
    assert "| pi | swap | warn | in use | swapoff -a |" in report.summary


AWFUL = ["\x00\x08\x1b[31m", "\ud800", "\ufffe\uffff", "😀🧪", "]]>&<", "\r\n\t", "x" * 300_000]


@pytest.mark.parametrize("text", AWFUL)
def test_junit_is_valid_whatever_a_device_says(text: str, tmp_path: Path) -> None:
    checks = {f"pi{text[:80]}": [{"name": text, "status": "fail", "detail": text, "mend": text}]}
    gate = result((f"pi{text[:80]}", "phone")).plain()
    gate["failed"][0]["reason"] = gate["rows"][2]["reason"] = text
    for report in (
        ci.of_checks(checks, text),
        ci.of_gate(gate, text),
        ci.of_error("gate", text, text),
    ):
        tree = check_junit(report.junit)
        assert len(report.junit) < 700_000
        assert max(len(value) for one in tree.iter() for value in one.attrib.values()) <= 1024
        report.junit.encode()
        parsed(report)


def test_what_xml_allows_is_kept() -> None:
    report = ci.of_error("gate", "😀 and 🧪 & <b> ]]>", "now")
    assert "😀 and 🧪 & <b> ]]>" in [one.text for one in ET.fromstring(report.junit).iter("error")]


# --- stopped runs --------------------------------------------------------------------------------


def stopped_gate(root: Path) -> str:
    return str(stored_gates.store(root, with_verdict=False, with_outcomes=False)["run"])


def stopped_run(root: Path) -> str:
    cells = [synthetic.cell("float32"), synthetic.cell("int8")]
    with Store(root).create(synthetic.record(cells, call={"plan": "plan.toml"})) as writer:
        synthetic.measure(writer, cells[0])
    return writer.id


@pytest.mark.parametrize("make", [stopped_gate, stopped_run])
def test_the_report_of_a_stopped_run_says_so_and_how_it_continues(
    make: Callable[[Path], str], tmp_path: Path
) -> None:
    run = make(tmp_path)
    report = report_of(tmp_path, complete=False)
    tree = check_junit(report.junit)
    assert {one.get("value") for one in tree.iter("property") if one.get("name") == "complete"} == {
        "false"
    }
    assert "incomplete" in report.summary.splitlines()[0]
    assert f"--resume {run}`" in report.summary
    assert parsed(report)[0][1].startswith("title=incomplete%3A ")
    (error,) = tree.iter("error")
    assert error.get("type") == "incomplete"
    assert f"--resume {run}`" in (error.text or "")
    # A later export of it says the same.
    assert api.export("latest", "summary", results=tmp_path) == report.summary
    assert api.export("latest", "junit", results=tmp_path) == report.junit


def test_a_gate_that_was_killed_is_reported_as_it_is_judged(tmp_path: Path) -> None:
    run = stopped_gate(tmp_path)
    judged = api.judge("latest", results=tmp_path).plain()
    assert judged["verdict"] == "INCONCLUSIVE"
    assert api.show("latest", results=tmp_path).gate == judged
    names = {
        case.get("name"): case for case in ET.fromstring(report_of(tmp_path).junit).iter("testcase")
    }
    assert set(names) == {"as_is [1 thread] latency", "as_is [1 thread] size", "is complete"}
    latency = names["as_is [1 thread] latency"].find("skipped")
    assert latency is not None
    assert latency.get("type") == "INCONCLUSIVE"
    page = api.report("latest", results=tmp_path).read_text(encoding="utf-8")
    assert "<h2>Verdict: INCONCLUSIVE</h2>" in page
    assert "was killed" in page
    # If it is damaged too, it has no verdicts, and says why.
    change_line(tmp_path / run / "launches.jsonl", 2, nul)
    damaged = api.show("latest", results=tmp_path).gate
    assert damaged is not None
    assert (damaged["verdict"], damaged["rows"]) == ("INCONCLUSIVE", [])
    assert "not judged: " in damaged["incomplete"]
    assert "is damaged" in ci.of_run(read(Store(tmp_path).open(run))).junit


def test_a_whole_run_is_not_marked(tmp_path: Path) -> None:
    of = synthetic.cell("int8")
    with Store(tmp_path).create(synthetic.record([of])) as writer:
        synthetic.measure(writer, of)
        writer.finish()
    report = report_of(tmp_path)
    assert "ncomplete" not in report.summary
    assert report.annotations == ()
    assert "ncomplete" in report_of(tmp_path, complete=False).summary


# --- where they are written ----------------------------------------------------------------------


def targets(folder: Path, **environ: str) -> ci.CiTargets:
    given = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(folder / "summary")} | environ
    return ci.CiTargets.of(given, junit=folder / "junit.xml")


def test_the_step_summary_is_appended_to_and_kept_under_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored_gates.store(tmp_path / "runs")
    run, to = Store(tmp_path / "runs").open("latest"), targets(tmp_path)
    (tmp_path / "summary").write_text("# before\n")
    ci.write_stored(run, to, complete=True, plan=tmp_path / "plan.toml")
    text = (tmp_path / "summary").read_text()
    assert text.startswith("# before\n### edge-harness gate: REGRESSION\n")
    assert capsys.readouterr().err.startswith("::error file=")
    check_junit((tmp_path / "junit.xml").read_text())
    (tmp_path / "summary").write_bytes(b"x" * (SUMMARY_LIMIT_BYTES - 300))
    ci.write_stored(run, to, complete=True)
    assert SUMMARY_LIMIT_BYTES - 300 < (tmp_path / "summary").stat().st_size <= SUMMARY_LIMIT_BYTES
    assert (tmp_path / "summary").read_text().endswith("does not fit into the job summary.\n")


def test_a_report_that_cannot_be_written_is_a_line_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ci.of_error("gate", "no plan", "now")
    ci.write(report, targets(tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path)))
    assert "GITHUB_STEP_SUMMARY: " in capsys.readouterr().err
    assert (tmp_path / "junit.xml").exists()


def test_the_environment_and_the_options_choose_the_places(tmp_path: Path) -> None:
    environ = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": "s",
        "GITHUB_WORKSPACE": str(tmp_path),
    }
    assert not ci.CiTargets.of({})
    assert ci.CiTargets.of({}, github=True).annotates
    assert not ci.CiTargets.of(environ, github=False)
    found = ci.CiTargets.of(environ)
    assert (found.annotates, found.step_summary) == (True, Path("s"))
    assert found.named(tmp_path / "plans" / "a.toml") == "plans/a.toml"
    assert found.named(Path("/elsewhere/a.toml")) == "/elsewhere/a.toml"
    with pytest.raises(ConfigError, match=r"--junit .*: there is no folder"):
        ci.CiTargets.of({}, junit=tmp_path / "no" / "junit.xml")


@pytest.mark.parametrize("kind", ["a folder", "a read-only file system", "a name that is too long"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, kind: str
) -> None:
    path = {
        "a folder": tmp_path,
        "a read-only file system": Path("/proc/junit.xml"),
        "a name that is too long": tmp_path / ("x" * 300),
    }[kind]
    with pytest.raises(ConfigError, match=r"--summary .*: cannot be written: "):
        ci.CiTargets.of({}, summary=path)


@pytest.mark.parametrize("name", ["plan.toml", "model.tflite", "model.KERAS", "data.npz"])
def test_a_report_does_not_replace_what_the_user_gave(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    ci.CiTargets.of({}, junit=path)  # a new file may have any name
    path.write_text("mine")
    with pytest.raises(ConfigError, match=r"--junit .* would be lost"):
        ci.CiTargets.of({}, junit=path)
    with pytest.raises(ConfigError, match=r"-o .* would be lost"):
        exports.save("<xml/>", path)
    assert path.read_text() == "mine"


def test_two_reports_have_two_files_in_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the same file"):
        ci.CiTargets.of({}, junit=tmp_path / "x", summary=tmp_path / "." / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        ci.CiTargets.of({}, junit=tmp_path / "file" / "x")


def test_a_report_that_can_be_written_leaves_nothing_before_it_is(tmp_path: Path) -> None:
    (tmp_path / "before.xml").write_text("old")
    ci.CiTargets.of({}, junit=tmp_path / "before.xml", summary=Path("/dev/stdout"))
    assert [path.name for path in tmp_path.iterdir()] == ["before.xml"]
    assert (tmp_path / "before.xml").read_text() == "old"


class Quiet:
    def __call__(self, event: object) -> None:
        pass

    def close(self) -> None:
        pass


class Terminated(BaseException):
    """As a signal handler may raise it."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, Terminated, SystemExit])
def test_whatever_ends_a_command_its_report_is_written(
    error: type[BaseException], tmp_path: Path
) -> None:
    options = CiOptions(junit=tmp_path / "j.xml", summary=tmp_path / "s.md")
    runs = tmp_path / "runs"
    reporting = CiReporting("gate", options=options, results=runs)
    reporting.watching(Quiet())(RunOpened(run=stopped_gate(runs)))
    with pytest.raises(error), reporting:
        raise error
    assert "incomplete" in (tmp_path / "s.md").read_text()
    check_junit((tmp_path / "j.xml").read_text())


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("no such plan"), "no such plan"),
        (KeyboardInterrupt(), "stopped before anything"),
    ],
)
def test_a_command_that_stored_nothing_reports_why(
    error: BaseException, text: str, tmp_path: Path
) -> None:
    options = CiOptions(summary=tmp_path / "s.md")
    with pytest.raises(type(error)), CiReporting("run", options=options):
        raise error
    assert text in (tmp_path / "s.md").read_text()


def test_a_record_that_cannot_be_read_does_not_hide_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = CiOptions(summary=tmp_path / "s.md")
    reporting = CiReporting("run", options=options, results=tmp_path)
    reporting.run_id = "gone"
    with pytest.raises(StoreError, match="disk full"), reporting:
        raise StoreError("disk full")
    assert "the report for CI cannot be written" in capsys.readouterr().err


def test_without_a_ci_system_nothing_is_written(tmp_path: Path) -> None:
    with CiReporting("run", options=CiOptions(), results=tmp_path) as reporting:
        reporting.run_id = "none"
    assert list(tmp_path.iterdir()) == []
