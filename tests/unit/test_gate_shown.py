"""The verdict of a gate's run in `show` and on the page."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
import stored_gates
from synthetic_runs import cell, measure, record
from test_export_gate import result

from harness import api
from harness.analysis.gate import document
from harness.analysis.gate.contest import Rules
from harness.analysis.gate.document import FILE
from harness.analysis.gate.findings import CONSTANT, SKEWED, TOO_NOISY
from harness.analysis.gate.verdicts import UNCONFIRMED
from harness.present import screen
from harness.present.report import markdown
from harness.present.report.exports import summary
from harness.present.report.exports.verdicts import LABELS
from harness.printable import counted
from harness.records.store import checksums


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """A gate's run with a judged quantile of 0.25."""
    from harness.records.store import Store

    of = cell("int8")
    with Store(tmp_path).create(record([of], kind="gate")) as writer:
        measure(writer, of)
        writer.finish()
        plain = result(("pi", "phone")).plain()
        for row in plain["rows"]:
            row["quantile"] = 0.25 if row["metric"] == "latency" else None
        text = checksums.summed({**plain, "run": writer.id}, f"{writer.record.key}/{FILE}")
        (writer.path / FILE).write_text(text, encoding="utf-8")
    return tmp_path


def test_show_prints_the_verdict_and_the_judged_quantile(root: Path) -> None:
    shown = api.show("latest", results=root)
    assert shown.gate is not None
    assert shown.plain()["gate"]["verdict"] == "REGRESSION"
    stream = io.StringIO()
    screen.gate(shown.gate, file=stream)
    text = stream.getvalue()
    assert re.search(r"int8 +pi +1 +latency p25 +", text)
    assert re.search(r"gate REGRESSION: size 1\.200x .*exit 3\n$", text)
    assert "size: REGRESSION: larger" in text
    assert any("pairs that count, for latency of the p25 of each" in one for one in shown.lines)
    written = summary.judged(shown.gate) + markdown.markdown(shown.rows, shown.lines)
    assert "gate: REGRESSION" in written
    assert "latency p25" in written


def test_the_table_of_a_gate_explains_its_metrics_labels_and_flags() -> None:
    plain = result(("pi", "phone")).plain()
    plain["rows"][0] |= {"quantile": 0.005, "labels": ["skewed"], "flags": ["uncontrolled"]}
    stream = io.StringIO()
    screen.gate(plain, file=stream)
    text = stream.getvalue()
    line = "latency p0.5: 0.5 % of a launch's inferences take no longer (not the median, p50: "
    assert line in text
    assert line in summary.judged({**plain, "run": "20260101-000000-kws-aaaaaa"})
    assert "\nskewed: a few pairs dominate the mean\n" in text
    assert "\nuncontrolled: the processor's frequency" in text
    assert "\nunconfirmed: " not in text, "no row has it"


def test_too_few_pairs_have_no_interval_in_any_form(tmp_path: Path) -> None:
    rules = Rules(metrics=("latency", "memory", "size", "accuracy"))
    plain = stored_gates.store(tmp_path, pairs=2, fresh=0, spread=2, rules=rules)
    rows = {row["metric"]: row for row in plain["rows"]}
    for metric in ("latency", "load"):
        row = rows[metric]
        assert row["ratio"] is not None
        assert (row["ratio_low"], row["ratio_high"]) == (None, None)
    assert rows["load"]["reason"] == "+0.0%; gate.metrics does not have it; 2 pairs"
    assert f"latency {rows['latency']['ratio']:.3f}x (-, 2 pairs); " in document.summary(plain)
    stream = io.StringIO()
    screen.gate(plain, file=stream)
    assert re.search(r"latency p50 .* -  +2 +INCONCLUSIVE", stream.getvalue())
    ratio = f"{rows['latency']['ratio']:.3f}"
    assert f"| {ratio} (-) | INCONCLUSIVE |" in api.export("latest", "summary", results=tmp_path)
    assert f"ratio {ratio} (-), 2 pairs" in api.export("latest", "junit", results=tmp_path)
    assert f"{ratio} (-)" in api.report("latest", results=tmp_path).read_text(encoding="utf-8")


def test_every_label_of_a_gate_has_a_meaning() -> None:
    named = {TOO_NOISY, SKEWED, CONSTANT, UNCONFIRMED, "fixed_performance", "outputs_differ"}
    assert named | {"summary_mean", "summary_median"} == set(LABELS)


def test_the_page_has_the_verdict(root: Path) -> None:
    page = api.report("latest", results=root).read_text(encoding="utf-8")
    assert "<h2>Verdict: REGRESSION</h2>" in page
    assert "latency p25" in page
    assert "A: main.tflite; B: branch.tflite" in page
    assert "medians over all launches of one side" in page


def test_show_says_why_the_numbers_of_rows_and_gate_differ(tmp_path: Path) -> None:
    """Fresh pairs with other times change the rows, and their exports, and not the gate's numbers."""
    plain = stored_gates.store(tmp_path, ratio=1.3)
    shown = api.show("latest", results=tmp_path)
    (line,) = [one for one in shown.lines if "so they and their ratio are other numbers" in one]
    assert "for latency" not in line
    gate = plain["rows"][0]
    assert shown.rows[0]["latency_p50_ms"] != gate["a"] / 1e6
    exported = json.loads(api.export("latest", "bmf", results=tmp_path))
    a = exported["kws/baseline:as_is/pi/threads:1"]["latency"]["value"]
    assert a == pytest.approx(shown.rows[0]["latency_p50_ms"] * 1e6)


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(1, "row", "1 row"), (0, "warning", "0 warnings"), (1234, "launch", "1,234 launches")],
)
def test_a_number_agrees_with_its_noun(count: int, noun: str, text: str) -> None:
    assert counted(count, noun) == text


def test_the_summary_line_of_a_gate_counts_one_row_and_one_device() -> None:
    plain = result(("pi", "phone")).plain()
    plain["rows"] = [row for row in plain["rows"] if row["metric"] == "latency"]
    assert "; 1 row judged, 2 could not be run, 1 device away; exit" in document.summary(plain)


def test_the_summary_of_a_document_is_that_of_its_result() -> None:
    made = result(("pi", "phone"))
    assert document.summary(made.plain()) == made.summary()
    assert document.reasons(made.plain()) == list(document.explained(made))
