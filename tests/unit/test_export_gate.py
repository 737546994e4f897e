"""A gate's run as JUnit and as a step summary: verdicts, not rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import synthetic_runs as synthetic

from harness import api
from harness.analysis.gate import document
from harness.analysis.gate.document import FILE, GateRow, Result
from harness.analysis.gate.findings import Comparison, Exact, Key, Row
from harness.analysis.gate.verdicts import judge
from harness.errors import StoreError
from harness.measure.pairs import Pair
from harness.records.store import Store

HOSTILE = 'pi|<b>&"\x1b[31m'


def result(devices: tuple[str, str]) -> Result:
    """A regression, a pass, an inconclusive latency, a row only shown; one failed, one away."""
    first, second = (Key(model="kws", recipe="int8", device=device) for device in devices)
    quick = tuple(Pair(block=block, a=2e5, b=2.1e5) for block in range(3))
    rows: list[Row] = [
        Exact(key=first, metric="size", a=50_000, b=60_000),
        Exact(key=second, metric="size", a=50_000, b=50_000),
        Comparison(key=first, metric="latency", pairs=quick),
        Comparison(key=first, metric="load", pairs=quick),
    ]
    return Result(
        baseline="main.tflite",
        candidate="branch.tflite",
        shown=tuple(
            GateRow(row=row, judged=judged, is_judged=row.metric != "load")
            for row, judged in zip(rows, judge(rows), strict=True)
        ),
        failed=((first, "rejected", "bad file"), (second, "silent", "no answer")),
        away={"third": "no route"},
    )


@pytest.fixture(name="root", params=[("pi", "phone"), (HOSTILE, "phone")], ids=["usual", "hostile"])
def _root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    run = synthetic.whole_run(tmp_path)
    stored = Store(tmp_path).open(run)
    text = document.stored(replace(result(request.param), run=run), stored.record.key)
    (stored.path / FILE).write_text(text, encoding="utf-8")
    return tmp_path


def test_junit_has_a_case_for_each_judged_row(root: Path) -> None:
    tree = ET.fromstring(api.export("latest", "junit", results=root))
    endings = {
        (case.attrib["classname"], case.attrib["name"]): [
            child.attrib["type"] for child in case if child.tag in {"failure", "error", "skipped"}
        ]
        for case in tree.iter("testcase")
    }
    first, *_ = list(tree)
    assert [case.find("failure") is not None for case in first.findall("testcase")] == [
        True,
        False,
        True,
    ]
    assert endings == {
        ("kws", "int8 [1 thread] size"): [],  # the phone's: the last of that name
        ("kws", "int8 [1 thread] latency"): ["INCONCLUSIVE"],
        ("kws", "int8 [1 thread]"): ["silent"],
        ("device", "is there"): ["away"],
    }
    assert (tree.attrib["failures"], tree.attrib["errors"]) == ("2", "2")
    assert [suite.attrib["skipped"] for suite in tree] == ["1", "0", "0"]
    size = first.find("testcase/system-out")
    assert size is not None
    assert "A 50,000 B, B 60,000 B, ratio 1.200" in (size.text or "")


def test_the_summary_tells_the_gravest_first(root: Path) -> None:
    text = api.export("latest", "summary", results=root)
    assert text.startswith("### edge-harness gate: REGRESSION\n")
    assert "A main.tflite, B branch.tflite; run 2" in text
    reasons = [line for line in text.splitlines() if line.startswith("- ")]
    assert "size: REGRESSION: larger" in reasons[0]
    assert "latency: INCONCLUSIVE: " in reasons[1]
    assert any("away: no route" in line for line in reasons)
    assert any("bad file" in line for line in reasons)
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 4
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<b>" not in text.replace("\\<", "")


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": 3}'])
def test_a_damaged_document_is_named(tmp_path: Path, content: str) -> None:
    run = synthetic.whole_run(tmp_path)
    (tmp_path / run / FILE).write_text(content, encoding="utf-8")
    with pytest.raises(StoreError, match=f"{FILE}.*restore it from a copy"):
        api.export("latest", "junit", results=tmp_path)


def test_a_gate_cut_short_shows_its_rows(tmp_path: Path) -> None:
    synthetic.whole_run(tmp_path)
    assert "measured" in api.export("latest", "summary", results=tmp_path)
