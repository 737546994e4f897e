"""A gate's budget of time, its fresh pairs, and the number of launches that it announces."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_gate_loop import DEVICE, SAME, SLOWER, A, B, Watch, contest, hold, only, session, timed

from harness.analysis.gate import budget as gate_budget
from harness.analysis.gate import judging, loop
from harness.analysis.gate.contest import CONFIRMING, Rules
from harness.analysis.gate.document import Result
from harness.config import plans
from harness.errors import ConfigError
from harness.events import Event, MeasuringStarted, Note
from harness.measure import blocks
from harness.measure.conditions import WaitClock
from harness.measure.pairs import MAX_PAIRS
from harness.measure.sessions import Session
from harness.present.screen import ScreenProgress
from harness.testing import FakeDialect, FakeTransport
from harness.types import Launch, LaunchOrder, Plan

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
    result, watch, clock = held(50)
    (note,) = [event for event in watch.events if isinstance(event, Note)]
    assert note.reason.startswith("m r: the budget of 50 s is too short to confirm a regression")
    least = re.search(r"set gate.budget_seconds to (\d+) or more", note.reason)
    assert least is not None
    assert only(result).verdict == "INCONCLUSIVE"
    assert re.search(
        r"only \d of 10 fresh pairs .* set gate.budget_seconds to", only(result).reason
    )
    assert clock.now <= 50
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


PLAN = '[model]\nname = "m"\npath = "m.tflite"\n[run]\nrecipes = ["as_is"]\n'


def planned(folder: Path, dose: str, budget: float) -> Plan:
    (folder / "m.tflite").write_bytes(b"")
    path = folder / "plan.toml"
    path.write_text(f"{PLAN}[dose]\n{dose}\n[gate]\nbudget_seconds = {budget}\n")
    return plans.load(path)


@pytest.mark.parametrize(
    ("dose", "budget", "least", "enough"),
    [
        ("", 47, 48, 195),
        ("min_seconds = 1", 47, 48, 115),
        ("min_seconds = 3\nwarmup_seconds = 1", 100, 128, 215),
        ('scenario = "sustained"\nsustained_minutes = 1', 300, 1920, 2475),
    ],
)
def test_a_plan_whose_launches_alone_take_longer_is_refused(
    dose: str, budget: float, least: int, enough: int, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match=f"take at least {least} s, and more with their starts; raise it to {enough} or more",
    ):
        Rules.of(planned(tmp_path, dose, budget))
    assert Rules.of(planned(tmp_path, dose, least)).budget_seconds == least


class Paced(FakeDialect):
    """A device whose launches take as long as their dose says, and the start of a process."""

    clock: Clock
    start: float
    pace = 1.0

    def launch(self, order: LaunchOrder) -> Launch:
        launch = super().launch(order)
        lasted = blocks.seconds(order.dose, self.latencies[order.variant_digest])
        self.clock.now += self.pace * (self.start + lasted)
        return launch


def on_paced(
    plan: Plan, *, start: float, latency_ns: float, pace: float = 1.0, slower: float = 1.3
) -> tuple[Result, Watch, Clock]:
    """Run a plan's gate on a device with this pace."""

    class Device(Paced):
        clock = Clock()

    Device.start, Device.pace = start, pace
    latencies = {A: latency_ns, B: slower * latency_ns}
    dialect = Device.opener(latencies=latencies, noise=0.002)
    live = {"d": Session(DEVICE, transport=FakeTransport, dialect=dialect)}
    one = contest()
    sides = {
        name: replace(side, cell=replace(side.cell, dose=gate_budget.dose(plan)))
        for name, side in (("a", one.a), ("b", one.b))
    }
    one = replace(one, **sides, stretch=gate_budget.stretches(plan))
    rules = replace(Rules.of(plan), metrics=("latency",))
    result, watch = hold([one], rules=rules, sessions=live, clock=Device.clock)
    return result, watch, Device.clock


def hinted(text: str) -> float:
    found = re.search(r"(?:raise it|set gate.budget_seconds) to (\d+) or more", text)
    assert found, text
    return float(found[1])


DEVICES = pytest.mark.parametrize(
    ("start", "latency_ns"), [(0.25, 4e4), (1.0, 4e4), (2.0, 4e4), (0.3, 3.2e6)]
)


@DEVICES
def test_the_budget_that_a_refusal_names_holds_as_typed(
    start: float, latency_ns: float, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        Rules.of(planned(tmp_path, "", 12))
    plan = planned(tmp_path, "", hinted(str(refused.value)))
    result, watch, _ = on_paced(plan, start=start, latency_ns=latency_ns)
    assert (only(result).verdict, only(result).confirmed, watch.events) == ("REGRESSION", True, [])


@DEVICES
@pytest.mark.parametrize("budget", [48, 60, 70])
@pytest.mark.parametrize("pace", [1.0, 1.15])
def test_the_budget_that_a_gate_names_holds_as_typed(
    start: float, latency_ns: float, budget: float, pace: float, tmp_path: Path
) -> None:
    result, watch, clock = on_paced(
        planned(tmp_path, "", budget), start=start, latency_ns=latency_ns
    )
    assert clock.now <= budget
    if only(result).confirmed:
        return
    after = hinted(only(result).reason)
    for event in watch.events:
        assert hinted(event.reason) == pytest.approx(after, abs=15)  # type: ignore[attr-defined]
    plan = planned(tmp_path, "", after)
    again, watch, clock = on_paced(plan, start=start, latency_ns=latency_ns, pace=pace)
    assert (only(again).verdict, only(again).confirmed) == ("REGRESSION", True)
    assert (watch.events, clock.now <= after) == ([], True)


def test_a_row_that_more_pairs_would_decide_names_the_budget_that_ended_them() -> None:
    given: Any = {"latencies": {A: 1e6, B: 1.08e6}, "noise_of_launches": 0.08}
    result, _, clock = held(60, **given)
    assert (only(result).verdict, clock.now <= 60) == ("INCONCLUSIVE", True)
    reason = only(result).reason
    assert (
        "pairs would decide; the budget of 60 s ended the first pairs at 6 of at most 20, with time "
        "left to confirm them; set gate.budget_seconds to "
    ) in reason
    again, _, _ = held(hinted(reason), **given)
    assert "budget" not in only(again).reason
    assert result.plain()["contests"][0]["out_of_budget"] == 60
    assert again.plain()["contests"][0]["out_of_budget"] is None


def test_a_selftest_keeps_no_time_to_confirm() -> None:
    rules = Rules(metrics=("latency",), budget_seconds=90, half_width=0.0, is_selftest=True)
    clock = Clock()
    hold(rules=rules, latencies=SAME, noise_of_launches=0.1, clock=clock, spend=clock.spend)
    assert 80 <= clock.now <= 90


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
