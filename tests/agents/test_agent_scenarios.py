"""Launches of every scenario on this machine, with the shipped model."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from agent_lab import ROOT, SECONDS, SHORT, agent_module, digest_of

from harness.devices.dialects.python_agent.dialect import JsonLinesDialect
from harness.errors import Unsupported
from harness.measure import blocks
from harness.types import Dose, Launch, LaunchOrder, Samples

pytest_plugins = ("agent_fixtures",)
pytestmark = pytest.mark.usefixtures("own_cache")

DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"


@pytest.fixture
def launched(dialect: JsonLinesDialect) -> Callable[..., Launch]:
    """Launch the shipped model with a dose, given by its keys."""
    dialect.deploy({digest_of(DIGITS): DIGITS})

    def launch(inner_loop: int = 1, **dose: Any) -> Launch:
        order = LaunchOrder(
            cell_id="cell",
            kind="timed",
            block=0,
            position=0,
            variant_digest=digest_of(DIGITS),
            target="xnnpack",
            threads=1,
            dose=replace(SHORT, warmup_seconds=0.1, **dose),
            inner_loop=inner_loop,
            timeout_seconds=SECONDS,
        )
        return dialect.launch(order)

    return launch


def series(launch: Launch, name: str) -> Samples:
    (found,) = [one for one in launch.samples if one.series == name]
    return found


def test_a_stream_that_keeps_up(launched: Callable[..., Launch]) -> None:
    launch = launched(scenario="stream", period_ms=5.0, min_inferences=100, min_seconds=0.0)
    latency, service = series(launch, "latency"), series(launch, "service")
    assert launch.inferences == len(latency) == len(service) == 100
    # The schedule is never shifted.
    steps = {b - a for a, b in itertools.pairwise(latency.at_ns)}
    assert steps == {5_000_000}
    assert launch.missed_deadlines is not None
    assert launch.missed_deadlines <= 20  # none, on a machine with nothing else to do
    assert "backlog" not in launch.flags
    assert launch.cpu_share is None
    # No frame starts before its time, and each sample belongs to its frame.
    for due, late, begun, took in zip(
        latency.at_ns, latency.value, service.at_ns, service.value, strict=True
    ):
        assert begun >= due
        assert begun + took == due + late
    waited = statistics.median(latency.value) - statistics.median(service.value)
    assert 0 <= waited < 2_000_000


def test_a_stream_that_falls_behind(launched: Callable[..., Launch]) -> None:
    launch = launched(scenario="stream", period_ms=0.001, min_inferences=500, min_seconds=0.0)
    latency = series(launch, "latency")
    assert launch.inferences == len(latency) == 500
    assert launch.missed_deadlines is not None
    assert launch.missed_deadlines >= 495
    # Per frame the backlog grows by an inference's time minus the period.
    behind = sum(series(launch, "service").value) - 500 * 1_000
    assert latency.value[-1] >= behind > 0
    assert latency.value[-1] > 5 * latency.value[50]
    assert "drift" in launch.flags


def test_offline_counts_what_gets_done(launched: Callable[..., Launch]) -> None:
    def single() -> float:
        return statistics.median(series(launched(min_inferences=1000), "latency").value)

    p50 = single()
    block = blocks.inner_loop(p50, "offline")
    launch = launched(inner_loop=block, scenario="offline", min_seconds=0.3)
    latency = series(launch, "latency")
    assert set(latency.count) == {block}
    assert launch.inferences == block * len(latency)
    assert 2_000_000 < statistics.median(latency.value) * block < 50_000_000
    spent = sum(value * count for value, count in zip(latency.value, latency.count, strict=True))
    # Counting blocks instead of inferences would be off by the size of a block. On a busy machine
    # other work falls between inferences, so there is no upper bound.
    assert block > 8
    assert spent / launch.inferences > p50 / block * 2
    cpu_share = launch.cpu_share or 1.0
    assert spent / launch.inferences * cpu_share < p50 * block / 2


def test_sustained_lasts_its_minutes(launched: Callable[..., Launch]) -> None:
    launch = launched(scenario="sustained", sustained_minutes=0.03)
    latency = series(launch, "latency")
    assert launch.inferences >= len(latency)
    assert 1.5e9 < latency.at_ns[-1] - latency.at_ns[0] < 1.8e9
    assert launch.missed_deadlines is None
    looped = launched(inner_loop=3, scenario="sustained", sustained_minutes=0.01)
    assert set(series(looped, "latency").count) == {3}
    assert looped.inferences % 3 == 0


@pytest.mark.parametrize("change", [{"scenario": "poisson"}, {"inner_loop": 2}])
def test_a_scenario_that_is_not_served(
    launched: Callable[..., Launch], change: dict[str, Any]
) -> None:
    with pytest.raises(Unsupported, match="does not support scenario"):
        launched(**{"scenario": "stream", "period_ms": 5.0, **change})


class TickingClock:
    """Stands for the module `time`: a clock that goes on by 1 us at each reading."""

    def __init__(self) -> None:
        self._now = itertools.count(0, 1_000)

    def perf_counter_ns(self) -> int:
        return next(self._now)

    thread_time_ns = process_time_ns = perf_counter_ns


def test_a_long_launch_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = agent_module("timing")
    monkeypatch.setattr(timing, "time", TickingClock())
    done = itertools.count()
    dose = asdict(Dose(scenario="sustained", sustained_minutes=0.8 / 60))
    found = timing.measure(lambda: next(done), dose, 1, 1_000, 1)
    kept = len(found["taken"])
    assert "thinned" in found["flags"]
    assert kept == len(found["at"]) <= timing.SUSTAINED_SAMPLES
    assert found["inferences"] == next(done) > timing.SUSTAINED_SAMPLES
    # Every 2^n-th sample from first to last is kept, so all parts of the launch weigh the same.
    stride = 2 ** round(math.log2(found["inferences"] / kept))
    assert kept == math.ceil(found["inferences"] / stride)
    steps = {after - before for before, after in itertools.pairwise(found["at"])}
    assert max(steps) - min(steps) <= 2_000


def test_frames_that_never_ran_are_missed() -> None:
    dose = Dose(scenario="stream", period_ms=1.0, min_inferences=1000, max_seconds=0.2)
    timing = agent_module("timing")
    found = timing.measure(lambda: time.sleep(0.02), asdict(dose), 1, 20_000_000, 1)
    ran = len(found["taken"])
    assert ran <= 11
    # 200 ms are 200 frames; the last one had not yet missed its deadline.
    assert 195 <= found["missed"] <= 300
    assert "backlog" in found["flags"]
    # Frames that fit into the time but are cut off at its end are not a backlog.
    dose = replace(dose, period_ms=50.0)
    found = timing.measure(lambda: None, asdict(dose), 1, 1_000, 1)
    assert 3 <= len(found["taken"]) <= 5
    assert "backlog" not in found["flags"]


def test_a_stream_lasts_its_least_seconds() -> None:
    dose = Dose(scenario="stream", period_ms=2.0, min_inferences=5, min_seconds=0.1)
    found = agent_module("timing").measure(lambda: None, asdict(dose), 1, 1_000, 1)
    assert len(found["taken"]) == 50
