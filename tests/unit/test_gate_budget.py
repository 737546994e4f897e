"""A gate's budget of time, its fresh pairs, and the number of launches that it announces."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from test_gate_loop import SAME, SLOWER, A, B, Watch, contest, hold, only, session, timed

from harness.analysis.gate import judging, loop
from harness.analysis.gate.contest import CONFIRMING, Rules
from harness.analysis.gate.document import Result
from harness.config import plans
from harness.errors import ConfigError
from harness.events import Event, MeasuringStarted, Note
from harness.measure.conditions import WaitClock
from harness.measure.pairs import MAX_PAIRS
from harness.present.screen import ScreenProgress

MUCH_SLOWER = {A: 1e6, B: 1.25e6}


class Clock:
    """A clock that moves two seconds per timed launch."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, _: float) -> None:
        self.now += 2.0


def held(budget_seconds: float, **answers: Any) -> tuple[Result, Watch, Clock]:
    clock = Clock()
    rules = Rules(metrics=("latency",), budget_seconds=budget_seconds)
    given = {"latencies": MUCH_SLOWER, "noise_of_launches": 0.1} | answers
    result, watch = hold(rules=rules, clock=clock, spend=clock.spend, **given)
    return result, watch, clock


def test_the_first_pairs_leave_time_to_confirm() -> None:
    free, watch, _ = held(1000)
    assert only(free).pairs > 10
    result, watch, clock = held(100)
    assert (only(result).verdict, only(result).confirmed) == ("REGRESSION", True)
    assert 6 <= only(result).pairs <= 12
    assert clock.now <= 100
    assert not any(isinstance(event, Note) for event in watch.events)


def test_a_budget_too_short_to_confirm_is_announced_with_the_least_that_is_not() -> None:
    result, watch, _ = held(50)
    (note,) = [event for event in watch.events if isinstance(event, Note)]
    assert note.reason.startswith("m r: the budget of 50 s is too short to confirm a regression")
    least = re.search(r"set gate.budget_seconds to (\d+) or more", note.reason)
    assert least is not None
    assert only(result).verdict == "INCONCLUSIVE"
    assert re.search(
        r"only \d of 10 fresh pairs .* set gate.budget_seconds to", only(result).reason
    )
    again, watch, _ = held(float(least[1]))
    assert (only(again).verdict, watch.events) == ("REGRESSION", [])


def test_a_budget_too_short_for_a_verdict_is_refused_before_the_first_pair() -> None:
    result, watch, _ = held(20)
    assert timed(watch) == []
    assert only(result).verdict == "INCONCLUSIVE"
    assert (
        "the budget of 20 s is too short for 6 pairs (a pair takes about 5.2 s"
        in only(result).reason
    )


def test_an_equal_pair_needs_no_time_to_confirm() -> None:
    result, _, clock = held(60, latencies=SAME, noise_of_launches=0.0)
    assert (only(result).verdict, clock.now < 60) == ("EQUIVALENT", True)


@pytest.mark.parametrize(
    ("dose", "budget", "least"),
    [
        ("", 20, 21),
        ("min_seconds = 3\nwarmup_seconds = 1", 100, 128),
        ('scenario = "sustained"\nsustained_minutes = 1', 300, 1920),
    ],
)
def test_a_plan_whose_launches_alone_take_longer_is_refused(
    dose: str, budget: float, least: int, tmp_path: Any
) -> None:
    (tmp_path / "m.tflite").write_bytes(b"")
    text = f'[model]\nname = "m"\npath = "m.tflite"\n[run]\nrecipes = ["as_is"]\n[dose]\n{dose}\n'
    path = tmp_path / "plan.toml"
    path.write_text(f"{text}[gate]\nbudget_seconds = {budget}\n")
    with pytest.raises(ConfigError, match=f"take at least {least} s; raise it to {least} or more"):
        Rules.of(plans.load(path))
    path.write_text(f"{text}[gate]\nbudget_seconds = {least}\n")
    assert Rules.of(plans.load(path)).budget_seconds == least


def test_a_clear_difference_needs_six_pairs_and_ten_that_confirm() -> None:
    result, watch = hold(latencies={A: 5e4, B: 1.1e5}, noise_of_launches=0.03)
    assert (only(result).verdict, only(result).pairs) == ("REGRESSION", 6)
    assert len(timed(watch)) == 32


@pytest.mark.parametrize("metrics", [("latency",), ("latency", "memory"), ("memory", "size")])
def test_only_the_launches_of_rows_to_confirm_are_repeated(metrics: tuple[str, ...]) -> None:
    _, watch = hold(rules=Rules(metrics=metrics), latencies=SLOWER)
    fresh = [one for one in watch.launches if one.block >= CONFIRMING]
    assert {one.kind for one in fresh} == ({"timed"} if "latency" in metrics else set())


def test_the_counter_never_passes_what_it_announced() -> None:
    names = ("m", "n", "o")
    contests = [replace(contest(name)) for name in names]
    rules = Rules(metrics=("latency", "load", "memory"))
    stream = io.StringIO()
    screen = ScreenProgress(file=stream)
    counts: list[tuple[int, int]] = []

    def emit(event: Event) -> None:
        screen(event)
        counts.append((screen._done_launches, screen._launches))

    cells = tuple(side.cell for one in contests for side in (one.a, one.b))
    announced = 2 * (rules.timed_pairs + rules.memory_pairs) * len(contests)
    emit(MeasuringStarted(cells=cells, launches=announced, at_most=True))
    context = loop.GateContext(
        sessions={"d": session(latencies=SLOWER, noise=0.02)},
        emit=emit,
        profiles={},
        rules=rules,
        timing=WaitClock(sleep=lambda _: None),
    )
    result = judging.gate(context, contests, Result(baseline="a", candidate="b"))
    context.close()
    assert result.exit_code == 1
    assert all(done <= launches for done, launches in counts)
    done, launches = counts[-1]
    assert done == launches
    assert rules.timed_pairs == MAX_PAIRS
