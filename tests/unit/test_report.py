from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import cell, facts, latencies, launch, measure, record, samples, whole_run

from harness.errors import StoreError
from harness.present.report import charts, html, markdown, plain
from harness.records import table
from harness.records.store import DeviceRecord, Store, StoredRun
from harness.types import Device, Failure, Outcome

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}\x1b[31m|`[x](http://evil)"


class Page(HTMLParser):
    """Every element and text of a page; refuses one that is not well nested."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def rendered(run: StoredRun, path: Path) -> Page:
    html.write(run, path)
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_holds_every_row_and_loads_nothing(tmp_path: Path) -> None:
    run = Store(tmp_path / "runs").open(whole_run(tmp_path / "runs"))
    page = rendered(run, tmp_path / "page.html")
    rows = [tag for tag, _ in page.elements].count("tr") - 1
    assert rows == len(table.rows(run)) == 4
    for text in ("float32", "int16x8", "not_built", "pending", "Raspberry Pi 5", "0.9000"):
        assert text in page.texts
    assert any("no calibration data" in text for text in page.texts)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.elements:
        assert not {"src", "href", "xlink:href", "action"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(" not in text
    # Addresses of devices may stand in the text; nothing is loaded from anywhere.
    assert "http://" not in text
    assert "https://" not in text
    assert "default-src 'none'" in text
    assert [tag for tag, _ in page.elements].count("svg") == 5


def test_hostile_names_are_shown_as_they_are(tmp_path: Path) -> None:
    good = cell(HOSTILE, device=HOSTILE, model=HOSTILE, flags=(HOSTILE,))
    bad = cell("x", device=HOSTILE, model=HOSTILE)
    devices = {
        HOSTILE: DeviceRecord(
            device=Device(name=HOSTILE, profile=HOSTILE, address=HOSTILE, tags=(HOSTILE,)),
            facts=facts(hostname=HOSTILE, board=HOSTILE, chip=HOSTILE, kernel=HOSTILE),
            failure=Failure(kind=HOSTILE, reason=HOSTILE),
        )
    }
    made = record([good, bad], id="20260101-000000-kws-aaaaaa", devices=devices)
    made = replace(made, plan={HOSTILE: HOSTILE}, host={HOSTILE: HOSTILE})
    with Store(tmp_path).create(made) as writer:
        measure(writer, good)
        writer.outcome(Outcome(cell=bad, failure=Failure(kind=HOSTILE, reason=HOSTILE)))
    run = Store(tmp_path).open("latest")
    page = rendered(run, tmp_path / "page.html")
    assert "script" not in {tag for tag, _ in page.elements}
    assert "a" not in {tag for tag, _ in page.elements}
    assert any("<script>alert(1)</script>" in text for text in page.texts)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "{{7*7}}" in text
    assert "\x1b" not in text
    in_markdown = markdown.markdown(table.rows(run))
    assert not re.search(r"(?<!\\)<script", in_markdown)
    assert not re.search(r"(?<!\\)\]\(http", in_markdown)
    assert len({line.count(" | ") for line in in_markdown.splitlines() if line[:1] == "|"}) == 1


def test_a_run_with_nothing_measured_has_a_page(tmp_path: Path) -> None:
    away = {
        "pi": DeviceRecord(
            device=Device(name="pi", profile="p", address="ssh://pi@10.0.0.9"),
            failure=Failure(kind="unreachable", reason="no route to host"),
        )
    }
    with Store(tmp_path).create(record([cell()], devices=away)) as writer:
        writer.outcome(Outcome(cell=cell(), failure=Failure(kind="unreachable", reason="away")))
    page = rendered(Store(tmp_path).open("latest"), tmp_path / "page.html")
    assert "unreachable: no route to host" in page.texts
    with Store(tmp_path).create(record([], devices={}, id="20990101-000000-x-aaaaaa")) as writer:
        pass
    rendered(Store(tmp_path).open(writer.id), tmp_path / "empty.html")


def test_emulators_are_not_ranked(tmp_path: Path) -> None:
    fast = cell("int8", flags=("emulated",))
    slow = cell("float32")
    with Store(tmp_path).create(record([fast, slow])) as writer:
        measure(writer, fast, scale=0.1)
        measure(writer, slow)
    text = html.page(Store(tmp_path).open("latest"))
    card = text[text.index("Lowest p50 of") : text.index("<section>")]
    assert "float32" in card
    assert "int8" not in card


def test_a_page_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    run = Store(tmp_path).open(whole_run(tmp_path))
    with pytest.raises(StoreError, match=r"cannot write .*none/page\.html"):
        html.write(run, tmp_path / "none" / "page.html")


def test_csv_holds_every_column(tmp_path: Path) -> None:
    of = cell("=cmd", flags=("a", "b"), device='p,"i"')
    with Store(tmp_path).create(record([of])) as writer:
        one = launch(of, [], samples=(samples(latencies(of, 0)),))
        writer.launch(one)
        writer.outcome(Outcome(cell=of, launches=(one,)))
    rows = table.rows(Store(tmp_path).open("latest"))
    (read,) = csv.DictReader(io.StringIO(plain.to_csv(rows)))
    assert tuple(read) == table.COLUMNS
    assert read["recipe"] == "'=cmd"
    assert read["device"] == 'p,"i"'
    assert read["flags"] == "a b"
    assert read["energy_mj"] == ""
    assert float(read["latency_p50_ms"]) == rows[0]["latency_p50_ms"]


def test_json_is_the_interfaces(tmp_path: Path) -> None:
    run = Store(tmp_path).open(whole_run(tmp_path))
    document = json.loads(plain.json_text(plain.document(run.id, table.rows(run))))
    assert document == {"run": run.id, "rows": table.rows(run)}


def test_markdown_has_the_table_and_the_reasons(tmp_path: Path) -> None:
    run = Store(tmp_path).open(whole_run(tmp_path))
    text = markdown.markdown(table.rows(run))
    lines = text.splitlines()
    assert lines[0].startswith("| model | recipe | device | status | p50 ms |")
    assert lines[1].startswith("| --- | --- | --- | --- | ---: |")
    assert "kws int16x8 on pi: not\\_built: no calibration data" in lines
    compared = markdown.records(table.compare([run, run]), ("recipe", "ratio", "difference"))
    assert compared.splitlines()[0] == "| recipe | ratio | difference |"
    assert "| float32 | 1 | below noise |" in compared


@settings(deadline=None)
@given(
    st.lists(st.floats(min_value=1e-5, max_value=1e6), min_size=1, max_size=20),
    st.floats(min_value=1e-6, max_value=1e7),
)
def test_an_axis_holds_its_values(values: list[float], other: float) -> None:
    axis = charts.Axis(values, 100, 500)
    assert all(100 <= axis.at(value) <= 500 for value in (*values, other, 0.0))
    ordered = sorted(values)
    places = [axis.at(value) for value in ordered]
    assert places == sorted(places)
    assert 1 <= len(axis.ticks()) <= 8


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(min_value=1e-6, max_value=1e6))
def test_round_steps_are_few_and_inside(low: float, span: float) -> None:
    steps = charts.round_steps(low, low + span)
    slack = 1e-6 * (abs(low) + span)
    assert len(steps) <= 7
    assert all(low - slack <= step <= low + span + slack for step in steps)


def test_charts_of_one_value_are_drawn() -> None:
    one = charts.Box(label="a", p5=1, p25=1, p50=1, p75=1, p95=1, medians=(1,))
    zero = charts.Box(label="b", p5=0, p25=0, p50=0, p75=0, p95=0, medians=())
    for svg in (
        charts.boxes([one]),
        charts.boxes([zero]),
        charts.ecdf([charts.Curve(values=(0.0, 0.0))]),
        charts.ecdf([charts.Curve(values=(2.0,))]),
        charts.bars([charts.Bar(label="a", value=0, text="0")]),
        charts.scatter([charts.ChartPoint(label="a", x=1, y=1)], ["d"], "x", "y"),
    ):
        page = Page(svg)
        assert page.elements[0][0] == "svg"
        assert "nan" not in svg


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("é_1; `edge-harness run a_b.toml` goes on", "é\\_1; `edge-harness run a_b.toml` goes on"),
        ("`<b>`", "\\`\\<b\\>\\`"),
        ("a ` b <i> `c_d`", "a \\` b \\<i\\> `c_d`"),
        ("``<i>` x_y", "\\`\\`\\<i\\>\\` x\\_y"),
        ("`[a](http://b)`", "\\`\\[a\\](http://b)\\`"),
    ],
)
def test_a_command_in_a_sentence_stays_one_and_nothing_else_does(text: str, written: str) -> None:
    assert markdown.prose(text) == written
