"""A slice of the fault campaign that `python benchmarks/run.py faults` runs whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from conftest import missing

from . import x86
from .campaign import NOTICED_SECONDS, STATES, Campaign, Wound, at_random, crossed, possible
from .tools import why_not


def test_the_campaign_crosses_every_state_with_every_fault_that_it_can_have() -> None:
    pairs = {(wound.state, wound.fault) for wound in crossed()}
    assert len(pairs) == len(crossed()) > 150
    assert {state for state, _ in pairs} == set(STATES)
    assert ("commit", "child killed") not in pairs
    assert ("infer", "child killed") in pairs


def test_a_campaign_can_be_repeated() -> None:
    first, second = at_random(7), at_random(7)
    wounds = [next(first) for _ in range(50)]
    assert wounds == [next(second) for _ in range(50)]
    assert all(possible(wound.state, wound.fault) for wound in wounds)


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_a_dozen_faults_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = why_not(x86.TOOLS)
    if reason:
        missing(reason)
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    wounds = [*random.Random(1).sample(crossed(), 11), Wound("launch timed", "dead link")]
    with Campaign(tmp_path / "campaign", lanes=2) as campaign:
        battles = campaign.fight(wounds)
    assert [problem for battle in battles for problem in battle.problems] == []
    assert [trouble for battle in battles for trouble in battle.troubles] == []
    assert sum(wound.struck is not None for wound in wounds) >= 10
    noticed = [wound.noticed for wound in wounds if wound.noticed is not None]
    assert noticed
    assert max(noticed) <= NOTICED_SECONDS
    assert not any(wound.overlooked for wound in wounds)
