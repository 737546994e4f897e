"""Every export against what its format demands; pyperf by the real pyperf."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyperf
import pytest
import synthetic_runs as synthetic
from typer.testing import CliRunner

from harness import api, columns
from harness.cli import app
from harness.cli.picking import ExportFormat
from harness.errors import ConfigError, StoreError
from harness.present.report.exports import FORMATS, entries, summary
from harness.records.store import Store
from harness.records.table import COLUMNS, display
from harness.types import Accept, Delegation, Failure, Outcome

HOSTILE = "<b>&\"'`|@all\x1b[31m\n日本/%2F]]>\x00\u202e=1"
TRENDS = ("bmf", "github", "pyperf", "gbench")


def text_of(root: Path, form: str, **options: Any) -> str:
    return api.export("latest", form, results=root, **options)


def document_of(root: Path, form: str, **options: Any) -> Any:
    return json.loads(text_of(root, form, **options), parse_constant=pytest.fail)


def hostile_run(root: Path) -> None:
    """Two measured cells whose names differ by a control character only, and a failed one."""
    good = [
        synthetic.cell("int8", device="pi", model=HOSTILE + tail, variant=synthetic.variant())
        for tail in ("", "\x07")
    ]
    bad = synthetic.cell(
        HOSTILE, model="kws", variant=Failure(kind="not_built", reason=HOSTILE), device=HOSTILE
    )
    with Store(root).create(
        synthetic.record([*good, bad], id="20261122-080000-x-abc123")
    ) as writer:
        for one in good:
            synthetic.measure(writer, one)
        writer.outcome(Outcome(cell=bad, failure=Failure(kind="rejected", reason=HOSTILE)))
        writer.finish()


@pytest.fixture(scope="module", params=["usual", "hostile"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "hostile":
        hostile_run(folder)
    else:
        synthetic.whole_run(folder)
    return folder


def measured(root: Path) -> list[dict[str, Any]]:
    return [row for row in api.rows("latest", results=root) if row["status"] == "ok"]


def test_bmf_is_what_bencher_takes(root: Path) -> None:
    document = document_of(root, "bmf")
    rows = measured(root)
    assert len(document) == len(rows) == 2
    for (name, measures), row in zip(document.items(), rows, strict=True):
        assert 0 < len(name) <= 1024
        assert name.isprintable()
        for slug, metric in measures.items():
            assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)
            assert len(slug) <= 64
            assert set(metric) <= {"value", "lower_value", "upper_value"}
            assert all(isinstance(number, (int, float)) for number in metric.values())
        latency = measures["latency"]
        assert latency["value"] == pytest.approx(row["latency_p50_ms"] * 1e6)
        assert latency["lower_value"] < latency["value"] < latency["upper_value"]
        assert measures["file-size"] == {"value": row["size_bytes"]}
        assert measures["peak-memory"]["value"] == pytest.approx(62e6)
        assert isinstance(measures["peak-memory"]["value"], int)


def test_github_entries_are_smaller_is_better_and_keep_the_comment_whole(root: Path) -> None:
    document = document_of(root, "github")
    names = [entry["name"] for entry in document]
    assert len(names) == len(set(names)) == 8
    for entry in document:
        assert set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], (int, float))
        assert all(isinstance(entry[key], str) for key in entry if key != "value")
        assert not set("`|\n") & set(entry["name"])
        assert "accuracy" not in entry["name"]
    assert re.fullmatch(r"±\d+\.\d%", document[0]["range"])
    assert document[0]["value"] == pytest.approx(measured(root)[0]["latency_p50_ms"])
    assert "launches: 3" in document[0]["extra"]


SCHEMA: dict[str, tuple[set[str], set[str], set[str]]] = {
    # element: required attributes, other attributes, children; what Jenkins' junit-10.xsd allows
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors"},
        {
            *("group", "time", "skipped", "timestamp", "hostname", "id", "package", "file"),
            *("log", "url"),
        },
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, set(), set()),
    "testcase": (
        {"name"},
        {"time", "classname", "group"},
        {"failure", "error", "skipped", "system-out", "system-err"},
    ),
    "failure": (set(), {"type", "message"}, set()),
    "error": (set(), {"type", "message"}, set()),
    "skipped": (set(), {"type", "message"}, set()),
    "system-out": (set(), set(), set()),
}


def check_junit(text: str) -> ET.Element:
    tree = ET.fromstring(text)
    assert tree.tag == "testsuites"
    for element in tree.iter():
        required, others, children = SCHEMA[element.tag]
        assert required <= set(element.attrib) <= required | others
        assert {child.tag for child in element} <= children
        if "time" in element.attrib:
            assert re.fullmatch(
                r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?", element.attrib["time"]
            )
            assert element.attrib["time"] not in ("", ".")
    for suite in tree:
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases)
        for ending, attribute in (("failure", "failures"), ("error", "errors"), ("skipped",) * 2):
            assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{ending}"))
        names = [(case.attrib["classname"], case.attrib["name"]) for case in cases]
        assert len(names) == len(set(names))
    return tree


def test_junit_is_what_jenkins_takes(root: Path) -> None:
    tree = check_junit(text_of(root, "junit"))
    rows = api.rows("latest", results=root)
    pending = any(row["status"] == "pending" for row in rows)
    assert int(tree.attrib["tests"]) == len(rows) + pending
    assert [error.get("type") for error in tree.iter("error")] == ["incomplete"] * pending
    assert float(tree.attrib["time"]) > 1
    bad = tree.find(".//failure")
    assert bad is not None
    reason = next(row["reason"] for row in rows if row["status"] in {"rejected", "not_built"})
    assert bad.text == entries.display.clean(reason)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("unreachable", "error"),
        ("silent", "error"),
        ("busy", "error"),
        ("a_new_kind", "error"),
        ("inaccurate", "failure"),
        ("out_of_memory", "failure"),
        ("unsupported", "skipped"),
    ],
)
def test_junit_tells_the_models_faults_from_the_labs(
    tmp_path: Path, kind: str, ending: str
) -> None:
    cell = synthetic.cell()
    with Store(tmp_path).create(synthetic.record([cell])) as writer:
        writer.outcome(Outcome(cell=cell, failure=Failure(kind=kind, reason="because")))
        writer.finish()
    case = check_junit(text_of(tmp_path, "junit")).find(".//testcase")
    assert case is not None
    assert [(child.tag, child.attrib["type"], child.text) for child in case] == [
        (ending, kind, "because")
    ]


@pytest.mark.parametrize(
    ("limit", "ending"), [(None, "skipped"), (0.9, "failure"), (0.5, "passed")]
)
def test_a_row_in_part_is_judged_by_min_delegated(
    tmp_path: Path, limit: float | None, ending: str
) -> None:
    cell = synthetic.cell(target="gpu", accept=Accept(min_delegated=limit))
    half = Delegation(
        delegate="gpu",
        delegated_ops=3,
        total_ops=6,
        partitions=2,
        left=("ADD",),
        evidence="graph walk",
    )
    with Store(tmp_path).create(synthetic.record([cell])) as writer:
        launch = synthetic.launch(cell, synthetic.latencies(cell, 0), delegation=half)
        writer.launch(launch)
        writer.outcome(Outcome(cell=cell, launches=(launch,)))
        writer.finish()
    case = check_junit(text_of(tmp_path, "junit")).find(".//testcase")
    assert case is not None
    assert [child.tag for child in case if child.tag != "system-out"] == (
        [] if ending == "passed" else [ending]
    )
    if ending == "passed":
        assert len(document_of(tmp_path, "bmf")) == 1
    else:
        with pytest.raises(StoreError, match="no row that was fully measured"):
            text_of(tmp_path, "bmf")


def test_pyperf_reads_it_back(root: Path) -> None:
    suite = pyperf.BenchmarkSuite.loads(text_of(root, "pyperf"))
    rows = measured(root)
    assert len(suite) == len(rows)
    for benchmark, row in zip(suite, rows, strict=True):
        assert benchmark.get_nrun() == 3
        assert benchmark.get_unit() == "second"
        assert benchmark.median() == pytest.approx(row["latency_p50_ms"] / 1e3)
        for run in benchmark.get_runs():
            assert len(run.values) == 1
            assert run.warmups == ((60, pytest.approx(0.5 / 60)),)
            assert run.get_loops() == 100


def test_pyperf_compare_to_of_two_runs(tmp_path: Path) -> None:
    files = []
    for scale in (1.0, 1.3):
        run = synthetic.whole_run(tmp_path / "runs", scale=scale)
        files.append(tmp_path / f"{scale}.json")
        api.export(run, "pyperf", files[-1], results=tmp_path / "runs")
    done = subprocess.run(
        [sys.executable, "-m", "pyperf", "compare_to", *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "kws/int8/pi/threads:1: Mean +- std dev" in done.stdout
    assert "1.30x slower" in done.stdout


def test_google_benchmark_has_a_repetition_a_launch(root: Path) -> None:
    document = document_of(root, "gbench")
    assert {"date", "host_name", "num_cpus", "library_build_type"} <= set(document["context"])
    rows = measured(root)
    families: dict[int, list[dict[str, Any]]] = {}
    for entry in document["benchmarks"]:
        assert entry["time_unit"] == "ns"
        assert entry["real_time"] > 0
        assert entry["cpu_time"] == pytest.approx(entry["real_time"] * 0.99, rel=1e-3)
        assert isinstance(entry["iterations"], int)
        families.setdefault(entry["family_index"], []).append(entry)
    assert len(families) == len(rows)
    for family, row in zip(families.values(), rows, strict=True):
        *repetitions, aggregate = family
        assert [one["repetition_index"] for one in repetitions] == [0, 1, 2]
        assert {one["run_type"] for one in repetitions} == {"iteration"}
        assert (aggregate["run_type"], aggregate["aggregate_name"]) == ("aggregate", "median")
        assert aggregate["name"] == f"{aggregate['run_name']}_median"
        assert aggregate["real_time"] == pytest.approx(row["latency_p50_ms"] * 1e6)


def test_csv_has_every_row(root: Path) -> None:
    found = list(csv.DictReader(io.StringIO(text_of(root, "csv"), newline="")))
    rows = api.rows("latest", results=root)
    assert [row["status"] for row in found] == [row["status"] for row in rows]
    assert set(found[0]) == set(COLUMNS)


def test_the_summary_is_one_table_whatever_the_names(root: Path) -> None:
    text = text_of(root, "summary")
    rows = api.rows("latest", results=root)
    assert text.startswith("### edge-harness: ")
    assert f"2 of {len(rows)} measured, 1 failed" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows)
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(widths) == 1
    assert not re.search(r"(?<!\\)<", text)


def test_a_summary_that_github_would_drop_ends_early(tmp_path: Path) -> None:
    cells = [synthetic.cell(f"r{i}", model="m" * 2000) for i in range(600)]
    with Store(tmp_path).create(synthetic.record(cells, id="20261122-080000-x-abc123")) as writer:
        writer.finish()
    text = text_of(tmp_path, "summary")
    assert len(text.encode()) <= summary.LIMIT_BYTES
    assert re.search(r"\n\d+ more rows: edge-harness show ", text)


@pytest.mark.parametrize("form", TRENDS)
def test_a_run_without_a_number_is_no_trend(tmp_path: Path, form: str) -> None:
    emulated = synthetic.cell(flags=("emulated",))
    with Store(tmp_path).create(synthetic.record([emulated])) as writer:
        synthetic.measure(writer, emulated)
        writer.finish()
    with pytest.raises(StoreError, match="nothing to export"):
        text_of(tmp_path, form)
    assert "kws/int8/pi/threads:1" in text_of(tmp_path, form, emulated=True)


def test_long_names_are_cut_and_stay_different(tmp_path: Path) -> None:
    rows = [{"model": "m" * 3000 + tail, "recipe": "r", "device": "d"} for tail in "ab"]
    names = [entries.name({**row, "threads": 1}) for row in rows]
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {1024}


def test_the_command_writes_a_file_or_stdout(tmp_path: Path) -> None:
    assert {form.value for form in ExportFormat} == set(FORMATS)
    synthetic.whole_run(tmp_path / "runs")
    target = tmp_path / "report.xml"
    common = ["export", "latest", "--results", str(tmp_path / "runs"), "--format"]
    shown = CliRunner().invoke(app, [*common, "junit"])
    assert shown.exit_code == 0
    written = CliRunner().invoke(app, [*common, "junit", "-o", str(target)])
    assert written.output == f"wrote {target}\n"
    assert target.read_bytes() == shown.stdout_bytes
    with pytest.raises(ConfigError, match="there is no folder .*nowhere; `mkdir -p"):
        api.export("latest", "csv", tmp_path / "nowhere" / "x", results=tmp_path / "runs")
    with pytest.raises(ConfigError, match="unknown format 'xlsx'"):
        api.export("latest", "xlsx", results=tmp_path / "runs")


@pytest.mark.parametrize("launches", [3, 5, 6, 8, 60])
def test_no_format_puts_a_value_outside_its_interval(launches: int, tmp_path: Path) -> None:
    """Launches of two modes: their geometric mean is far from their median."""
    of = synthetic.cell("int8")
    with Store(tmp_path).create(synthetic.record([of])) as writer:
        made = [
            synthetic.launch(of, [(435e3, 600e3)[block % 5 == 0]] * 40, block)
            for block in range(launches)
        ]
        for one in made:
            writer.launch(one)
        writer.outcome(Outcome(cell=of, launches=tuple(made)))
        writer.finish()
    (row,) = api.rows("latest", results=tmp_path)
    low, value, high = (row[f"latency_p50{end}_ms"] for end in ("_low", "", "_high"))
    assert low <= value <= high
    (bmf,) = document_of(tmp_path, "bmf").values()
    latency = bmf["latency"]
    assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]
    (line,) = csv.DictReader(io.StringIO(text_of(tmp_path, "csv")))
    assert float(line["latency_p50_low_ms"]) <= value <= float(line["latency_p50_high_ms"])
    shown = display.half_width(row)
    farther = max(high / value, value / low) - 1
    assert shown == f"±{100 * farther:.1f}%"
    assert document_of(tmp_path, "github")[0]["range"] == shown
    assert shown in text_of(tmp_path, "summary")
    assert shown in text_of(tmp_path, "junit")
    assert shown in api.report("latest", results=tmp_path).read_text(encoding="utf-8")
    aggregate = document_of(tmp_path, "gbench")["benchmarks"][-1]
    assert aggregate["real_time"] == pytest.approx(value * 1e6)
    _, second = api.compare(["latest", "latest"], results=tmp_path)
    assert second["ratio_low"] <= second["ratio"] == 1 <= second["ratio_high"]


@pytest.mark.parametrize("column", [one.name for one in columns.ALL if one.low])
def test_a_column_with_an_interval_has_both_ends(column: str) -> None:
    known = columns.get(column)
    assert known.high
    assert {known.low, known.high} <= set(COLUMNS)
