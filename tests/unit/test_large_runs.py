"""Reading a stored run takes work in proportion to its rows: counted in lines run, not in seconds."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import large_runs
import pytest
import synthetic_runs as synthetic

import harness
from harness.analysis.pick import choose_of
from harness.present import notebook
from harness.present.report import exports, figures, html
from harness.records.store import Store, StoredRun
from harness.records.table.compare import compare_measured
from harness.records.table.rows import Measured, read, rows_of

FEW, MANY = 60, 240
GROWTH = 4.6
HARNESS = str(Path(harness.__file__).parent)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {}
    for count in (FEW, MANY):
        found[count] = tmp_path_factory.mktemp(str(count))
        large_runs.stored(found[count], count)
        rows_of(read(Store(found[count]).open("latest")))  # makes the cache of quantiles
    return found


def lines_run(action: Callable[[], object]) -> int:
    """Count the lines of the project that an action runs; a comprehension's steps are lines too."""
    count = 0

    def local(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        return local if frame.f_code.co_filename.startswith(HARNESS) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


READINGS: dict[str, Callable[[StoredRun], object]] = {
    "read": read,
    "runs": lambda run: Store(run.path.parent).runs(),
    "resume": lambda run: Store(run.path.parent).resume("latest", "0" * 64).close(),
}
SHOWINGS: dict[str, Callable[[Measured], object]] = {
    "rows": rows_of,
    "show": lambda measured: notebook.text(rows_of(measured)),
    "page": html.page_of,
    "compare": lambda measured: compare_measured([measured, measured]),
    "pick": lambda measured: choose_of(measured, minimize="latency_p50_ms"),
    "pick size": lambda measured: choose_of(measured, minimize="size_bytes").plain(),
    **{
        f"export {form}": functools.partial(exports.write, form=form, emulated=False)
        for form in exports.FORMATS
    },
}


@pytest.mark.parametrize("name", READINGS)
def test_four_times_the_rows_take_four_times_the_reading(name: str, roots: dict[int, Path]) -> None:
    few, many = (
        lines_run(functools.partial(READINGS[name], Store(roots[count]).open("latest")))
        for count in (FEW, MANY)
    )
    assert many <= GROWTH * few, f"{few:,} lines for {FEW} rows, {many:,} for {MANY}"


@pytest.mark.parametrize("name", SHOWINGS)
def test_four_times_the_rows_take_four_times_the_work(name: str, roots: dict[int, Path]) -> None:
    few, many = (
        lines_run(functools.partial(SHOWINGS[name], read(Store(roots[count]).open("latest"))))
        for count in (FEW, MANY)
    )
    assert many <= GROWTH * few, f"{few:,} lines for {FEW} rows, {many:,} for {MANY}"


def test_lost_lines_take_work_in_proportion(roots: dict[int, Path], tmp_path: Path) -> None:
    counts = []
    for count in (FEW, MANY):
        root = tmp_path / str(count)
        root.mkdir()
        large_runs.stored(root, count)
        run = Store(root).open("latest")
        for name in ("launches.jsonl", "outcomes.jsonl"):
            lines = (run.path / name).read_bytes().splitlines(keepends=True)
            (run.path / name).write_bytes(b"".join(lines[count // 2 :]))
        (run.path / "contents.json").unlink()
        counts.append(lines_run(lambda run=run: read(run)))
    assert counts[1] <= GROWTH * counts[0]


def test_the_page_of_many_rows_limits_its_charts(
    roots: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MAX_CHART_ROWS", 10)
    monkeypatch.setattr(figures, "MAX_DEVICES", 2)
    monkeypatch.setattr(html, "_MAX_ROWS", 50)
    text = html.page(Store(roots[FEW]).open("latest"))
    assert text.count('class="median"') == 2 * 10
    assert "up to 10 rows of a device, the fastest, of up to 2 devices" in text
    assert "the first 24 of" in text
    assert f"{FEW - 50} more rows not shown here" in text
    assert f"{FEW} cells" in text


def test_the_files_of_launches_give_the_same_quantiles_as_the_merged_one(tmp_path: Path) -> None:
    cells = [synthetic.cell(f"int8@{number}") for number in range(3)]
    with Store(tmp_path).create(synthetic.record(cells)) as writer:
        for one in cells:
            synthetic.measure(writer, one, n=40)
        own = read(writer_run := Store(tmp_path).open(writer.id)).quantiles
        (writer_run.path / "quantiles.json").unlink()
        writer.finish()
    assert read(Store(tmp_path).open("latest")).quantiles == own
