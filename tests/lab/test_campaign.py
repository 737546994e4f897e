"""Run a part of the fault campaign; `python benchmarks/run.py faults` runs all of it."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from conftest import missing

from . import x86
from .campaign import (
    BURST_FAULTS,
    BURST_SECONDS,
    MAX_BURST,
    NOTICED_SECONDS,
    PASSING_FAULTS,
    STATES,
    Campaign,
    PlannedFault,
    at_random,
    bursts,
    crossed,
    possible,
)
from .tools import why_not


def test_the_campaign_combines_every_state_with_every_possible_fault() -> None:
    pairs = {(planned.state, planned.fault) for planned in crossed()}
    assert len(pairs) == len(crossed()) > 150
    assert {state for state, _ in pairs} == set(STATES)
    assert ("commit", "child killed") not in pairs
    assert ("infer", "child killed") in pairs


def test_a_campaign_can_be_repeated() -> None:
    first, second = at_random(7), at_random(7)
    planned_faults = [next(first) for _ in range(50)]
    assert planned_faults == [next(second) for _ in range(50)]
    assert all(possible(planned.state, planned.fault) for planned in planned_faults)


def test_a_burst_is_two_to_five_faults_that_pass_within_ten_seconds() -> None:
    several = bursts(7)
    for planned in [next(several) for _ in range(200)]:
        ends = BURST_FAULTS[planned.fault]
        assert 1 <= len(planned.more) < MAX_BURST
        for seconds, fault in planned.more:
            assert ends < seconds < BURST_SECONDS, "the fault before it has passed"
            ends = seconds + BURST_FAULTS[fault]
    assert set(BURST_FAULTS) < PASSING_FAULTS


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_a_dozen_faults_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = why_not(x86.TOOLS)
    if reason:
        missing(reason)
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    planned_faults = [
        *random.Random(1).sample(crossed(), 11),
        *islice(bursts(2), 3),
        PlannedFault("launch timed", "dead link"),
    ]
    with Campaign(tmp_path / "campaign", lanes=2) as campaign:
        results = campaign.run(planned_faults)
    assert [problem for result in results for problem in result.problems] == []
    assert [error for result in results for error in result.errors] == []
    ended = sum((result.statuses for result in results), Counter[tuple[str, str]]())
    assert [key for key in ended if key[0] in PASSING_FAULTS and key[1] != "ok"] == []
    assert sum(planned.injected_at is not None for planned in planned_faults) >= 10
    noticed = [
        planned.notice_seconds for planned in planned_faults if planned.notice_seconds is not None
    ]
    assert noticed
    assert max(noticed) <= NOTICED_SECONDS
    assert not any(planned.overlooked for planned in planned_faults)
