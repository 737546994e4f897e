"""Tables on narrow terminals: the answer stays, words stay whole, flags are said once."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_runs import cell, latencies, launch, record

from harness.events import MeasuringStarted, NotMeasured
from harness.present import screen
from harness.present.report import html, markdown
from harness.present.screen import grid
from harness.records import table
from harness.records.store import Store
from harness.records.table import display
from harness.types import Delegation, Outcome

RECIPES = ("float32", "prune(sparsity=0.5) > int8", "weight_only(bits=4, granularity='channel')")


def run_of(root: Path, devices: tuple[str, ...] = ("pi",), **flags: tuple[str, ...]) -> list[Any]:
    """Rows of RECIPES on devices; `flags` by device, and of the first recipe as `first`."""
    cells = [cell(recipe, device) for device in devices for recipe in RECIPES]
    with Store(root).create(record(cells)) as writer:
        for of in cells:
            own = flags.get("first", ()) if of.recipe == RECIPES[0] else ()
            made = [
                launch(of, latencies(of, block), block, flags=(*flags.get(of.device, ()), *own))
                for block in range(3)
            ]
            for one in made:
                writer.launch(one)
            writer.outcome(Outcome(cell=of, launches=tuple(made)))
        writer.finish()
    return table.rows(Store(root).open("latest"))


def printed(rows: list[Any], width: int | None) -> str:
    stream = io.StringIO()
    screen.table(rows, file=stream, width=width)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, None])
def test_the_answer_stays_and_words_stay_whole(tmp_path: Path, width: int | None) -> None:
    rows = run_of(tmp_path, ("this-machine", "bench-pi"))
    text = printed(rows, width)
    lines = text.splitlines()
    assert width is None or max(map(grid.cells, lines)) <= width
    words = set(text.split())
    for row in rows:
        assert set(row["recipe"].split()) <= words
        assert display.milliseconds(row["latency_p50_ms"]) in words
    assert {"54.3", "0.9000", "bench-pi", "this-machine", "ok"} <= words
    for title in ("size", "accuracy"):
        assert title in words


def test_what_is_the_same_in_every_row_is_named_once(tmp_path: Path) -> None:
    text = printed(run_of(tmp_path), 60)
    assert "in every row: model kws, device pi" in text
    assert "kws" not in text.partition("in every row")[0]


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.text("abc ≤模-=", max_size=30)] * 3), min_size=1, max_size=4),
    st.integers(20, 100),
)
def test_records_are_never_wider_than_the_terminal(rows: list[Any], width: int) -> None:
    columns = [
        grid.GridColumn(title=title, texts=[row[index] for row in rows], numeric=title == "n")
        for index, title in enumerate(("name", "n", "a longer title"))
    ]
    stream = io.StringIO()
    grid.write(columns, stream, width)
    assert max(map(grid.cells, stream.getvalue().splitlines())) <= width
    if grid.fits(columns, width):
        words = set(stream.getvalue().split())
        assert all(set(text.split()) <= words for row in rows for text in row)


def test_a_flag_of_all_rows_of_a_device_is_said_once(tmp_path: Path) -> None:
    rows = run_of(
        tmp_path, ("pi", "desk"), pi=("uncontrolled", "drift"), first=("unsteady",), desk=()
    )
    for text in (printed(rows, None), markdown.markdown(rows)):
        body, _, below = text.partition("every row of pi: drift, uncontrolled")
        assert "uncontrolled" not in body
        assert body.count("unsteady") == 2
        assert below.count("uncontrolled: the processor's frequency was not pinned") == 1
    assert set(rows[0]["flags"]) == {"uncontrolled", "drift", "unsteady"}


def test_the_terminal_explains_flags_as_the_page_does(tmp_path: Path) -> None:
    rows = run_of(tmp_path, first=("unsteady", "hot_start"))
    text = printed(rows, None)
    for flag, meaning in display.flag_meanings(rows).items():
        assert f"{flag}: {meaning}" in text.splitlines()
    page = html.page(Store(tmp_path).open("latest"))
    assert all(meaning in page for meaning in display.flag_meanings(rows).values())


def test_healthy_rows_are_not_among_the_faults(tmp_path: Path) -> None:
    cells = [cell("int8"), cell("float16@gpu", target="gpu"), cell("int8@gpu", target="gpu")]
    of_gpu = Delegation(
        delegate="gpu", delegated_ops=5, total_ops=5, partitions=1, evidence="graph walk"
    )
    given_of = {cells[1].id: of_gpu, cells[2].id: replace(of_gpu, delegated_ops=0, partitions=0)}
    with Store(tmp_path).create(record(cells)) as writer:
        for of in cells:
            made = launch(of, latencies(of, 0))
            made = replace(made, delegation=given_of.get(of.id, made.delegation))
            writer.launch(made)
            writer.outcome(Outcome(cell=of, launches=(made,)))
        writer.finish()
    rows = table.rows(Store(tmp_path).open("latest"))
    assert all("VALID: " not in line or "INVALID" in line for line in display.explained(rows))
    assert any(" ok, VALID: " in line for line in display.evidence(rows))
    page = html.page(Store(tmp_path).open("latest"))
    (faults,) = re.findall(r'<ul class="plain reasons">.*?</ul>', page, re.DOTALL)
    assert "fell_back" in faults
    assert "ok, VALID" not in faults
    assert "ok, VALID" in page


def test_what_a_device_cannot_do_is_reported_once() -> None:
    stream = io.StringIO()
    cells = tuple(cell(recipe, device) for device in ("pi", "desk") for recipe in RECIPES)
    with screen.ScreenProgress(file=stream) as progress:
        progress(MeasuringStarted(cells=cells, launches=9))
        for of in cells:
            for what in ("outputs", "bare", "memory"):
                progress(NotMeasured(cell=of.id, what=what, reason="the dialect makes none"))
    lines = stream.getvalue().splitlines()[1:]
    assert sorted(lines) == sorted(
        f"{device}: no {what}: the dialect makes none"
        for device in ("pi", "desk")
        for what in ("outputs", "bare launches", "memory launches")
    )
