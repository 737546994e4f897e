from __future__ import annotations

import io
import os
import re
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from synthetic_runs import cell, latencies, launch, measure, record, whole_run

from harness.events import (
    BuildProgress,
    CellEnded,
    Confirming,
    LaunchEnded,
    LaunchStarted,
    LeaseLost,
    MeasuringStarted,
    Note,
    NotMeasured,
    OutputsChecked,
    Pushing,
    Reconnected,
    Reconnecting,
    Waiting,
)
from harness.present import screen
from harness.present.screen import grid as screen_grid
from harness.present.screen.pushes import PushLines, text
from harness.records import table
from harness.records.store import Store
from harness.records.table import display
from harness.types import Agreement, Failure, LaunchOrder, Outcome, PushProgress

HOSTILE = "[red]x[/red]\x1b[31m\x1b]0;title\x07\r\n\u202egpj.exe"


def printed(rows: list[table.Row], width: int | None = None, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    screen.table(rows, file=stream, width=width)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.fixture
def rows(tmp_path: Path) -> list[table.Row]:
    return table.rows(Store(tmp_path).open(whole_run(tmp_path)))


def test_into_a_pipe_nothing_is_left_out(rows: list[table.Row]) -> None:
    text = printed(rows)
    lines = text.splitlines()
    for title in ("model", "recipe", "p50 ms", "p90 ms", "load ms", "peak MB", "accuracy", "size"):
        assert title in lines[0]
    assert re.search(r"float32 +pi +ok +0\.\d{3} ±\d+\.\d% +0\.\d{3}", text)
    assert "54.3 kB" in text
    assert "kws int16x8 on pi: not_built: no calibration data" in lines
    assert "not shown" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_a_narrow_terminal_loses_the_least_columns_first(rows: list[table.Row], width: int) -> None:
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    assert "p50" in text
    if width < 100:
        assert re.search(
            r"not shown because the terminal is too narrow: .*load ms, first ms, .*model MB",
            " ".join(text.split()),
        )


def test_an_ascii_terminal_gets_ascii(rows: list[table.Row]) -> None:
    text = printed(rows, encoding="ascii")
    assert "+-" in text


def test_hostile_text_is_harmless_everywhere(tmp_path: Path) -> None:
    of = cell(HOSTILE, device=HOSTILE, flags=(HOSTILE,))
    with Store(tmp_path).create(record([of])) as writer:
        writer.outcome(Outcome(cell=of, failure=Failure(kind=HOSTILE, reason=HOSTILE)))
    rows = table.rows(Store(tmp_path).open("latest"))
    stream = io.StringIO()
    screen.table(rows, file=stream)
    screen.records(rows, file=stream)
    screen.record(rows[0], file=stream)
    screen.inspection({"operators": rows, "x": HOSTILE}, file=stream)
    screen.comparison(table.compare([Store(tmp_path).open("latest")] * 2), file=stream)
    screen.checks({HOSTILE: [Examined(HOSTILE)]}, file=stream)
    with screen.ScreenProgress(file=stream) as progress:
        progress(built(model=HOSTILE, stage=HOSTILE, status=HOSTILE))
        progress(MeasuringStarted(cells=(of,), launches=1))
        progress(CellEnded(outcome=Outcome(cell=of, failure=Failure(kind="a", reason=HOSTILE))))
        for kind in (Waiting, Reconnecting, LeaseLost, Reconnected, Note):
            progress(kind(device=HOSTILE, reason=HOSTILE))
        progress(NotMeasured(cell=HOSTILE, what=HOSTILE, reason=HOSTILE))
        progress(Confirming(row=HOSTILE, reason=HOSTILE, launches=2))
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "[red]x[/red]" in text


AGREEMENT = Agreement(samples=1, top1=1.0, relative_error=0.0)


def built(**changes: Any) -> BuildProgress:
    usual: dict[str, Any] = {"model": "kws", "recipe": "int8", "stage": "int8", "status": "done"}
    return BuildProgress(**{**usual, **changes})


@dataclass(frozen=True)
class Examined:
    status: str

    def plain(self) -> dict[str, Any]:
        return {"name": "python", "status": self.status, "detail": "3.8", "mend": "apt install x"}


def test_checks_show_their_fix() -> None:
    stream = io.StringIO()
    screen.checks({"pi": [Examined("fail")]}, file=stream)
    assert stream.getvalue().splitlines() == [
        *("pi", "  fail  python: 3.8", "          fix: apt install x")
    ]


@dataclass(frozen=True)
class Fixable:
    mend: str
    fix: dict[str, Any]
    status: str = "warn"

    def plain(self) -> dict[str, Any]:
        return {"name": "x", "status": "warn", "detail": "y", "mend": self.mend, "fix": self.fix}


def test_the_command_of_a_fix_stands_alone_and_the_rest_is_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill = "ssh -t pi@10.0.0.7 'sudo kill 123 456' --with-a-line-that-is-longer-than-the-terminal"
    long = "as root on the device (this account has no sudo): mount -o remount,rw /; then again"
    fixes = [
        Fixable(f"{kill}; only if they can be stopped, else wait", {"command": kill}),
        Fixable(long, {"command": None, "root_command": "mount -o remount,rw /"}),
        Fixable("use a supply of 5 V and 3 A on a short cable; a reboot clears it", {}),
    ]
    monkeypatch.setattr(screen_grid, "terminal_width", lambda _: 60)
    stream = io.StringIO()
    screen.checks({"pi": fixes}, file=stream)
    lines = [line for line in stream.getvalue().splitlines() if not line.startswith("  warn")]
    assert lines == [
        "pi",
        f"          fix: {kill}",
        "               only if they can be stopped, else wait",
        "          fix: as root on the device (this account has no",
        "               sudo):",
        "               mount -o remount,rw /",
        "               then again",
        "          fix: use a supply of 5 V and 3 A on a short cable;",
        "               a reboot clears it",
    ]


def test_records_leave_empty_columns_out() -> None:
    stream = io.StringIO()
    screen.records(
        [{"name": "a", "n": 1, "none": None, "tags": []}, {"name": "b" * 130, "n": 2.5}],
        file=stream,
    )
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["name", "n"]
    assert "b" * 130 in lines[3]
    screen.records([], file=stream)
    screen.table([], file=stream)
    assert stream.getvalue().splitlines()[-2:] == ["nothing", "no rows"]


def test_a_record_is_printed_value_by_value() -> None:
    stream = io.StringIO()
    inner = {"machine": ["aarch64"], "model": ["a long name of a board " * 4]}
    screen.record({"name": "pi", "detect": inner, "none": None, "on": True}, file=stream)
    assert stream.getvalue().splitlines() == [
        *("name: pi", "detect:", "  machine: aarch64", "  model:"),
        "    " + ("a long name of a board " * 4).strip(),
        "on: yes",
    ]


def test_comparison_names_runs_and_noise(tmp_path: Path) -> None:
    store = Store(tmp_path)
    runs = [store.open(whole_run(tmp_path, scale=scale)) for scale in (1.0, 1.0, 2.0)]
    stream = io.StringIO()
    screen.comparison(table.compare(runs), file=stream)
    text = stream.getvalue()
    assert "below noise" in text
    assert "slower" in text
    assert "2.000" in text


@settings(deadline=None)
@given(st.text())
@example("a\u2028b\u2029c\x0bd\x85e")
def test_clean_text_is_one_printable_line(text: str) -> None:
    got = display.clean(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", got)
    assert len(got.splitlines()) <= 1


def order() -> LaunchOrder:
    of = cell()
    return LaunchOrder(
        cell_id=of.id,
        kind="timed",
        block=0,
        position=0,
        variant_digest="0" * 64,
        target="xnnpack",
        threads=1,
        dose=of.dose,
    )


def drive(progress: screen.ScreenProgress) -> None:
    of = cell()
    with progress:
        progress(built(status="started"))
        progress(built(seconds=0.4))
        progress(built(recipe=None, stage="convert", status="started"))
        progress(built(recipe=None, stage="convert", status="cached"))
        progress(MeasuringStarted(cells=(of,), launches=2))
        made = launch(of, latencies(of, 0))
        for _ in range(2):
            progress(LaunchStarted(cell=of, order=order()))
            progress(LaunchEnded(launch=made))
        progress(OutputsChecked(cell=of.id, agreement=AGREEMENT))
        progress(CellEnded(outcome=Outcome(cell=of, launches=(replace(made, samples=()),))))


def test_progress_into_a_file_is_plain_lines() -> None:
    stream = io.StringIO()
    drive(screen.ScreenProgress(file=stream))
    lines = stream.getvalue().splitlines()
    assert lines[:4] == [
        "kws int8: int8 done in 0.4 s",
        "kws: convert...",
        "kws: convert from the cache",
        "measuring 1 cell, 2 launches",
    ]
    assert re.fullmatch(r"\[1/1\] kws int8 on pi: ok, p50 0\.\d+ ms", lines[4])
    assert len(lines) == 5


def test_quiet_progress_says_what_went_wrong_only() -> None:
    stream = io.StringIO()
    progress = screen.ScreenProgress(file=stream, quiet=True)
    drive(progress)
    assert stream.getvalue() == ""
    failure = Failure(kind="silent", reason="no answer")
    progress(CellEnded(outcome=Outcome(cell=cell(), failure=failure)))
    assert "silent: no answer" in stream.getvalue()


def pushing(arrived: int, speed: float = 12_000.0) -> Pushing:
    name = "ab" * 32 + ".tflite"
    progress = PushProgress(
        name=name, arrived_bytes=arrived, file_bytes=3_000_000, bytes_per_second=speed
    )
    return Pushing(device="pi", progress=progress)


def test_a_long_push_has_a_line_every_ten_seconds_and_a_short_one_none() -> None:
    now = [0.0]
    lines = PushLines(clock=lambda: now[0])
    shown = []
    for second in range(31):
        now[0] = float(second)
        shown.append(lines.line(pushing(12_000 * second)))
    printed = {second: line for second, line in enumerate(shown) if line}
    assert list(printed) == [2, 12, 22]
    assert printed[12] == "pi: sending abababababab.tflite: 0.1 of 3.0 MB, 12.0 kB/s, 4 min left"
    now[0] = 31.0
    other = replace(pushing(1), progress=replace(pushing(1).progress, name="other"))
    assert lines.line(other) is None
    assert PushLines().line(pushing(1)) is None
    now[0] = 35.0
    halted = replace(pushing(1), progress=replace(other.progress, bytes_per_second=0.0))
    agent = replace(pushing(1).progress, name="ab" * 32 + ".zip")
    assert text(replace(pushing(1), progress=agent)).startswith("sending the agent: 0.0 of 3.0 MB")
    assert lines.line(halted) == "pi: sending other: 0.0 of 3.0 MB, nothing moves"


def test_a_long_push_is_shown_also_beside_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.present.screen.pushes._FIRST_AFTER_SECONDS", 0.0)
    stream = io.StringIO()
    progress = screen.ScreenProgress(file=stream, quiet=True)
    progress(pushing(1000))
    progress(pushing(2000))
    progress(pushing(3000))
    assert stream.getvalue().count("sending") == 1


def test_long_work_shows_signs_of_life_also_beside_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.present.screen.progress._QUIET_EVERY_SECONDS", -1.0)
    stream = io.StringIO()
    drive(screen.ScreenProgress(file=stream, quiet=True))
    assert "launch 1 of 2" in stream.getvalue()
    slow = BuildProgress(model="kws", recipe="qat", stage="qat", status="done", seconds=312.0)
    screen.ScreenProgress(file=stream, quiet=True)(slow)
    assert stream.getvalue().endswith("kws qat: qat done in 312.0 s\n")


def test_reconnections_are_counted() -> None:
    stream = io.StringIO()
    with screen.ScreenProgress(file=stream) as progress:
        progress(Reconnected(device="pi", times=1, seconds=2.8))
        progress(Reconnected(device="pi", times=2, seconds=0.4))
        progress(LeaseLost(device="pi", reason="pi: the lease file is gone"))
    assert stream.getvalue().splitlines() == [
        "pi: connected again after 3 s",
        "pi: connected again after 0 s (2 times so far)",
        "pi: lease lost (pi: the lease file is gone); taking it again",
    ]


@contextmanager
def terminal() -> Iterator[tuple[IO[str], array[int]]]:
    """Give the writing end of a real pseudo-terminal, and what arrives at the other."""
    leader, follower = os.openpty()
    got: array[int] = array("B")

    def drain() -> None:
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:
                return
            if not data:
                return
            got.frombytes(data)

    reader = threading.Thread(target=drain)
    reader.start()
    with os.fdopen(follower, "w", encoding="utf-8") as stream:
        yield stream, got
    reader.join(10)
    os.close(leader)


def test_progress_on_a_terminal_is_a_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    with terminal() as (stream, got):
        drive(screen.ScreenProgress(file=stream))
    text = got.tobytes().decode()
    assert "kws int8 on pi: ok, p50" in text
    assert "0/2" in text
    assert "\x1b[?25h" in text  # the cursor is back


def test_measured_runs_show_memory(tmp_path: Path) -> None:
    with Store(tmp_path).create(record([cell()])) as writer:
        measure(writer, cell())
    text = printed(table.rows(Store(tmp_path).open("latest")))
    assert "62.0" in text
    assert "12.0" in text
